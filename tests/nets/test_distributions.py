"""Distributions against PyTorch's own, and by drawing from them."""

import math

import pytest
import scipy.stats
import torch
from torch import distributions

from seqrl.nets import Categorical, EpsilonGreedy, Gaussian, MultiCategorical


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(bound, mean, log_std, low=-1.0, high=1.0):
    size = mean.shape[-1]
    return Gaussian(mean, log_std, torch.full((size,), low), torch.full((size,), high), bound)


# Breaks if `log_softmax` runs over another axis, or `entropy` loses its sign.
def test_categorical_equals_torch():
    logits = rand(4, 3, 5)
    found, expected = Categorical(logits), distributions.Categorical(logits=logits)
    action = torch.randint(5, (4, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.log_prob(action), expected.log_prob(action))
    torch.testing.assert_close(found.entropy(), expected.entropy())
    assert torch.equal(found.mode(), logits.argmax(-1))
    assert torch.equal(found.to_environment(action), action)


# Breaks if the parts' log-probabilities are averaged, or the sizes are read in reverse.
def test_multi_categorical_equals_torch():
    sizes = (2, 4, 3)
    logits = rand(6, 9)
    found = MultiCategorical(logits, sizes)
    expected = [distributions.Categorical(logits=part) for part in logits.split(sizes, -1)]
    action = found.sample(torch.Generator().manual_seed(0))
    assert action.shape == (6, 3)
    assert (action < torch.tensor(sizes)).all()
    torch.testing.assert_close(found.log_prob(action), sum(d.log_prob(action[:, i]) for i, d in enumerate(expected)))
    torch.testing.assert_close(found.entropy(), sum(d.entropy() for d in expected))
    assert torch.equal(found.mode(), torch.stack([d.probs.argmax(-1) for d in expected], -1))


# Breaks if `z` divides by the variance, or the sum over the action's entries is left out.
@pytest.mark.parametrize("bound", ["clip", "none"])
def test_gaussian_equals_torch(bound):
    mean, log_std = rand(4, 3, 2), rand(2, seed=1)
    found, expected = gaussian(bound, mean, log_std), distributions.Normal(mean, log_std.exp())
    action = rand(4, 3, 2, seed=2)
    torch.testing.assert_close(found.log_prob(action), expected.log_prob(action).sum(-1))
    torch.testing.assert_close(found.entropy(), expected.entropy().sum(-1))
    assert torch.equal(found.mode(), mean)


# Breaks if `_log_slope` is added instead of subtracted, or its factor 2 is left out.
def test_squashed_density_equals_torch():
    mean, log_std = rand(5, 2), rand(2, seed=1)
    transforms = [distributions.TanhTransform()]
    expected = distributions.TransformedDistribution(distributions.Normal(mean, log_std.exp()), transforms)
    raw = rand(5, 2, seed=2)
    found = gaussian("squash", mean, log_std).log_prob(raw)
    torch.testing.assert_close(found, expected.log_prob(raw.tanh()).sum(-1))


def test_squashed_density_integrates_to_one():
    raw = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    d = gaussian("squash", torch.full((20_001, 1), 0.4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    density = d.log_prob(raw[:, None]).exp()
    assert torch.trapezoid(density, raw.tanh()).item() == pytest.approx(1.0, abs=1e-4)
    assert d.log_prob(torch.full((20_001, 1), 50.0, dtype=torch.float64)).isfinite().all()


# Breaks if the log-slope is left out of `entropy`.
def test_squashed_entropy_is_exact_for_a_narrow_policy():
    mean, log_std = torch.tensor([[0.7]], dtype=torch.float64), torch.full((1,), -6.0, dtype=torch.float64)
    d = gaussian("squash", mean.expand(100_000, 1), log_std)
    estimate = -d.log_prob(d.sample(torch.Generator().manual_seed(0))).mean()
    assert d.entropy()[0].item() == pytest.approx(estimate.item(), abs=0.02)


# Breaks if masks are filled with −10.
def test_forbidden_actions_are_never_drawn():
    logits = torch.tensor([8.0, 0.0, 1.0, -3.0]).expand(100_000, 4)
    allowed = torch.tensor([False, True, True, False]).expand(100_000, 4)
    d = Categorical(logits, allowed)
    drawn = d.sample(torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2}
    assert set(d.mode().tolist()) == {2}
    assert (d.log_prob(torch.zeros_like(drawn)).exp() == 0).all()
    expected = distributions.Categorical(logits=logits[0, 1:3]).entropy()
    torch.testing.assert_close(d.entropy()[0], expected)


# Breaks if the parts get no mask.
def test_forbidden_actions_of_several_choices_are_never_drawn():
    allowed = torch.tensor([True, False, False, True, True]).expand(10_000, 5)
    drawn = MultiCategorical(torch.zeros(10_000, 5), (2, 3), allowed).sample(torch.Generator().manual_seed(0))
    assert set(drawn[:, 0].tolist()) == {0}
    assert set(drawn[:, 1].tolist()) == {1, 2}


# Breaks if forbidden logits become −inf: their share of the entropy is then 0 · −inf.
@pytest.mark.parametrize("allowed", [[True, True, False], [False, True, False]])
def test_masks_keep_entropy_and_gradients_finite(allowed):
    logits = torch.tensor([[3.0, -1.0, 100.0]], requires_grad=True)
    d = Categorical(logits, torch.tensor([allowed]))
    loss = d.entropy().sum() + d.log_prob(torch.tensor([1])).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 2] == 0
    if sum(allowed) == 1:
        assert d.entropy().item() == 0.0


# Breaks if `noise.log()` is added instead of subtracted, or the noise is uniform.
def test_actions_are_drawn_as_often_as_they_should_be():
    logits = torch.tensor([0.0, 1.0, -2.0, 0.5, 0.5])
    d = Categorical(logits.expand(50_000, 5))
    counts = d.sample(torch.Generator().manual_seed(0)).bincount(minlength=5)
    assert scipy.stats.chisquare(counts, logits.double().softmax(0).numpy() * 50_000).pvalue > 0.01


# Breaks if `from_noise` uses `log_std` in place of its exponential.
def test_gaussian_draws():
    d = gaussian("none", torch.tensor([[2.0, -1.0]]).expand(50_000, 2), torch.tensor([-1.0, 0.5]))
    z = (d.sample(torch.Generator().manual_seed(0)) - d.mean) / torch.tensor([-1.0, 0.5]).exp()
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 0.01


# Breaks if a `sample` does not hand on its generator.
@pytest.mark.parametrize(
    "distribution",
    [
        Categorical(torch.zeros(100, 5)),
        MultiCategorical(torch.zeros(100, 5), (2, 3)),
        gaussian("clip", torch.zeros(100, 2), torch.zeros(2)),
        EpsilonGreedy(torch.zeros(100, 5), epsilon=0.9),
    ],
)
def test_the_generator_decides_the_draw(distribution):
    first, second = (distribution.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, distribution.sample(torch.Generator().manual_seed(4)))


# Breaks if the box is taken as [0, 1], or a bound is left out.
@pytest.mark.parametrize("bound", ["clip", "squash"])
def test_environment_actions_lie_in_the_box(bound):
    low, high = torch.tensor([-2.0, 0.1, -0.1]), torch.tensor([2.0, 0.3, 1e3])
    d = Gaussian(torch.zeros(5, 3), torch.zeros(3), low, high, bound)
    action = d.to_environment(torch.tensor([-100.0, -1.0, 0.0, 1.0, 100.0])[:, None].expand(5, 3))
    assert ((action >= low) & (action <= high)).all()
    torch.testing.assert_close(action[2], (low + high) / 2)
    torch.testing.assert_close(action[[0, 4]], torch.stack([low, high]))
    half = 1.0 if bound == "clip" else math.tanh(1.0)
    torch.testing.assert_close(action[3], (low + high) / 2 + half * (high - low) / 2)


# Breaks without `torch.where` in `from_environment`: 0 / 0 where the bounds are equal.
@pytest.mark.parametrize("bound", ["clip", "squash"])
def test_an_action_of_the_environment_is_raw_again(bound):
    low, high = torch.tensor([-2.0, 0.3, 0.0]), torch.tensor([2.0, 0.3, 1.0])
    d = Gaussian(torch.zeros(1, 3), torch.zeros(3), low, high, bound)
    action = torch.tensor([[1.0, 0.3, 0.25]])
    raw = d.from_environment(action)
    expected = torch.tensor([[0.5, 0.0, -0.5]])
    torch.testing.assert_close(raw, expected if bound == "clip" else expected.atanh())
    torch.testing.assert_close(d.to_environment(raw), action)


# Breaks without the last clamp: low + (high − low) is not always high.
def test_no_box_is_left_by_rounding():
    generator = torch.Generator().manual_seed(0)
    low, high = torch.randn(2, 10_000, generator=generator).sort(0).values
    d = Gaussian(torch.zeros(10_000), torch.zeros(10_000), low, high, "clip")
    for raw in (-9.0, 9.0):
        action = d.to_environment(torch.full((10_000,), raw))
        assert ((action >= low) & (action <= high)).all()


def test_an_unbounded_action_is_the_draw_up_to_what_bounds_there_are():
    low, high = torch.tensor([-math.inf, -math.inf]), torch.tensor([math.inf, 1.0])
    distribution = Gaussian(torch.zeros(1, 2), torch.zeros(2), low, high, "none")
    assert distribution.to_environment(torch.tensor([[-100.0, 3.0]])).tolist() == [[-100.0, 1.0]]


# Breaks if the greedy action gets 1 − ε alone, or ε is shared by all actions instead of the allowed ones.
def test_epsilon_greedy_by_hand():
    """Golden: ε = 0.3 over three of four actions: 0.7 + 0.1, 0.1 and 0.1. Of equal values, the first."""
    values = torch.tensor([1.0, torch.finfo(torch.float32).min, 5.0, 5.0])
    allowed = torch.tensor([True, False, True, True])
    d = EpsilonGreedy(values, allowed).with_epsilon(0.3)
    torch.testing.assert_close(d.probs, torch.tensor([0.1, 0.0, 0.8, 0.1]))
    assert d.mode().item() == 2
    expected = distributions.Categorical(probs=d.probs)
    for action in (0, 2, 3):
        torch.testing.assert_close(d.log_prob(torch.tensor(action)), expected.log_prob(torch.tensor(action)))
    torch.testing.assert_close(d.entropy(), -(0.2 * torch.tensor(0.1).log() + 0.8 * torch.tensor(0.8).log()))
    assert d.to_environment(torch.tensor(3)).item() == 3
    greedy = EpsilonGreedy(values, allowed)
    assert greedy.probs.tolist() == [0, 0, 1, 0]
    assert greedy.entropy().item() == 0


# Breaks without the `unsqueeze` of ε: with as many environments as actions, each action then gets an ε of its own.
def test_each_environment_explores_with_its_own_epsilon():
    values = torch.tensor([3.0, 1.0, 2.0]).expand(1, 3, 3)
    d = EpsilonGreedy(values).with_epsilon(torch.tensor([0.0, 0.6, 0.9]))
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.2, 0.2], [0.4, 0.3, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(d.probs.double(), expected[None])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([d.sample(generator) for _ in range(2_000)])
    assert drawn.shape == (2_000, 3)
    assert (drawn[:, 0] == 0).all()
    for b in (1, 2):
        assert scipy.stats.chisquare(drawn[:, b].bincount(minlength=3), 2_000 * expected[b]).pvalue > 0.01


# Breaks if `any_action` is all ones.
def test_epsilon_greedy_never_draws_a_forbidden_action():
    allowed = torch.tensor([True, False, True, False]).expand(20_000, 4)
    d = EpsilonGreedy(torch.tensor([0.0, -1e38, 1.0, -1e38]).expand(20_000, 4), allowed, 0.99)
    assert set(d.sample(torch.Generator().manual_seed(0)).tolist()) == {0, 2}
