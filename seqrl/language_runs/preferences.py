"""What runs share that learn from judged answers: the policy they begin as, and what it thinks of the answers.

The reference π_ref is that policy, frozen. Its log-probabilities are computed once, in groups of answers that are drawn
once, and each update learns from one of these groups. So they come from the code that trains, on the very same tensors:
before the first update every log-ratio is 0 to the last bit, which answers put side by side otherwise would not give.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqrl.checkpoint import load_checkpoint, save_checkpoint
from seqrl.config import require, require_above_zero
from seqrl.data.held_out import parted
from seqrl.distributed import ALONE, Group
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import sayable
from seqrl.language.preferences import answer_log_prob
from seqrl.language.rows import TokenBatch
from seqrl.language_runs.config import LanguageConfig, check_shared, make_model, refuse_unread
from seqrl.language_runs.learners import before_sharing, check_learners, open_shared, share_weights
from seqrl.language_runs.lengths import check_judged
from seqrl.language_runs.run import read_tokenizer
from seqrl.offline.training import Loss, fit
from seqrl.own_code import algorithm_of
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, holds_part, load_weights, read_json
from seqrl.text import Tokenizer
from seqrl.trajectory import to_device

REFERENCE = "reference.safetensors"
"""What the reference thinks of the answers, in the run folder: resuming does not need its weights."""
OF_THE_MODEL = ("model", "lora_rank", "hidden_size", "num_layers", "num_heads", "context_length")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(LanguageConfig):
    """Settings that mean the same for algorithms that learn from judged answers. The model is the policy's: --model
    and its sizes are not read."""

    policy: str = ""
    """Run of bc as whose policy training begins; frozen, it is the reference too."""
    beta: float = 0.1
    """β: how dear it is to move from the reference. The larger, the nearer the policy stays."""
    num_steps: int = 300
    """Updates to train for. Labels are few: watch the log's held-out loss."""
    batch_size: int = 32
    """Answers, or pairs of them, of a batch."""
    learning_rate: float = 1e-3
    """Adam's largest step size; it falls linearly to 0 at the last update. Large models need a far smaller one."""
    held_out: float = 0.1
    """Share of the prompts whose answers are not learnt from: the log shows the loss on them; 0 for none. Of a log of
    dialogues, a share of the dialogues."""
    num_learners: int = 1
    """Processes that learn together, each from its share of every batch; on cuda, each on its own GPU."""
    shard: bool = False
    """Whether several learners keep a part of each weight only, and put a transformer's blocks together while they are
    computed (FSDP): for models that are too large for one."""


C = TypeVar("C", bound=PreferenceConfig)
L = TypeVar("L", bound=LanguageConfig)


class JudgedDataset(Protocol):
    """Answers, or pairs of them, by numbers."""

    def __len__(self) -> int: ...
    def batch(self, numbers: Any) -> Any: ...


LogProbs = Callable[[LanguageAgent, Any], Float[Tensor, "2 B"]]
"""What an algorithm compares with the reference's: two log-probabilities for each entry of a batch."""


class Referenced(NamedTuple):
    """A batch, and what the reference thinks of it."""

    batch: Any
    reference: Float[Tensor, "2 B"]


