"""PPO's surrogate by hand, and the estimate of the divergence by enumeration."""

import math

import pytest
import torch

from seqrl.objectives import approximate_kl, clipped_surrogate, masked_mean


# (ratio, advantage, loss, slope of the loss in log π): better than before or worse, beyond the clip or within.
# Breaks if `minimum` becomes `maximum`, the clipped ratio is used alone, or one bound of the clamp is left out.
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # a good action is likely enough already
        (0.5, 2.0, -1.0, -1.0),  # a good action became unlikely: the step back is never clipped
        (1.5, -2.0, 3.0, 3.0),  # a bad action became likely: the step back is never clipped
        (0.5, -2.0, 1.6, 0.0),  # a bad action is unlikely enough already
        (1.1, 2.0, -2.2, -2.2),
        (0.9, -2.0, 1.8, 1.8),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, slope):
    log_prob = torch.tensor([math.log(ratio) - 1.0], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    result = clipped_surrogate(log_prob, behaviour.detach(), torch.tensor([advantage], dtype=torch.float64), 0.2)
    assert result.item() == pytest.approx(loss)
    result.sum().backward()
    assert log_prob.grad.item() == pytest.approx(slope)


def test_before_the_first_update_the_gradient_is_that_of_the_policy_gradient():
    log_prob = torch.randn(3, 2, requires_grad=True)
    advantage = torch.randn(3, 2)
    clipped_surrogate(log_prob, log_prob.detach(), advantage).sum().backward()
    torch.testing.assert_close(log_prob.grad, -advantage)


# Breaks if the estimate is k1 (`-log_ratio`, negative at times), k2 (`log_ratio² / 2`, biased), or the arguments swap.
def test_approximate_kl_is_unbiased_and_never_negative():
    behaviour = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    policy = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    estimate = approximate_kl(policy.log(), behaviour.log())  # one for each action that could be drawn
    expected = (behaviour * (behaviour / policy).log()).sum()
    torch.testing.assert_close((behaviour * estimate).sum(), expected)
    assert (estimate >= 0).all()
    assert torch.equal(approximate_kl(policy.log(), policy.log()), torch.zeros(3, dtype=torch.float64))


# Breaks if `expm1(x)` becomes `exp(x) - 1`.
def test_a_tiny_divergence_is_not_lost_to_rounding():
    log_ratio = torch.tensor([1e-3])
    torch.testing.assert_close(approximate_kl(log_ratio, torch.zeros(1)), log_ratio**2 / 2, rtol=1e-3, atol=0)


# Breaks without `clamp(max=80.0)`: an infinite ratio's gradient is NaN, and 0 · NaN is one too.
def test_a_masked_row_of_any_ratio_leaves_the_gradient_finite():
    log_prob = torch.tensor([0.0, 200.0], requires_grad=True)
    loss = clipped_surrogate(log_prob, torch.zeros(2), torch.tensor([1.0, 0.0]))
    masked_mean(loss, torch.tensor([True, False])).backward()
    assert log_prob.grad.tolist() == [-1.0, 0.0]
