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


def n_step_return(
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    next_value: Float[Tensor, "T B"],
    trace: float | Float[Tensor, "T B"] = 1.0,
    n: int = 5,
) -> Float[Tensor, "T B"]:
    """The return of up to n rewards and the value that follows them.

        R^k_t = r_t + d_t ((1 − c_t) v_{t+1} + c_t R^{k−1}_{t+1}),   R^0_t = v_t,   R^k_T = v_T

    Returns R^n_t. c is `trace`: 0 at rows whose return must not reach into the next row, as at the ends of episodes,
    `terminated | truncated`. Fewer than n rewards are summed before a cut and at the last rows. `discount` is
    γ·(1 − terminated), and `next_value` is that of the observation that followed row t within its own episode.

    Source: Watkins 1989; Mnih et al. 2016, arXiv 1602.01783. Raises ValueError where n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}: an n-step return needs at least 1")
    result = reward + discount * next_value
    for _ in range(min(n, len(reward)) - 1):  # no row has more rewards behind it than there are rows
        following = torch.cat([result[1:], next_value[-1:]])
        result = reward + discount * (next_value + trace * (following - next_value))
    return result
