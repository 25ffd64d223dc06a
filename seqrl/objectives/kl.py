"""How far a policy π has moved from a reference: KL(π ‖ π_ref), exact over all actions, or estimated from π's own."""

import torch
from jaxtyping import Float
from torch import Tensor

from seqrl.objectives.policy import approximate_kl


def kl_divergence(
    logits: Float[Tensor, "*shape V"], reference_logits: Float[Tensor, "*shape V"]
) -> Float[Tensor, "*shape"]:
    """KL(π ‖ π_ref) = Σ_a π(a) (log π(a) − log π_ref(a)), exact over the last axis, from unnormalised logarithms.

    Differentiable in both. Actions that π never takes (logits of −∞, or so low that the probability is 0) have no part
    in it, nor in its gradient; where π_ref never takes what π does, it is infinite.
    """
    log_prob, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    prob = log_prob.exp()
    return (prob * torch.where(prob > 0, log_prob - reference, 0.0)).sum(-1)


def kl_k1(log_prob: Float[Tensor, "*shape"], reference_log_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log π(a) − log π_ref(a), of actions drawn from π: its mean is the KL. It varies most, and may be below 0.

    As part of a reward it has the KL's gradient (by the policy gradient); as a loss it has none: its own gradient has
    the mean 0. Source: Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html).
    """
    return log_prob - reference_log_prob


def kl_k3(log_prob: Float[Tensor, "*shape"], reference_log_prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(ρ − 1) − log ρ with ρ = π_ref(a) / π(a), of actions drawn from π: the same mean, never below 0.

    As a loss its gradient is, in the mean, that of KL(π_ref ‖ π), not of the KL that it estimates. Source: Schulman
    2020.
    """
    return approximate_kl(reference_log_prob, log_prob)
