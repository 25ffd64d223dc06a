"""Advantages of answers among others to the same question: no value function is learnt."""

from jaxtyping import Float
from torch import Tensor

from seqrl.objectives.masked import is_rounding


def leave_one_out_advantage(returns: Float[Tensor, "G N"]) -> Float[Tensor, "G N"]:
    """R_i − mean of the other N − 1 returns, in each of G groups of N ≥ 2 answers.

    The others do not depend on answer i, so they are a baseline without bias. Source: Kool et al. 2019, "Buy 4
    REINFORCE samples, get a baseline for free!"; for language (RLOO), Ahmadian et al. 2024, arXiv 2402.14740.
    """
    count = returns.shape[-1]
    assert count >= 2, "an answer alone has no others to be compared with"
    return (returns - returns.mean(-1, keepdim=True)) * (count / (count - 1))


def group_standardized_advantage(
    returns: Float[Tensor, "G N"], scale: bool = True, epsilon: float = 1e-4
) -> Float[Tensor, "G N"]:
    """(R_i − mean) / (std + ε) over the N ≥ 2 answers of each of G groups, the std with N − 1 (GRPO).

    Without `scale` the mean alone is taken off. Equal returns give 0. The answer is part of its own baseline, and easy
    and hard questions (little spread) weigh more than others: biases of this form, the second of which `scale=False`
    takes away (Liu et al. 2025, "Dr. GRPO", arXiv 2503.20783). Source: Shao et al. 2024, arXiv 2402.03300, section 4.1.
    """
    assert returns.shape[-1] >= 2, "an answer alone has no others to be compared with"
    mean, std = returns.mean(-1, keepdim=True), returns.std(-1, keepdim=True)
    centred = (returns - mean).masked_fill(is_rounding(std, mean), 0.0)
    return centred / (std + epsilon) if scale else centred
