"""Losses of a value function, one number a row."""

from jaxtyping import Float
from torch import Tensor


def squared_error(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """½ (prediction − target)². Gradients flow through `prediction` alone."""
    return 0.5 * (prediction - target.detach()).square()
