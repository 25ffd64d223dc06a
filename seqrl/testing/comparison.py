"""What the conformance suites compare with."""

from collections.abc import Mapping

import torch
from torch import Tensor


def gradients(loss: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of `loss` by each of `inputs` that needs one; zeros where it does not depend on it."""
    inputs = {name: value for name, value in inputs.items() if value.requires_grad}
    if not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in inputs.items()}
    values = list(inputs.values())
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def require_equal(law: str, name: str, actual: Tensor, expected: Tensor, tolerance: float, why: str) -> None:
    """Raise AssertionError that names the first entry which is off by more than `tolerance` of the largest."""
    a, e = actual.detach().double(), expected.detach().double()
    close = (a - e).abs() <= tolerance * (1 + e.abs().max()) if e.numel() else e == a
    if not close.all():
        index = (~close).nonzero()[0].tolist()  # not `>`, so that a NaN is a difference
        raise AssertionError(f"{law}: {name}{index} is {a[*index]:.6g}, but {e[*index]:.6g} {why}")
