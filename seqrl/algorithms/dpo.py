"""Direct preference optimisation: a policy learns from pairs of answers which is better, without a reward model.

    loss = −mean over pairs of log σ(β (log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)))

π begins as the policy of a run of `bc`, which stays as the frozen reference π_ref; y_w is the answer that was chosen
and y_l the other. Where people choose by a reward r (Bradley–Terry), the best π is π_ref exp(r/β)/Z, what fine-tuning
on r with the weight β on the KL would give. Answers may have several turns of the agent's: the sums run over its own
tokens behind the prompt, each with the <end of utterance> by which it hands over.

`label_smoothing` ε takes a share ε of the labels for wrong. With `objective` "ipo" the loss is the square of (the
difference of the log-ratios, means over an answer's tokens, − 1/(2β)), which has a least value also where a label is
never in doubt.

Source: Rafailov et al. 2023, arXiv 2305.18290; smoothing, Mitchell 2023, "A note on DPO with noisy preferences"; IPO,
Azar et al. 2023, arXiv 2310.12036. Differs: the reference is asked once, in the batches that are learnt from
(`seqrl.language_runs.preferences`); IPO's means over tokens are not in its paper, but in TRL, whose authors say that
its results were had with them. Several learners (`--num-learners`) are data-parallel: each has a share of every batch,
and a gradient is that of the whole one.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqrl.config import require
from seqrl.data.preferences import read_preferences
from seqrl.distributed import Group
from seqrl.language.agent import LanguageAgent
from seqrl.language.preferences import PreferenceDataset, PreferencePairs
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
from seqrl.objectives import dpo_error, ipo_error
from seqrl.text import Tokenizer

Objective = Literal["dpo", "ipo"]


@dataclass(frozen=True, kw_only=True)
class Config(PreferenceConfig):
    """Direct preference optimisation."""

    preferences: str = ""
    """A file of preferences (docs/preference_algorithms.md), as `seqrl label` writes it."""
    label_smoothing: float = 0.0
    """ε, the share of the choices that are taken to be wrong; for dpo."""
    objective: Objective = "dpo"
    """dpo, or ipo."""


def loss(agent: LanguageAgent, windows: Referenced, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean error of the pairs. The metrics are detached; rewards are β log π/π_ref, means over pairs."""
    pairs: PreferencePairs = windows.batch
    chosen, rejected = log_probs(agent, pairs) - windows.reference
    if config.objective == "ipo":
        error = ipo_error(chosen / pairs.chosen.mask.sum(0), rejected / pairs.rejected.mask.sum(0), config.beta)
    else:
        error = dpo_error(chosen, rejected, config.beta, config.label_smoothing)
    total = error.mean()
    with torch.no_grad():
        metrics = {
            "loss": total,
            "accuracy": 0.5 * (1 + (chosen - rejected).sign()).mean(),  # of two that are equal, half
            "chosen_reward": config.beta * chosen.mean(),
            "rejected_reward": config.beta * rejected.mean(),
        }
    return total, {name: value.detach() for name, value in metrics.items()}


def log_probs(agent: LanguageAgent, pairs: PreferencePairs) -> Tensor:
    """log π of the chosen answers and of the rejected, [2, B]."""
    return torch.stack([log_prob(agent, pairs.chosen), log_prob(agent, pairs.rejected)])


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_preference(config)
    known = get_args(Objective)
    require(config.objective in known, f"--objective '{config.objective}': choose one of {', '.join(known)}")
    require(bool(config.preferences), "no preferences given: name a file with --preferences (seqrl label)")
    smoothing = config.label_smoothing
    require(0 <= smoothing < 0.5, f"--label-smoothing is {smoothing}: it must be from 0 to below 0.5")
    require(
        smoothing == 0 or config.objective == "dpo", f"--label-smoothing {smoothing} with --objective ipo: it is dpo's"
    )


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> LanguageAgent:
    """The agent with a policy that is not loaded yet; the run's config says which model it is."""
    return LanguageAgent(tokenizer, make_model(config, tokenizer))


def train(config: Config, resume: bool = False) -> LanguageAgent:
    """Train on the pairs in `config.preferences`, and return the agent. With `resume`, continue the run, bit for bit.

    With several learners a script needs `if __name__ == "__main__":`.

    Raises UserError for bad settings, preferences or a policy that cannot be read, an existing run folder, or a loss
    that is not finite.
    """
    check(config)
    alone = learn_together(train_share, config, resume)
    return alone if alone is not None else tuned_together(config)


def train_share(group: Group, config: Config, resume: bool) -> LanguageAgent:
    """What one learner of `group` does of `train`."""

    def dataset(tokenizer: Tokenizer) -> PreferenceDataset:
        return PreferenceDataset.of(read_preferences(config.preferences), tokenizer)

    return tune(of_one(group, config), dataset, loss, log_probs, resume, group)
