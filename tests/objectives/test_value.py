"""The value's loss."""

import torch

from seqrl.objectives import squared_error


# Breaks without the ½, or without `.detach()`.
def test_squared_error():
    prediction = torch.tensor([1.0, 5.0], requires_grad=True)
    target = torch.tensor([3.0, 4.0], requires_grad=True)
    loss = squared_error(prediction, target)
    assert loss.tolist() == [2.0, 0.5]
    loss.sum().backward()
    assert prediction.grad.tolist() == [-2.0, 1.0]
    assert target.grad is None