class Groups:
    """N answers, or pairs, in groups of `size` or a few more, drawn once by `seed`, with the reference's opinion.

    Several `learners` have a share of every group each, whose opinion they ask for themselves.
    """

    def __init__(self, dataset: JudgedDataset, size: int, seed: int, learners: Group = ALONE) -> None:
        self.dataset = dataset
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        groups = torch.tensor_split(order, max(1, len(dataset) // size))
        self.sizes = torch.tensor([len(group) for group in groups], dtype=torch.float)
        require(
            int(self.sizes.min()) >= learners.size,
            f"a batch of {int(self.sizes.min())} answers is less than one for each of --num-learners {learners.size}",
        )
        self.groups = [torch.tensor_split(group, learners.size)[learners.rank] for group in groups]
        self.reference = torch.zeros(2, len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    @torch.no_grad()
    def ask(self, agent: LanguageAgent, log_probs: LogProbs) -> None:
        """Let the agent, as it is now, be the reference."""
        for group in self.groups:
            batch = to_device(self.dataset.batch(group), agent.device)
            self.reference[:, group] = log_probs(agent, batch).cpu()

    def draw(self, generator: torch.Generator) -> Referenced:
        """One of the groups, each as likely as it is large: so every answer is learnt from as often as others."""
        group = self.groups[int(torch.multinomial(self.sizes, 1, generator=generator))]
        return Referenced(self.dataset.batch(group), self.reference[:, group])


def check_preference(config: PreferenceConfig) -> None:
    """Raise UserError for settings of `PreferenceConfig` that make no sense."""
    check_shared(replace(config, lora_rank=0), needs_log=False)
    require_above_zero(config, "beta")
    check_learners(config)
    require(bool(config.policy), "no policy to begin as: name a run of bc with --policy (seqrl train bc)")


def log_prob(agent: LanguageAgent, batch: TokenBatch) -> Float[Tensor, "B"]:
    """log π(answer | what was said before), of the tokens that an agent may draw: what is trained is what speaks."""
    allowed: Bool[Tensor, "V"] = sayable(agent.tokenizer).to(batch.tokens.device)
    return answer_log_prob(agent.policy, batch, allowed)


def with_model_of(config: L, policy: str, why: str = "the model is that of the policy in") -> L:
    """`config` with the model of a run, and its task where `config` has none.

    Raises UserError, which says `why`, for a model or sizes that `config` asks for, and which are not the run's.
    """
    settings = settings_of_policy(policy)
    taken = {name: settings[name] for name in OF_THE_MODEL if name in settings}
    others = [name for name, value in taken.items() if getattr(config, name) != value]
    refuse_unread(config, others, f"{why} {policy}")
    return with_task_of(replace(config, **taken), policy)


def with_task_of(config: L, policy: str) -> L:
    """`config` with the task of a run, where it has none."""
    settings = settings_of_policy(policy)
    if config.task or not settings.get("task"):
        return config
    return replace(config, task=settings["task"], task_kwargs=tuple(settings.get("task_kwargs", ())))


def settings_of_policy(run: str | Path) -> dict[str, Any]:
    """What config.json says of a run whose policy is taken, also of an algorithm of one's own.

    Raises UserError where it has none that stands alone.
    """
    settings = read_json(Path(run), "config.json")
    kind, began_as = str(settings.get("type")), settings.get("policy")
    instead = f", such as the policy in it, {began_as}" if began_as else ""
    known = f"{', '.join(KINDS)}, or of a copy of theirs, whose policy stands alone"
    # A copy of ours, which like them has the model of its policy in config.json; where it is in a file, it is steered.
    like_them = ":" in kind and "model" in settings and not (Path(run) / "policy.json").exists()
    require(
        kind in KINDS or (like_them and holds_part(run, "policy")),
        f"{run} is a run of {kind}: give one of {known}{instead}",
    )
    return settings


def check_temperature(policy: str) -> None:
    """Raise UserError for a run of rlhf that speaks at another temperature than 1, at which it was fine-tuned: its
    logits alone, from which it would be steered or measured, are another policy's."""
    temperature = float(settings_of_policy(policy).get("temperature", 1.0))
    require(
        temperature == 1,
        f"{policy} was fine-tuned to speak at --temperature {temperature:g}, and would be another policy here, at 1: "
        "give a run that was fine-tuned at 1, or the policy that it began as",
    )


KINDS = ("bc", "dpo", "kto", "rlhf")
"""Runs of ours whose checkpoint has a policy, of the model that config.json says."""


def tune(
    config: C,
    dataset_of: Callable[[Tokenizer], Any],
    loss: Loss,
    log_probs: LogProbs,
    resume: bool,
    learners: Group = ALONE,
    held_out_loss: Loss | None = None,
) -> LanguageAgent:
    """Train the policy of `config.policy` on judged answers, and return it. With `resume`, continue, bit for bit.

    This is one of the `learners`, if there are several: its loss must be a mean over the entries of a batch. Where it
    asks the other learners, `held_out_loss` is the one that does not, for what the first alone looks at.
    """
    if not resume:
        refuse_unread(config, ("dialogues", "context_turns"), f"{algorithm_of(config)} learns from judged answers")
        check_temperature(config.policy)
        config = with_model_of(config, config.policy)
    tokenizer = read_tokenizer(config.run_dir if resume else config.policy)
    agent = LanguageAgent(tokenizer, make_model(before_sharing(config), tokenizer))
    dataset, held_out = dataset_of(tokenizer), None
    check_judged(agent.policy, dataset)
    if config.held_out > 0 and len(dataset) > 1:
        kept, left_out = held_out_by(dataset.questions(), config)
        looks = learners.rank == 0 or config.shard  # the first tells of it
        held_out = Groups(dataset.subset(left_out), 256, 0) if looks else None
        dataset = dataset.subset(kept)
    learnt = Groups(dataset, config.batch_size, config.seed, learners)
    with open_shared(learners, config, tokenizer, resume) as run:
        if not (run.folder / CHECKPOINT).exists():
            load_weights(agent.policy, config.policy, "policy")
        share_weights(agent.policy, agent.policy, config, methods=["logits"])
        _ask_reference(agent, run, config, {"learnt": learnt, "held_out": held_out}, log_probs, learners)
        fit(
            config, agent, learnt, held_out, run, loss, _nothing, _draw, group=learners, rows=_count,
            held_out_loss=held_out_loss, sharded=config.shard,
        )  # fmt: skip
    return agent.eval()


def tuned_together(config: PreferenceConfig) -> LanguageAgent:
    """The agent in the run folder that several learners have written."""
    tokenizer = read_tokenizer(config.run_dir)
    agent = LanguageAgent(tokenizer, make_model(before_sharing(with_model_of(config, config.run_dir)), tokenizer))
    load_weights(agent, config.run_dir)
    return agent.eval()


def held_out_by(questions: list[Hashable], config: LanguageConfig) -> tuple[list[int], list[int]]:
    """Numbers of the answers to learn from, and of those held out: all answers to a share of the questions, since one
    says something of another. Where there is one question alone, a share of its answers."""
    generator = torch.Generator().manual_seed(config.seed)
    parts = parted(questions, config.held_out, lambda n: torch.randperm(n, generator=generator).tolist())
    learnt, held_out = (part.tolist() for part in parts)
    return learnt, held_out


def _ask_reference(
    agent: LanguageAgent,
    run: Run,
    config: PreferenceConfig,
    parts: dict[str, Groups | None],
    log_probs: LogProbs,
    learners: Group,
) -> None:
    """Give every group the reference's log-probabilities: from the run's file, or of the policy that `agent` is.

    A run that has no checkpoint yet begins as the policy, also when it is resumed.
    """
    path, begun = run.folder / REFERENCE, (run.folder / CHECKPOINT).exists()
    groups = {key: part for key, part in parts.items() if part is not None}
    if not begun:
        for part in groups.values():
            part.ask(agent, log_probs)
        learnt = groups["learnt"]
        everyones = learners.gather(learnt.reference.tolist())  # each its own, and 0 for others'
        learnt.reference = torch.stack([torch.tensor(one) for one in everyones]).sum(0)
        if learners.rank == 0:
            save_checkpoint(path, {key: part.reference for key, part in groups.items()}, {})
        return
    tree, _ = load_checkpoint(path)
    for key, part in groups.items():
        known: Any = tree.get(key) if isinstance(tree, dict) else None
        require(
            isinstance(known, Tensor) and known.shape == part.reference.shape,
            f"{path} does not fit the answers: resume with the file of answers that the run began with",
        )
        part.reference = known


def _draw(groups: Groups, count: int, config: PreferenceConfig, generator: torch.Generator) -> Referenced:
    return groups.draw(generator)


def _count(windows: Referenced) -> float:
    """Entries of a batch."""
    return float(windows.reference.shape[1])


def _nothing(agent: LanguageAgent, groups: Groups) -> None:
    """Judged answers say nothing of themselves that learning needs."""
