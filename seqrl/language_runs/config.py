"""What every algorithm that learns to speak is configured by, and what is built from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from seqrl.config import (
    device,
    parse_env_kwargs,
    require,
    require_above_zero,
    require_at_least_one,
    require_not_negative,
)
from seqrl.data.dialogues import Dialogue, read_dialogues, shown
from seqrl.errors import UserError, nearest, quoted
from seqrl.language.gpt2 import GPT2, GPT2Config
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.memory import Memory, Transformer
from seqrl.memory.make import MEMORIES, make_memory
from seqrl.text import TASKS, TextTask, Tokenizer, make_task


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings that mean the same for every algorithm that learns from logged dialogues."""

    dialogues: str = ""
    """A log of dialogues (docs/dialogues.md), as `seqrl collect --task` and `seqrl import` write it."""
    task: str = ""
    """The task to speak in, such as wordle: its vocabulary is taken, and `seqrl evaluate` plays it. May be left out."""
    task_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of the task, such as partly_observed=true; values are JSON."""
    seed: int = 0
    """Seeds the weights and the order of dialogues."""
    run_dir: str = ""
    """Folder to write; must not exist yet. By default runs/TASK_ALGORITHM_sSEED, numbered if that is taken."""
    device: str = "cpu"
    """cpu, cuda, or cuda:N."""

    model: str = "gru"
    """What reads and speaks: a memory by name (gru, lstm, linear, transformer, …), gpt2, or a folder with a Hugging
    Face model and its tokenizer, whose weights are where training begins."""
    lora_rank: int = 0
    """Rank of the adapters that are trained in a folder's model in place of its own weights; 0 for the weights."""
    gradient_checkpointing: bool = False
    """Whether a transformer's blocks are computed again for the gradient, in place of being kept: less memory, a third
    more time. For the transformer, gpt2, and a folder's model."""
    hidden_size: int = 128
    """Width of the model."""
    num_layers: int = 2
    """Layers of a transformer or a gpt2."""
    num_heads: int = 4
    """Heads of their attention."""
    context_length: int = 512
    """Tokens that a layer of the transformer looks back, or the most of a conversation that a gpt2 can read."""
    max_tokens: int = 64
    """Tokens of an utterance, after which it is cut."""

    num_steps: int = 4_000
    """Updates to train for."""
    batch_size: int = 64
    """Dialogues, or windows of them, of a batch."""
    context_turns: int = 0
    """The agent's turns in a window that is learnt from; 0 for whole dialogues."""
    learning_rate: float = 1e-3
    """Adam's largest step size; it falls linearly to 0 at the last update."""
    warmup: int = 100
    """Updates in which it rises to that."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: float = 0.0
    """AdamW's λ: an update first shrinks every weight by the share learning_rate · λ."""
    held_out: float = 0.05
    """Share of the dialogues that are not learnt from: the log shows the loss on them; 0 for none."""
    log_every: int = 100
    """Updates between two lines of the log."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""


def check_shared(config: LanguageConfig, *, needs_log: bool = True) -> None:
    """Raise UserError for settings of `LanguageConfig` that make no sense; without a log, if it `needs_log`."""
    require(
        bool(config.dialogues) or not needs_log,
        "no dialogues given: name a log with --dialogues (seqrl collect --task, docs)",
    )
    require_at_least_one(
        config, "hidden_size", "num_layers", "num_heads", "context_length", "max_tokens", "num_steps", "batch_size",
        "log_every", "checkpoint_every",
    )  # fmt: skip
    require_above_zero(config, "learning_rate", "max_grad_norm")
    require_not_negative(config, "warmup", "weight_decay", "context_turns", "lora_rank")
    require(
        config.lora_rank == 0 or Path(config.model).is_dir(),
        f"--lora-rank {config.lora_rank} with --model {config.model}: adapters are for a folder's model",
    )
    require(
        bool(config.task) or not config.task_kwargs,
        f"--task-kwargs {' '.join(config.task_kwargs)} without --task: name the task too, or leave them out",
    )
    parse_env_kwargs(config.task_kwargs, "--task-kwargs")
    require(0 <= config.seed < 2**31, f"--seed is {config.seed}: it must be from 0 to {2**31 - 1}")
    require(
        config.learning_rate * config.weight_decay < 1,
        f"--weight-decay {config.weight_decay} with --learning-rate {config.learning_rate}: "
        "an update would leave nothing of the weights; their product must be below 1",
    )
    require(0 <= config.held_out < 1, f"--held-out is {config.held_out}: it must be from 0 to below 1")


def refuse_unread(config: Any, names: Iterable[str], why: str) -> None:
    """Raise UserError for the first of the settings `names` that is given although nothing reads it.

    For runs that begin: those of older versions may have such settings, and do not miss them.
    """
    default = type(config)()
    for name in names:
        value = getattr(config, name)
        require(value == getattr(default, name), f"--{name.replace('_', '-')} {value} is not read: {why}; leave it out")


def check_sizes(config: LanguageConfig) -> None:
    """Raise UserError for sizes that a new model of `config` does not have."""
    if Path(config.model).is_dir():
        refuse_unread(config, ("hidden_size", *OF_TRANSFORMERS), f"the model in {config.model} has its own sizes")
    elif config.model not in ("transformer", "gpt2"):
        refuse_unread(config, OF_TRANSFORMERS, f"--model {config.model} has none, only a transformer or a gpt2 has")


OF_TRANSFORMERS = ("num_layers", "num_heads", "context_length")


def configured_task(config: LanguageConfig) -> TextTask[Any]:
    """The task that `config` names. Raises UserError where it names none."""
    require(bool(config.task), f"no task given: name one with --task ({', '.join(TASKS)})")
    return make_task(config.task, **parse_env_kwargs(config.task_kwargs, "--task-kwargs"))


def read_log(config: LanguageConfig) -> list[Dialogue]:
    """The logged dialogues of `config`."""
    return list(read_dialogues(config.dialogues))


def check_rewarded(config: LanguageConfig) -> None:
    """Raise UserError where no turn of the agent has a reward, or all are 0, in the log of `config`: as all values
    would be."""
    turns = (turn for log in read_dialogues(config.dialogues) for turn in log.turns if turn.speaker == log.agent)
    log = shown(config.dialogues, 1000)
    require(
        any(turn.reward for turn in turns),  # reading ends at the first
        f"{log}: no turn has a reward, or all are 0: nothing to learn values from; train bc, or weigh answers first "
        f"with seqrl reward {quoted(log)} --thumbs 1 --output FILE (or another of its rewards)",
    )


def make_tokenizer(config: LanguageConfig, dialogues: list[Dialogue]) -> Tokenizer:
    """The vocabulary of a folder's model, else the task's own, or without a task the words that the log has twice, and
    bytes for all others."""
    if Path(config.model).is_dir():
        return _load_folder(config)[1]
    if config.task:
        return configured_task(config).tokenizer
    texts = (turn.text for dialogue in dialogues for turn in dialogue.turns)
    return Tokenizer.of_words(texts, byte_fallback=True, min_count=2)


def make_model(config: LanguageConfig, tokenizer: Tokenizer) -> LanguageModel:
    """The untrained model that `config` describes. Weights depend on its seed alone."""
    model = _make_model(config, tokenizer).to(device(config))
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model


def _make_model(config: LanguageConfig, tokenizer: Tokenizer) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model in MEMORIES:
            return MemoryModel(len(tokenizer), _make_memory(config))
        if config.model == "gpt2":
            sizes = GPT2Config(
                vocabulary_size=len(tokenizer),
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                context_length=config.context_length,
            )
            return GPT2(sizes)
        if Path(config.model).is_dir():
            return _load_folder(config)[0]
    known = nearest(config.model, (*MEMORIES, "gpt2"))
    raise UserError(f"unknown model '{config.model}' (--model): {known}, or name a folder with a model")


def _load_folder(config: LanguageConfig) -> tuple[LanguageModel, Tokenizer]:
    from seqrl.language.hugging_face import HuggingFaceModel, load_hugging_face  # needs transformers

    model, tokenizer = load_hugging_face(config.model, own=config.lora_rank == 0)
    if config.lora_rank > 0:
        from seqrl.language.adapters import add_lora  # needs peft

        assert isinstance(model, HuggingFaceModel)
        model = add_lora(model, config.lora_rank, 2 * config.lora_rank)
    return model, tokenizer


def _make_memory(config: LanguageConfig) -> Memory:
    width = config.hidden_size
    if config.model != "transformer":
        return make_memory(config.model, width, width)
    return Transformer(width, width, config.num_layers, config.num_heads, window=config.context_length)
