"""A reward model: what people prefer, learnt from pairs of answers and which of the two they chose.

    p(a over b) = σ(R(a) − R(b)),   R(a) = Σ over the turns k of an answer of r(a, k)
    loss = −mean over pairs of log p(chosen over rejected), a sum over the models of an ensemble

r is a scalar head on a language model, read behind the agent's last token of a turn (`seqrl.language.reward_model`).
Models begin as the policy of a run of `bc`, or fresh, with heads (and then weights) of their own seeds, and each learns
from its own bootstrap of the pairs: as many, drawn with replacement. Their mean is the score, their standard deviation
says how far they disagree. One model alone learns from all pairs. At the end scores are centred and scaled to mean 0
and standard deviation 1 over all answers that were learnt from.

Source: Bradley & Terry 1952; Christiano et al. 2017 (arXiv 1706.03741), Stiennon et al. 2020 (arXiv 2009.01325).
"""

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from seqrl.config import require, require_at_least_one
from seqrl.data.dialogues import Dialogue
from seqrl.data.preferences import Preference, read_preferences
from seqrl.distributed import ALONE, Group
from seqrl.distributed.sharding import Whole
from seqrl.language.preferences import PreferenceDataset, PreferencePairs
from seqrl.language.reward_model import RewardAgent, turn_ends
from seqrl.language.reward_report import answers, reward_report
from seqrl.language_runs.config import LanguageConfig, check_shared, check_sizes, make_tokenizer, refuse_unread
from seqrl.language_runs.learners import (
    before_sharing,
    check_learners,
    learn_together,
    of_one,
    open_shared,
    share_weights,
)
from seqrl.language_runs.lengths import check_judged
from seqrl.language_runs.preferences import held_out_by, with_model_of
from seqrl.language_runs.rewards import REPORT, load_reward_model, make_reward_agent
from seqrl.language_runs.run import read_tokenizer
from seqrl.objectives.preference import bradley_terry_error
from seqrl.offline.training import fit
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT
from seqrl.seeds import derived_seed
from seqrl.text import Tokenizer
from seqrl.trajectory import to_device


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """A reward model of preferences."""

    preferences: str = ""
    """A file of preferences (docs/preferences.md), as `seqrl label` writes it."""
    policy: str = ""
    """Run of bc as whose policy the reward models begin, of its model and vocabulary; by default they begin fresh."""
    num_models: int = 1
    """Models of the ensemble: their mean is the score, how far they differ says how far to trust it."""
    label_smoothing: float = 0.0
    """Share of the choices that are taken to be wrong, so that no margin grows without end."""
    num_steps: int = 500
    """Updates to train for."""
    batch_size: int = 32
    """Pairs of a batch, of each model's own."""
    num_learners: int = 1
    """Processes that learn together, each from its share of every batch; on cuda, each on its own GPU."""
    shard: bool = False
    """Whether several learners keep a part of each weight only, and put a transformer's blocks together while they are
    computed (FSDP): for models that are too large for one."""
    held_out: float = 0.1
    """Share of the prompts whose pairs are not learnt from: they say how far the model can be trusted; 0 for none.
    Where prompts are too few to share out, of the questions, by their ids."""


class _Bootstraps:
    """For each model of an ensemble the pairs that it learns from; of each batch, what this learner has of it."""

    def __init__(self, dataset: PreferenceDataset, config: Config, group: Group = ALONE) -> None:
        self.dataset, self.group = dataset, group
        size = len(dataset)
        generator = torch.Generator().manual_seed(derived_seed(config.seed, 9))
        draws = [torch.randint(size, (size,), generator=generator) for _ in range(config.num_models)]
        self.numbers = draws if config.num_models > 1 else [torch.arange(size)]

    def __len__(self) -> int:
        return len(self.dataset)

    def windows(self, count: int, generator: torch.Generator) -> tuple[PreferencePairs, ...]:
        """`count` pairs for each model, over all learners."""
        drawn = [numbers[torch.randint(len(numbers), (count,), generator=generator)] for numbers in self.numbers]
        return tuple(self.dataset.pairs(numbers[self.group.rank :: self.group.size]) for numbers in drawn)


