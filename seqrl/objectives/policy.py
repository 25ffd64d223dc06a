"""Losses of a policy, one number a row."""

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    log_prob: Float[Tensor, "*shape"],
    behaviour_log_prob: Float[Tensor, "*shape"],
    advantage: Float[Tensor, "*shape"],
    clip: float = 0.2,
) -> Float[Tensor, "*shape"]:
    """PPO's loss, −min(ρ A, clip(ρ, 1 − ε, 1 + ε) A) with ρ = π(a|h) / μ(a|h).

    Gradients flow through `log_prob` alone; beyond ρ = e⁸⁰, near float32's end, none does: an infinite ρ in a row
    that a mask leaves out would be a NaN in the gradient of all.
    Source: Schulman et al. 2017, arXiv 1707.06347, equation 7.
    """
    ratio = torch.exp((log_prob - behaviour_log_prob).clamp(max=80.0))
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def approximate_kl(
    log_prob: Float[Tensor, "*shape"], behaviour_log_prob: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """An unbiased, never negative estimate of KL(μ ‖ π) from actions drawn from μ: k3 = (ρ − 1) − log ρ.

    Source: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html).
    """
    log_ratio = log_prob - behaviour_log_prob
    return torch.expm1(log_ratio) - log_ratio
