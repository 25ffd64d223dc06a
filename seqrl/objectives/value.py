"""Losses and targets of a value function, one number a row."""

from jaxtyping import Float, Int
from torch import Tensor


def squared_error(prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """½ (prediction − target)². Gradients flow through `prediction` alone."""
    return 0.5 * (prediction - target.detach()).square()


def rescale(x: Float[Tensor, "*shape"], epsilon: float = 1e-3) -> Float[Tensor, "*shape"]:
    """h(x) = sign(x) (√(|x| + 1) − 1) + ε x: values of any size near unit size, without clipping rewards.

    Source: Pohlen et al. 2018, arXiv 1805.11593, proposition A.2, in a form that keeps the digits of small values.
    """
    return x / ((x.abs() + 1).sqrt() + 1) + epsilon * x


def unrescale(x: Float[Tensor, "*shape"], epsilon: float = 1e-3) -> Float[Tensor, "*shape"]:
    """h⁻¹, the inverse of `rescale`: with u = √(|h⁻¹| + 1), which solves ε u² + u − (1 + ε + |x|) = 0, it is u² − 1.

    What is computed is v = u − 1, and sign(x) v (v + 2): no digits of small values are lost, and ε may be 0.
    """
    v = 2 * x.abs() / ((1 + 4 * epsilon * (x.abs() + 1 + epsilon)).sqrt() + 1 + 2 * epsilon)
    return x.sign() * v * (v + 2)


def expectile_error(
    prediction: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], expectile: float
) -> Float[Tensor, "*shape"]:
    """|τ − 1(u < 0)| u² with u = target − prediction: least for the τ-expectile of the targets, ½ for their mean.

    Gradients flow through `prediction` alone. Source: Newey & Powell 1987; as a value loss, Kostrikov et al. 2022,
    arXiv 2110.06169, equation 3.
    """
    u = target.detach() - prediction
    return (expectile - (u < 0).to(u.dtype)).abs() * u.square()


def conservative_error(q: Float[Tensor, "*shape A"], action: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log Σ_a' exp Q(s, a') − Q(s, a), the cross-entropy of softmax(Q) on the action that was taken; never below 0.

    It holds the values of actions that were not taken below that of the one that was. Source: CQL(H), Kumar et al.
    2020, arXiv 2006.04779, equation 4; on tokens, Snell et al. 2022, arXiv 2206.11871, section 4.2.
    """
    return q.logsumexp(-1) - q.gather(-1, action[..., None])[..., 0]
