"""Losses of preferences, one number a pair or a judged answer; which answer was better is all that is known."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def bradley_terry_error(
    chosen: Float[Tensor, "*shape"], rejected: Float[Tensor, "*shape"], label_smoothing: float = 0.0
) -> Float[Tensor, "*shape"]:
    """−log of the probability that the chosen of two is preferred, where that is σ(chosen − rejected).

        −(1 − ε) log σ(Δ) − ε log σ(−Δ),   Δ = chosen − rejected

    `label_smoothing` ε is the share of labels that are taken to be wrong: Δ then does not grow without end. Both
    arguments have gradients. Source: Bradley & Terry 1952; as the loss of a reward model, Ouyang et al. 2022, arXiv
    2203.02155, equation 1; smoothed ("conservative"), Mitchell 2023, "A note on DPO with noisy preferences".
    """
    margin = chosen - rejected
    error = F.softplus(-margin)
    if label_smoothing:  # −log σ(−Δ) = Δ − log σ(Δ)
        error = error + label_smoothing * margin
    return error


def dpo_error(
    chosen_log_ratio: Float[Tensor, "B"],
    rejected_log_ratio: Float[Tensor, "B"],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Float[Tensor, "B"]:
    """Direct preference optimisation: the Bradley–Terry loss of the rewards β log π/π_ref, whose best policy they are.

        −log σ(β (log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)))

    A log-ratio is that of a whole answer: the sum over its tokens. With pairs labelled by Bradley–Terry on a reward r,
    and enough of them, the least loss is at π = π_ref exp(r/β)/Z. Source: Rafailov et al. 2023, arXiv 2305.18290,
    equation 7.
    """
    return bradley_terry_error(beta * chosen_log_ratio, beta * rejected_log_ratio, label_smoothing)


def ipo_error(
    chosen_log_ratio: Float[Tensor, "B"], rejected_log_ratio: Float[Tensor, "B"], beta: float = 0.1
) -> Float[Tensor, "B"]:
    """Identity preference optimisation, (h − 1/(2β))² with h the difference of the log-ratios.

    It stays near the reference where labels are never in doubt, as DPO does not. The log-ratios are those of whole
    answers, as in the paper (some trainers take means over tokens). Source: Azar et al. 2023, arXiv 2310.12036,
    equation 17.
    """
    return (chosen_log_ratio - rejected_log_ratio - 1 / (2 * beta)).square()


def kto_error(
    log_ratio: Float[Tensor, "B"],
    desirable: Bool[Tensor, "B"],
    kl: Float[Tensor, ""],
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, "B"]:
    """Kahneman–Tversky optimisation: answers that were judged alone, good or bad, against a point of reference.

        λ_D (1 − σ(β (log π/π_ref − z)))  where desirable,   λ_U (1 − σ(β (z − log π/π_ref)))  elsewhere

    `kl` z, an estimate of KL(π ‖ π_ref), is that point; it has no gradient, and counts as 0 below 0. Source:
    Ethayarajh et al. 2024, arXiv 2402.01306, equation 8.
    """
    gain = beta * (log_ratio - kl.detach().clamp(min=0))
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * torch.sigmoid(torch.where(desirable, -gain, gain))
