"""Advantages of answers among others to the same question."""

import pytest
import torch

from seqrl.objectives import group_standardized_advantage, leave_one_out_advantage

RETURNS = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


# Broken by taking the mean of all, or over the groups' axis.
def test_leave_one_out_by_hand():
    """Golden: 1 − (2 + 6)/2, 2 − (1 + 6)/2, 6 − (1 + 2)/2."""
    expected = torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(leave_one_out_advantage(RETURNS), expected)


# Broken by a std with N, or ε inside of the root.
def test_group_standardized_by_hand():
    """Golden: mean 3, variance (4 + 1 + 9) / 2 = 7."""
    expected = torch.tensor([[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_standardized_advantage(RETURNS, scale=False), expected)
    expected[0] /= 7**0.5 + 1e-4
    torch.testing.assert_close(group_standardized_advantage(RETURNS), expected)


# Broken without `is_rounding`: the mean of seven times 1000.1 is another number, and what was left was divided by ε.
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("number", [0.1, 1000.1, -1e6 - 0.1])
@pytest.mark.parametrize("size", [3, 7, 30])
def test_equal_returns_give_zero(number, size, scale):
    returns = torch.stack([torch.full((size,), number), torch.arange(float(size))])
    advantage = group_standardized_advantage(returns, scale)
    assert torch.equal(advantage[0], torch.zeros(size))
    assert advantage[1].std() > 0.9  # the other group is as it was


@pytest.mark.parametrize("advantage", [leave_one_out_advantage, group_standardized_advantage])
def test_an_answer_alone_is_refused(advantage):
    with pytest.raises(AssertionError, match="no others"):
        advantage(torch.zeros(3, 1))


# Broken by any baseline that is not the others' alone.
def test_leave_one_out_has_no_bias():
    """Golden: the mean over all draws of the score function times the advantage is the gradient of E[r], exactly; with
    the group's own mean it would be (N − 1)/N of it."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    p, reward = logits.softmax(0), torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    exact = p * (reward - (p * reward).sum())
    drawn = torch.cartesian_prod(*[torch.arange(3)] * 2)  # all pairs of answers
    score = torch.eye(3, dtype=torch.float64)[drawn] - p
    advantage = leave_one_out_advantage(reward[drawn])
    gradient = (p[drawn].prod(-1)[:, None, None] * score * advantage[..., None]).sum(0).mean(0)
    torch.testing.assert_close(gradient, exact)
