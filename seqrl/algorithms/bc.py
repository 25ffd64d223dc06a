"""Behaviour cloning of dialogues: the agent's tokens are predicted from all that was said before.

    loss = −mean over the agent's tokens a_d of log π(a_d | tokens before)

The other speaker's tokens are read and not predicted, unless `reading_weight` asks for their likelihood too: to know
what will be said teaches a model to read, before its features are used for values. With a `best_share` below 1 only the
dialogues with the highest returns are learnt from: filtered BC. `policy` names a run as whose policy training begins:
a clone of the best dialogues, say, which knows what good ones have in common before it meets all.

Source: Pomerleau 1989; as baselines for language, Snell et al. 2022 (ILQL, arXiv 2206.11871) and LMRL-Gym (Abdulhai et
al. 2023, arXiv 2311.18232).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqrl.config import require, require_not_negative
from seqrl.language.agent import LanguageAgent
from seqrl.language.logged import DialogueDataset, DialogueWindows
from seqrl.language.rows import decisions
from seqrl.language_runs.config import LanguageConfig, check_shared, check_sizes, configured_task, make_model
from seqrl.language_runs.lengths import check_windows
from seqrl.language_runs.preferences import with_model_of
from seqrl.language_runs.run import check_reads, dialogue_windows, open_run, read_dataset, read_tokenizer, split
from seqrl.objectives import masked_mean
from seqrl.offline.training import fit
from seqrl.run_folder import CHECKPOINT, load_weights
from seqrl.text import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """Behaviour cloning of dialogues."""

    best_share: float = 1.0
    """Share of the dialogues, those with the highest returns, that are learnt from."""
    reading_weight: float = 0.0
    """Weight of −log π of the other speaker's tokens, besides the agent's."""
    policy: str = ""
    """Run of bc, dpo, kto or rlhf as whose policy training begins, of its model and vocabulary; by default it begins
    with new weights."""


def loss(agent: LanguageAgent, windows: DialogueWindows, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """−log π of the agent's tokens, a mean over those of all windows. The metrics are detached."""
    tokens, following, chosen = windows.tokens[:-1], windows.tokens[1:], decisions(windows.learnt)
    y = agent.policy(tokens) if config.reading_weight else None  # of every row, where each is predicted
    action = chosen.of(following)
    logits = agent.policy.logits(agent.policy.forward_at(tokens, chosen) if y is None else chosen.of(y))
    total = masked_mean(_surprise(logits, action), chosen.valid)
    metrics = {"loss": total.detach(), "accuracy": masked_mean((logits.argmax(-1) == action).float(), chosen.valid)}
    if y is not None:
        # An <end of utterance> that is no decision was said by nobody: the turn was cut off.
        said = (following != agent.tokenizer.pad_id) & (following != agent.tokenizer.end_of_utterance_id)
        read = decisions(~windows.mask & said)
        surprise = masked_mean(_surprise(agent.policy.logits(read.of(y)), read.of(following)), read.valid)
        total = total + config.reading_weight * surprise
        metrics["reading_loss"] = surprise.detach()
    return total, metrics


def _surprise(logits: Tensor, token: Tensor) -> Tensor:
    """−log of each token's probability."""
    return -logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_shared(config)
    require_not_negative(config, "reading_weight")
    require(0 < config.best_share <= 1, f"--best-share is {config.best_share}: it must be above 0, and at most 1")


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> LanguageAgent:
    """The untrained agent. Weights depend on the seed alone."""
    return LanguageAgent(tokenizer, make_model(config, tokenizer))


def train(config: Config, resume: bool = False) -> LanguageAgent:
    """Train on the log in `config.dialogues`, and return the agent. With `resume`, continue the run, bit for bit.

    Raises UserError for bad settings, a log that cannot be read, an existing run folder, or a loss that is not finite.
    """
    check(config)
    if config.policy and not resume:
        config = with_model_of(config, config.policy)
    elif not resume:
        check_sizes(config)
    known = config.run_dir if resume else config.policy  # whose vocabulary is kept
    dataset, tokenizer = read_dataset(config, read_tokenizer(known) if known else None, gamma=1.0)
    agent = build(config, tokenizer)
    if config.policy and not (Path(config.run_dir) / CHECKPOINT).exists():
        if config.task:
            check_reads(tokenizer, configured_task(config), config.policy)
        load_weights(agent.policy, config.policy, "policy")
    dataset, held_out = split(dataset, config)
    if config.best_share < 1:
        dataset = dataset.best(config.best_share)
        held_out = None if held_out is None else held_out.best(config.best_share)  # of what is cloned
    check_windows(agent.policy, (dataset, held_out), config.context_turns)
    with open_run(config, tokenizer, resume) as run:
        fit(config, agent, dataset, held_out, run, loss, _nothing, dialogue_windows)
    return agent.eval()


def _nothing(agent: LanguageAgent, dataset: DialogueDataset) -> None:
    """A log says nothing of itself that cloning needs."""
