"""The learner against PyTorch's optimiser, and what it does not import."""

import subprocess
import sys

import torch
from torch import nn

from seqrl.learner import Learner, WeightAverage


def step(learner, module, seed):
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(seed))
    return learner.update(module(x).square().sum())


# Breaks with another ε, or if the gradient is not clipped, or clipped after the step.
def test_it_is_adam_with_clipped_gradients():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    learner = Learner(ours, learning_rate=0.1, max_grad_norm=0.5)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.1, eps=1e-5, fused=True)
    for i in range(5):
        learner.learning_rate = optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        norm = step(learner, ours, i)
        optimizer.zero_grad()
        theirs(torch.randn(7, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
        assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.5))
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


# Breaks with `decoupled_weight_decay=False`: the decay then passes through Adam's moments.
def test_weight_decay_is_decoupled():
    """A parameter whose gradient is 0 shrinks by exactly the product of 1 − learning rate · λ; others as in AdamW."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    learner = Learner(ours, 0.1, 0.5, weight_decay=2.0)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1, eps=1e-5, weight_decay=2.0, fused=True)
    for i in range(5):
        learner.learning_rate = optimizer.param_groups[0]["lr"] = 0.1 / (i + 1)
        step(learner, ours, i)
        optimizer.zero_grad()
        theirs(torch.randn(7, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    module = nn.Linear(3, 2)
    before = module.weight.detach().clone()
    learner = Learner(module, 0.1, 0.5, weight_decay=2.0)
    for rate in (0.1, 0.05, 0.025):
        learner.learning_rate = rate
        learner.update((0 * module.weight).sum() + module.bias.sum())
    torch.testing.assert_close(module.weight.detach(), before * 0.8 * 0.9 * 0.95)


# Breaks if a step is counted for a parameter that has no gradient.
def test_a_parameter_that_the_loss_does_not_reach_stays():
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    learner = Learner(module, learning_rate=0.1, max_grad_norm=0.5)
    before = module["unused"].weight.clone()
    step(learner, module["used"], 0)
    assert torch.equal(module["unused"].weight, before)
    assert [int(count) for count in learner.step] == [1, 1, 0, 0]


# Breaks if one of the three parts is left out of the state.
def test_it_continues_where_it_was():
    torch.manual_seed(0)
    module, copy = nn.Linear(3, 2), nn.Linear(3, 2)
    learner, other = Learner(module, 0.1, 0.5), Learner(copy, 0.1, 0.5)
    for i in range(3):
        step(learner, module, i)
    copy.load_state_dict(module.state_dict())
    other.load_state_dict(learner.state_dict())
    step(learner, module, 3)
    step(other, copy, 3)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), copy.parameters(), strict=True))


# Breaks with torch.optim.Adam, whose first use imports torch._dynamo.
def test_training_does_not_import_the_compiler():
    program = (
        "import sys, torch; from seqrl.learner import Learner; m = torch.nn.Linear(1, 1); "
        "Learner(m, 0.1, 0.5).update(m(torch.ones(1, 1)).sum()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# Breaks with a fixed rate in place of 1 / count, or if the mean of before is kept after `apply`.
def test_an_average_is_the_mean_of_what_was_added():
    module = nn.Linear(3, 2)
    average, other, seen = WeightAverage(module), WeightAverage(module), []
    for i in range(6):
        nn.init.normal_(module.weight)
        module.bias.data.fill_(i)
        seen.append(module.weight.detach().clone())
        average.add()
        if i == 3:
            other.load_state_dict(average.state_dict())
        elif i > 3:
            other.add()
    average.apply()
    torch.testing.assert_close(module.weight.detach(), torch.stack(seen).mean(0))
    assert module.bias.tolist() == [2.5, 2.5]
    whole = module.weight.detach().clone()
    other.apply()
    assert torch.equal(module.weight, whole)
    module.bias.data.fill_(7)
    average.add()
    average.apply()
    assert module.bias.tolist() == [7, 7]
