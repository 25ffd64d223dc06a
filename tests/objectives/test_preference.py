"""Losses of preferences: values by hand, gradients, and the policy at which they are least."""

import math

import pytest
import torch

from seqrl.objectives import bradley_terry_error, dpo_error, ipo_error, kl_divergence, kto_error


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# Broken by softplus(margin), or ε of the wrong sign.
def test_bradley_terry_by_hand():
    """Golden: −log σ(log 3) = log(4/3), and of the other label log 4; a fifth wrong weighs them 0.8 and 0.2."""
    chosen, rejected = tensor(math.log(3), 0.0, 800.0), tensor(0.0, math.log(3), 0.0)
    found = bradley_terry_error(chosen, rejected)
    torch.testing.assert_close(found, tensor(math.log(4 / 3), math.log(4), 0.0))
    smoothed = bradley_terry_error(chosen, rejected, 0.2)
    expected = 0.8 * math.log(4 / 3) + 0.2 * math.log(4), 0.8 * math.log(4) + 0.2 * math.log(4 / 3), 160.0
    torch.testing.assert_close(smoothed, tensor(*expected))


# Broken by leaving out β, or by β outside of the logarithm.
def test_dpo_by_hand():
    """Golden: β (2 log 3 − log 3) with β = 1 is log 3; at log-ratios of 0 it is log 2, to the last bit of float32."""
    found = dpo_error(tensor(2 * math.log(3), 0.0), tensor(math.log(3), 2 * math.log(3)), beta=1.0)
    torch.testing.assert_close(found, tensor(math.log(4 / 3), math.log(10)))
    torch.testing.assert_close(dpo_error(tensor(4.0), tensor(2.0), 0.5), bradley_terry_error(tensor(1.0), tensor(0.0)))
    zero = torch.zeros(3)
    assert torch.equal(dpo_error(zero, zero, 0.1), torch.full((3,), math.log(2)))
    assert torch.equal(dpo_error(zero, zero, 0.1, 0.3), torch.full((3,), math.log(2)))


# Broken by 1/β for 1/(2β).
def test_ipo_by_hand():
    torch.testing.assert_close(ipo_error(tensor(3.0, 6.0), tensor(1.0, 1.0), beta=0.1), tensor(9.0, 0.0))


# Broken by exchanging the weights, a z that has a gradient, or one below 0.
def test_kto_by_hand():
    """Golden: a gain of log 3 is 1 − σ = ¼, one of −log 3 is ¾; the sign turns for undesirable answers."""
    ratio = torch.full((2,), 2 * math.log(3) + 0.5, dtype=torch.float64, requires_grad=True)
    desirable = torch.tensor([True, False])
    kl = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    error = kto_error(ratio, desirable, kl, beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    torch.testing.assert_close(error, tensor(2 / 4, 9 / 4))
    error.sum().backward()
    assert kl.grad is None
    slope = 0.5 * 3 / 16
    torch.testing.assert_close(ratio.grad, tensor(-2 * slope, 3 * slope))
    below = kto_error(torch.zeros(1), torch.tensor([True]), torch.tensor(-4.0))
    assert below.item() == 0.5


# Broken by any other loss than Bradley–Terry's of β log π/π_ref, or a β on one of the two alone.
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_reaches_the_best_policy(beta):
    """Golden: over 5 answers and all pairs, weighed by how often each label is given, the least loss is at
    π_ref exp(r/β)/Z, in total variation within 0.02."""
    generator = torch.Generator().manual_seed(0)
    reward = torch.rand(5, generator=generator, dtype=torch.float64) * 0.5
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    chosen, rejected = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    weight = (reward[chosen] - reward[rejected]).sigmoid()

    def loss(logits):
        ratio = logits.log_softmax(0) - reference
        return (weight * dpo_error(ratio[chosen], ratio[rejected], beta)).sum()

    logits = reference.clone()
    for _ in range(10):  # Newton's steps; adding a constant to all logits changes nothing, hence the pseudoinverse
        slope = torch.autograd.functional.jacobian(loss, logits)
        logits = logits - torch.linalg.pinv(torch.autograd.functional.hessian(loss, logits)) @ slope
    best = (reference + reward / beta).softmax(0)
    reached = logits.softmax(0)
    assert 0.5 * (reached - best).abs().sum() <= 0.02
    assert 0.5 * (reached - reference.exp()).abs().sum() > 0.05  # it had some way to go

    def objective(policy):
        return ((policy * reward).sum() - beta * kl_divergence(policy.log(), reference)).item()

    value = beta * (reference + reward / beta).logsumexp(0).item()
    assert objective(reached) == pytest.approx(value, abs=1e-4)
