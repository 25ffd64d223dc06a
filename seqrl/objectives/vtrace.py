"""V-trace: returns of one policy from rows that another one acted."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def vtrace(
    behaviour_log_prob: Float[Tensor, "T B"],
    target_log_prob: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    value: Float[Tensor, "T B"],
    next_value: Float[Tensor, "T B"],
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    lambda_: float | Float[Tensor, "T B"] = 1.0,
) -> tuple[Float[Tensor, "T B"], Float[Tensor, "T B"]]:
    """V-trace: the target for the value, and the advantage for the policy's gradient.

        ρ_t = min(clip_rho, π(a_t|h_t) / μ(a_t|h_t)),   c_t = λ_t min(clip_c, π(a_t|h_t) / μ(a_t|h_t))
        target_t = v_t + ρ_t (r_t + d_t v_{t+1} − v_t) + d_t c_t (target_{t+1} − v_{t+1}),   target_T = v_T
        advantage_t = ρ_t (r_t + d_t ((1 − λ_t) v_{t+1} + λ_t target_{t+1}) − v_t)

    μ is the policy that acted, π the one that learns. `discount` is γ·(1 − terminated): a termination zeroes the
    bootstrap. `next_value` is the value of the observation that followed row t within its own episode: at a truncation
    the final observation, never the next episode's first. `lambda_` is 0 where the trace is cut (at terminations and
    truncations alike). No gradient flows through either result. With μ = π and nothing clipped, this is `gae`.

    Source: Espeholt et al. 2018 (IMPALA), arXiv 1802.01561, equation 1 and section 4.2, λ from remark 2. Differs: λ may
    vary by row, and enters the advantage as in rlax, so that a cut row bootstraps from `next_value` in both results.
    """
    ratio = torch.exp(target_log_prob - behaviour_log_prob)
    rho = ratio.clamp(max=clip_rho)
    delta = rho * (reward + discount * next_value - value)
    decay = discount * lambda_ * ratio.clamp(max=clip_c)
    excess = torch.empty_like(delta)  # of the target over the value
    carry = torch.zeros_like(delta[0])
    for t in range(delta.shape[0] - 1, -1, -1):
        carry = delta[t] + decay[t] * carry
        excess[t] = carry
    following = torch.cat([excess[1:], torch.zeros_like(excess[:1])])
    advantage = rho * (reward + discount * (next_value + lambda_ * following) - value)
    return excess + value, advantage
