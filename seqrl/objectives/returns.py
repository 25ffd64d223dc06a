"""Returns and advantages, by recursion over time. Time runs along the first axis; nothing is reduced."""

import torch
from jaxtyping import Float
from torch import Tensor


def gae(
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    value: Float[Tensor, "T B"],
    next_value: Float[Tensor, "T B"],
    lambda_: float | Float[Tensor, "T B"] = 0.95,
) -> tuple[Float[Tensor, "T B"], Float[Tensor, "T B"]]:
    """Generalised advantage estimation: the target for the value, and the advantage.

        δ_t = r_t + d_t v_{t+1} − v_t
        A_t = δ_t + d_t λ_t A_{t+1},   A_T = 0
        target_t = A_t + v_t

    `discount` is γ·(1 − terminated): a termination zeroes the bootstrap. `next_value` is the value of the observation
    that followed row t within its own episode: at a truncation the final observation, never the next episode's first.
    `lambda_` is 0 where the trace is cut (at terminations and truncations alike).

    Source: Schulman et al. 2016, arXiv 1506.02438, equation 16. Differs: λ may vary by row.
    """
    delta = reward + discount * next_value - value
    decay = discount * lambda_
    advantage = torch.empty_like(delta)
    carry = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        carry = delta[t] + decay[t] * carry
        advantage[t] = carry
    return advantage + value, advantage
