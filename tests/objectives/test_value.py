"""The value's loss, and the scale that it is learnt on."""

import math

import pytest
import torch

from seqrl.objectives import conservative_error, expectile_error, rescale, squared_error, unrescale


# Breaks without the ½, or without `.detach()`.
def test_squared_error():
    prediction = torch.tensor([1.0, 5.0], requires_grad=True)
    target = torch.tensor([3.0, 4.0], requires_grad=True)
    loss = squared_error(prediction, target)
    assert loss.tolist() == [2.0, 0.5]
    loss.sum().backward()
    assert prediction.grad.tolist() == [-2.0, 1.0]
    assert target.grad is None


# Breaks if the sign is lost, ε is left out, or the root is taken of |x| alone.
def test_rescale_by_hand():
    """Golden: √(3 + 1) − 1 + 0.003, and so on."""
    found = rescale(torch.tensor([0.0, 3.0, -3.0, 99.0, -1e6], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.0, 1.003, -1.003, 9.099, -((1e6 + 1) ** 0.5) + 1 - 1000], rel=1e-12)


# Breaks if `4 * epsilon` becomes `2 * epsilon`, or `v + 2` becomes `v`.
@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1e-2, 1.0])
def test_unrescale_undoes_rescale(epsilon):
    x = torch.cat([torch.logspace(-6, 8, 60, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    x = torch.cat([x, -x])
    torch.testing.assert_close(unrescale(rescale(x, epsilon), epsilon), x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(rescale(unrescale(x, epsilon), epsilon), x, rtol=1e-9, atol=1e-12)


# Breaks with the paper's own forms, √(|x| + 1) − 1 and u² − 1, which lose all of a small value's digits.
def test_small_values_keep_their_digits():
    x = torch.logspace(-12, 12, 100)
    torch.testing.assert_close(unrescale(rescale(x)), x, rtol=1e-6, atol=0)
    torch.testing.assert_close(rescale(x).double(), rescale(x.double()), rtol=1e-6, atol=0)


# Breaks if τ weighs the targets below the prediction, u² becomes |u|, or the target's gradient flows.
@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_the_expectile_of_two_points(expectile, share):
    """Golden: of targets b with the share p and a < b else, the loss is least at (τ p b + (1 − τ)(1 − p) a) / (τ p +
    (1 − τ)(1 − p)), which for τ = ½ is their mean."""
    a, b = -1.0, 3.0
    above, below = expectile * share, (1 - expectile) * (1 - share)
    least = (above * b + below * a) / (above + below)
    if expectile == 0.5:
        assert least == pytest.approx(share * b + (1 - share) * a)
    target = torch.tensor([b] * int(4 * share) + [a] * int(4 * (1 - share)), dtype=torch.float64, requires_grad=True)
    prediction = torch.full((4,), least, dtype=torch.float64, requires_grad=True)
    expectile_error(prediction, target, expectile).sum().backward()
    assert prediction.grad.sum().item() == pytest.approx(0.0, abs=1e-12)
    assert target.grad is None

    def total(at):
        return expectile_error(torch.full_like(target, at), target, expectile).sum().item()

    assert total(least) < min(total(least - 0.01), total(least + 0.01))


# Breaks without the absolute value, or with ½ u².
def test_expectile_error_by_hand():
    """Golden: u = 2 weighs τ, u = −1 weighs 1 − τ."""
    found = expectile_error(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 4.0]), 0.75)
    assert found.tolist() == [3.0, 0.25]


# Broken by q.max(-1) for q.logsumexp(-1), or a mean over actions.
def test_conservative_error_is_the_cross_entropy_of_softmax_q():
    q = torch.tensor([[1.0, 3.0, -2.0], [0.5, 0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    action = torch.tensor([1, 2])
    error = conservative_error(q, action)
    log_z = math.log(math.exp(1) + math.exp(3) + math.exp(-2))
    torch.testing.assert_close(error, torch.tensor([log_z - 3, math.log(3)], dtype=torch.float64))
    error[0].backward()
    expected = torch.softmax(q[0], 0) - torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(q.grad[0], expected.detach())
