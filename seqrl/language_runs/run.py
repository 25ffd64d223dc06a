"""The run folder of what learns to speak: config.json, vocabulary.json, checkpoint.safetensors, metrics.jsonl."""

from pathlib import Path
from typing import Any

import torch

from seqrl.config import require
from seqrl.data.dialogues import Dialogue, shown
from seqrl.language.logged import DialogueDataset, DialogueWindows
from seqrl.language.scripted import scripted_dialogues
from seqrl.language.tokenizers import tokenizer_of
from seqrl.language_runs.config import LanguageConfig, make_tokenizer, read_log
from seqrl.own_code import algorithm_of
from seqrl.run import Run
from seqrl.run_folder import config_to_json, create_folder, read_json
from seqrl.text import TextTask, Tokenizer

MOST_SPELT = 0.25
"""Of a task's words, the share that a run may lack: of a log of the same task few, of another most are lacking."""


def dialogue_windows(
    dataset: DialogueDataset, count: int, config: LanguageConfig, generator: torch.Generator
) -> DialogueWindows:
    """Windows of logged dialogues, for `seqrl.offline.training.fit`."""
    return dataset.windows(count, config.context_turns, generator)


def read_dataset(
    config: LanguageConfig, tokenizer: Tokenizer | None, gamma: float
) -> tuple[DialogueDataset, Tokenizer]:
    """The log of `config` as tokens, by `tokenizer` or the one that `config` asks for."""
    dialogues = read_log(config)
    tokenizer = tokenizer or make_tokenizer(config, dialogues)
    return DialogueDataset.of(dialogues, tokenizer, gamma), tokenizer


def split(dataset: DialogueDataset, config: LanguageConfig) -> tuple[DialogueDataset, DialogueDataset | None]:
    """The dialogues to learn from and those held out, if any are: the same each time."""
    if config.held_out > 0 and dataset.num_dialogues > 1:
        return dataset.split(config.held_out, config.seed)
    return dataset, None


def open_run(config: LanguageConfig, tokenizer: Tokenizer, resume: bool, files: dict[str, Any] | None = None) -> Run:
    """Create the run's folder, with `files` (name to JSON) in it too; or with `resume` reopen it."""
    folder, algorithm = Path(config.run_dir), algorithm_of(config)
    if not resume:
        about = {"config.json": config_to_json(algorithm, config), "vocabulary.json": tokenizer.to_json()}
        create_folder(folder, about | (files or {}))
    return Run(folder, config.num_steps, f"{algorithm} {config.model} {config.task or Path(config.dialogues).stem}")


def read_tokenizer(run: str | Path) -> Tokenizer:
    """The tokenizer of a run folder. Raises UserError where it is none, or damaged."""
    return tokenizer_of(read_json(Path(run), "vocabulary.json"), f"{run}/vocabulary.json")


def check_vocabulary(tokenizer: Tokenizer, other: Tokenizer, run: str) -> None:
    """Raise UserError where a run's vocabulary is not `tokenizer`'s."""
    require(
        tokenizer.to_json() == other.to_json(),
        f"{run} was trained in another vocabulary ({len(other)} tokens, not {len(tokenizer)}): "
        "give a run of the same task and log",
    )


def check_reads(tokenizer: Tokenizer, task: TextTask[Any], run: str) -> None:
    """Raise UserError where a run's vocabulary has no tokens for what the task says.

    One with bytes reads any text, but where it has to spell most words the run never learnt them. Bytes alone, and a
    folder's tokenizer, have no words that could be missing.
    """
    if not tokenizer.reads_all:
        check_vocabulary(task.tokenizer, tokenizer, run)
    elif tokenizer.pieces and tokenizer.to_json() != task.tokenizer.to_json():
        words = [word for each in scripted_dialogues(task, ["random"], 4) for word in words_of(each)]
        spelt = [word for word in words if tokenizer.spells(word)]
        share = len(spelt) / max(len(words), 1)
        require(
            share <= MOST_SPELT,
            f"{run} was trained in another vocabulary: of the words of this task {100 * share:.0f} % are not in it, "
            f"such as {', '.join(shown(word.strip()) for word in sorted(set(spelt))[:3])}: give the task that its log "
            "is of, or train on a log of this one",
        )


def words_of(dialogue: Dialogue) -> list[str]:
    """All that is said in it, word by word, each with the space before it."""
    texts = [turn.text for turn in dialogue.turns]
    words = Tokenizer.of_words(texts)
    return [words.decode([token]) for text in texts for token in words.encode(text)]