def loss(agent: RewardAgent, windows: tuple[PreferencePairs, ...], config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """−log p(chosen over rejected), means over each model's pairs, their sum. The metrics are detached means."""
    errors, right = [], []
    for member, pairs in zip(agent.ensemble.members, windows, strict=True):
        batch = answers(pairs)
        ends = turn_ends(batch.mask)
        chosen, rejected = member(batch.tokens, ends).masked_fill(~ends.valid, 0.0).sum(0).chunk(2)
        errors.append(bradley_terry_error(chosen, rejected, config.label_smoothing).mean())
        right.append((chosen > rejected).float().mean())
    total = torch.stack(errors)
    return total.sum(), {"loss": total.mean().detach(), "accuracy": torch.stack(right).mean()}


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense."""
    check_shared(config, needs_log=False)
    require(bool(config.preferences), "no preferences given: name a file with --preferences (seqrl label)")
    require_at_least_one(config, "num_models")
    check_learners(config)
    require(
        0 <= config.label_smoothing < 0.5,
        f"--label-smoothing is {config.label_smoothing}: it must be from 0 to below 0.5",
    )


def build(config: Config, tokenizer: Tokenizer, run: Any = None) -> RewardAgent:
    """The untrained agent; of a run folder `run` the trained one. Weights depend on the seed alone."""
    return load_reward_model(run) if run else make_reward_agent(config, tokenizer, config.num_models)


def train(config: Config, resume: bool = False) -> RewardAgent:
    """Train on the pairs in `config.preferences`, and return the agent. With `resume`, continue, bit for bit.

    What the held-out pairs say of it is written to the run folder (held_out.json).

    With several learners a script needs `if __name__ == "__main__":`.

    Raises UserError for bad settings, preferences or a policy that cannot be read, an existing run folder, or a loss
    that is not finite.
    """
    check(config)
    alone = learn_together(train_share, config, resume)
    return load_reward_model(config.run_dir, before_sharing(config).device) if alone is None else alone


def train_share(group: Group, config: Config, resume: bool) -> RewardAgent:
    """What one learner of `group` does of `train`: the first one tells of the held-out pairs, and writes."""
    config = of_one(group, config)
    preferences = list(read_preferences(config.preferences))
    if not resume:
        unread = ("dialogues", "context_turns", "max_tokens")
        refuse_unread(config, unread, "a reward model learns from whole --preferences, and does not speak")
    if config.policy and not resume:
        config = with_model_of(config, config.policy)
    elif not resume:
        check_sizes(config)
    if resume or config.policy:
        tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    else:
        tokenizer = make_tokenizer(config, list(_conversations(preferences)))
    dataset = PreferenceDataset.of(preferences, tokenizer)
    learnt, kept = _split(dataset, config)
    begun = (Path(config.run_dir) / CHECKPOINT).exists()  # else the weights come from the policy
    agent = make_reward_agent(before_sharing(config), tokenizer, config.num_models, "" if begun else config.policy)
    member: Any = agent.ensemble.members[0]
    check_judged(member.model, dataset)
    dataset, held_out = dataset.subset(learnt), dataset.subset(kept) if kept else None
    if config.shard:
        _share(agent, config)
    first = group.rank == 0
    with open_shared(group, config, tokenizer, resume) as run:
        pairs, kept_out = _Bootstraps(dataset, config, group), held_out if first or config.shard else None
        fit(config, agent, pairs, kept_out, run, loss, _nothing, _draw, group=group, rows=_count, sharded=config.shard)
        if first or config.shard:  # it takes all to read with weights of which each has a part
            _finish(agent, dataset, held_out, run, first)
    return agent.eval()


def _share(agent: RewardAgent, config: Config) -> None:
    """Leave this learner a part of each model's weights, on its device, and what is centred and scaled by."""
    members: list[Any] = list(agent.ensemble.members)
    for member in members:
        share_weights(member, member.model, config)
    for name, buffer in agent.ensemble.named_buffers(recurse=False):
        setattr(agent.ensemble, name, buffer.to(config.device))


def _finish(
    agent: RewardAgent, dataset: PreferenceDataset, held_out: PreferenceDataset | None, run: Run, writes: bool
) -> None:
    """Centre and scale by what was learnt from, and write that, and what the held-out pairs say."""
    _describe(agent, dataset)
    state = Whole(agent).state_dict()
    report = reward_report(agent, held_out).to_json() if held_out is not None else None
    if writes:
        path = run.folder / CHECKPOINT
        tree, counters = load_checkpoint(path)
        save_checkpoint(path, {**tree, "agent": state}, counters)
    if writes and report is not None:
        write_atomically(run.folder / REPORT, (json.dumps(report, indent=2) + "\n").encode())


def _split(dataset: PreferenceDataset, config: Config) -> tuple[list[int], list[int]]:
    """Numbers of the pairs to learn from, and of those held out, if any are: by prompts, since that A is better than B,
    and B than C, says how A and C compare. Where one prompt is more than the share, by names, since what one labeller
    chose says what others will."""
    prompts = dataset.questions()
    questions: list[Hashable] = prompts if len(set(prompts)) * config.held_out >= 1 else list(dataset.names)
    if config.held_out == 0 or len(set(questions)) == 1:
        return list(range(len(questions))), []
    return held_out_by(questions, config)


def _conversations(preferences: list[Preference]) -> Iterator[Dialogue]:
    """Whose words are the vocabulary, where no task and no policy has one."""
    for each in preferences:
        for answer in (each.chosen, each.rejected):
            yield Dialogue(id=each.id, turns=(*each.prompt, *answer), agent=each.agent)


def _draw(
    dataset: _Bootstraps | PreferenceDataset, count: int, config: Config, generator: torch.Generator
) -> tuple[PreferencePairs, ...]:
    if isinstance(dataset, _Bootstraps):
        return dataset.windows(count, generator)
    return (dataset.windows(count, generator),) * config.num_models  # held out: the same for all


def _count(windows: tuple[PreferencePairs, ...]) -> float:
    """Pairs of a batch, of each model's own."""
    return float(windows[0].chosen.tokens.shape[1])


def _nothing(agent: RewardAgent, dataset: Any) -> None:
    """What the pairs say of themselves is told at the end, when the models are known."""


@torch.no_grad()
def _describe(agent: RewardAgent, dataset: PreferenceDataset, batch_size: int = 256) -> None:
    """Centre and scale by all answers of `dataset`."""
    ensemble, returns, several = agent.ensemble, [], False
    for first in range(0, len(dataset), batch_size):
        pairs = dataset.pairs(range(first, min(first + batch_size, len(dataset))))
        batch = to_device(answers(pairs), ensemble.mean.device)
        ends = turn_ends(batch.mask)
        several |= len(ends.row) > 1
        returns.append(torch.stack([
            member(batch.tokens, ends).masked_fill(~ends.valid, 0.0).sum(0) for member in ensemble.members
        ]))  # fmt: skip
    ensemble.describe(torch.cat(returns, 1), several)
