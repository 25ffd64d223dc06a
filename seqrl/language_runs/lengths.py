"""Whether a model can read what it is to learn from or to answer: asked before the first update, not in the middle."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqrl.data.dialogues import Dialogue, read_dialogues, shown
from seqrl.errors import UserError
from seqrl.language.logged import DialogueDataset
from seqrl.language.model import LanguageModel
from seqrl.language.rows import TokenBatch, rows_of, token_turns
from seqrl.text import Tokenizer

ANSWER = "give a model that reads more, a lower --max-tokens"
"""The way out of an answer that may be too long."""


def check_lengths(model: LanguageModel, lengths: Iterable[tuple[str, int]], what: str, way_out: str) -> None:
    """Raise UserError where some conversations, by name and number of tokens, are longer than `model` reads.

    `what` says what they are, with {} for the name.
    """
    limit = model.context_length
    if limit is None:
        return
    known = list(lengths)
    number = sum(length > limit for _, length in known)
    if number:
        name, most = max(known, key=lambda each: each[1])
        raise UserError(
            f"{what.format(shown(name))} has {most:,} tokens, but the model reads {limit:,} ({number:,} of "
            f"{len(known):,} are too long, this one most): {way_out}, or leave such out"
        )


def check_windows(
    model: LanguageModel, datasets: Iterable[DialogueDataset | None], num_turns: int, besides: int = 0
) -> None:
    """Of windows of `num_turns`, 0 for whole dialogues, as they are learnt from. `besides` tokens more are read."""
    if model.context_length is None:
        return
    named = [
        (name, int(length) + besides)
        for dataset in datasets
        if dataset is not None
        for name, length in zip(dataset.names, dataset.longest_windows(num_turns), strict=True)
    ]
    what = "a window of dialogue {}" if num_turns else "dialogue {}"
    way_out = "give a model that reads more (--context-length of a new gpt2), learn from windows of fewer turns"
    check_lengths(model, named, what, f"{way_out} (--context-turns)")


def check_read(model: LanguageModel, dialogues: Iterable[Dialogue], tokenizer: Tokenizer) -> None:
    """Of whole dialogues that are judged, not learnt from. Those in which the agent never speaks do not count."""
    if model.context_length is None:
        return
    spoken = [each for each in dialogues if any(turn.speaker == each.agent for turn in each.turns)]
    lengths = ((each.id, len(rows_of(token_turns(each, tokenizer), tokenizer).tokens) - 1) for each in spoken)
    check_lengths(model, lengths, "dialogue {}", "give a run whose model reads more")


def check_prompts(
    model: LanguageModel, log: str | Path, tokenizer: Tokenizer, max_tokens: int, way_out: str = ANSWER
) -> None:
    """Of what was said before the agent's turns of a log, and an answer of `max_tokens` to it."""

    def lengths() -> Iterable[tuple[str, int]]:
        for dialogue in read_dialogues(log):
            count, most = 1, 0  # <begin>
            for turn in dialogue.turns:
                agent = turn.speaker == dialogue.agent
                most = count + 1 + max_tokens if agent else most  # <agent> stands before its turn
                count += agent + len(tokenizer.encode(turn.text)) + 1  # and an end behind each
            yield dialogue.id, most

    check_lengths(model, lengths(), f"dialogue {{}} with an answer of {max_tokens} tokens", way_out)


def check_judged(model: LanguageModel, dataset: Any) -> None:
    """Of judged answers with their prompts, which are named by their numbers in the file."""
    if model.context_length is None:
        return
    parts = ([part for part in dataset.batch([k]) if isinstance(part, TokenBatch)] for k in range(len(dataset)))
    lengths = ((str(k), max(len(part.tokens) - 1 for part in each)) for k, each in enumerate(parts, 1))
    check_lengths(model, lengths, "judged answer {} with its prompt", "begin with a model that reads more")
