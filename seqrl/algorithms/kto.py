"""Kahneman–Tversky optimisation: a policy learns from answers that were judged alone, thumbs up or down.

    loss = mean of λ_D (1 − σ(β (log π(y|x)/π_ref(y|x) − z)))  over desirable answers,
                   λ_U (1 − σ(β (z − log π(y|x)/π_ref(y|x))))  over the others
    z    = max(0, mean over the batch of log π(y'|x)/π_ref(y'|x)),   y' another prompt's answer

π begins as the policy of a run of `bc`, which stays as the frozen reference π_ref. z, an estimate of their KL without a
gradient, is what people are taken to be used to: an answer is a gain above it and a loss below. y' is one that nobody
gave to x, so that z does not follow from what is learnt about x. Where one kind of thumbs is rarer, its weight λ may be
raised: the paper asks for λ_D n_D / (λ_U n_U) from 1 to 4/3.

Source: Ethayarajh et al. 2024, arXiv 2402.01306. Differs: which answer y' stands behind x is drawn once for the whole
data set, not from the batch, so that the reference is asked once (`seqrl.language_runs.preferences`). Several learners
(`--num-learners`) are data-parallel: each has a share of every batch, z is a mean over the whole one, which they ask
each other for, and a gradient is that of the whole one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqrl.config import require, require_above_zero
from seqrl.data.feedback import read_judged
from seqrl.data.preferences import read_preferences, thumbs_of
from seqrl.distributed import ALONE, Group
from seqrl.language.agent import LanguageAgent
from seqrl.language.preferences import JudgedAnswers, ThumbDataset
from seqrl.language_runs.config import make_model
from seqrl.language_runs.learners import learn_together, of_one
from seqrl.language_runs.preferences import (
    PreferenceConfig,
    Referenced,
    check_preference,
    log_prob,
    tune,
    tuned_together,
)
from seqrl.objectives import kto_error
from seqrl.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(PreferenceConfig):
    """Kahneman–Tversky optimisation."""

    thumbs: str = ""
    """A file of answers with thumbs up or down (docs/preference_algorithms.md), or a log of dialogues that has them."""
    preferences: str = ""
    """Or one of preferences: chosen answers count as thumbs up, rejected ones as thumbs down."""
    desirable_weight: float = 1.0
    """λ_D, of thumbs up."""
    undesirable_weight: float = 1.0
    """λ_U, of thumbs down."""


def loss(
    agent: LanguageAgent, windows: Referenced, config: Config, group: Group = ALONE
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean error of the answers. The metrics are detached; rewards are β log π/π_ref, means over answers.

    Of a `group` each learner has a share of the batch: the error is its share's, z and the rewards are the whole one's.
    """
    answers: JudgedAnswers = windows.batch
    reference, mismatched = windows.reference
    ratio = log_prob(agent, answers.answer) - reference
    desirable = answers.desirable.to(ratio.dtype)
    with torch.no_grad():
        moved = log_prob(agent, answers.mismatched) - mismatched
        means = torch.stack([moved, desirable, desirable * ratio, (1 - desirable) * ratio]).mean(1)
        group.average([means], len(ratio))
        kl, share, up, down = means.unbind()
    kl = kl.clamp(min=0)
    weights = (config.desirable_weight, config.undesirable_weight)
    total = kto_error(ratio, answers.desirable, kl, config.beta, *weights).mean()
    least = torch.finfo(share.dtype).tiny  # of a kind of thumbs that there is none of, the reward is 0
    return total, {
        "loss": total.detach(),
        "kl": kl,
        "desirable_reward": config.beta * up / share.clamp(min=least),
        "undesirable_reward": config.beta * down / (1 - share).clamp(min=least),
    }


def log_probs(agent: LanguageAgent, answers: JudgedAnswers) -> Tensor:
    """log π of the answers, and of others' answers behind the same prompts, [2, B]."""
    return torch.stack([log_prob(agent, answers.answer), log_prob(agent, answers.mismatched)])


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_preference(config)
    require_above_zero(config, "desirable_weight", "undesirable_weight")
    require(
        bool(config.thumbs) != bool(config.preferences),
        "give either answers with --thumbs or pairs with --preferences, one file",
    )


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> LanguageAgent:
    """The agent with a policy that is not loaded yet; the run's config says which model it is."""
    return LanguageAgent(tokenizer, make_model(config, tokenizer))


def train(config: Config, resume: bool = False) -> LanguageAgent:
    """Train on the answers that `config` names, and return the agent. With `resume`, continue the run, bit for bit.

    With several learners a script needs `if __name__ == "__main__":`.

    Raises UserError for bad settings, answers or a policy that cannot be read, an existing run folder, or a loss that
    is not finite.
    """
    check(config)
    alone = learn_together(train_share, config, resume)
    return alone if alone is not None else tuned_together(config)


def train_share(group: Group, config: Config, resume: bool) -> LanguageAgent:
    """What one learner of `group` does of `train`."""

    def dataset(tokenizer: Tokenizer) -> ThumbDataset:
        if config.thumbs:
            return ThumbDataset.of(read_judged(config.thumbs), tokenizer)
        return ThumbDataset.of(thumbs_of(read_preferences(config.preferences)), tokenizer)

    shared = partial(loss, group=group)
    return tune(of_one(group, config), dataset, shared, log_probs, resume, group, held_out_loss=loss)
