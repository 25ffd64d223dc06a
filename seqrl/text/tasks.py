"""Tasks by name, as commands and run folders give them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqrl.errors import UserError, nearest
from seqrl.text.negotiation import Negotiation
from seqrl.text.task import TextTask
from seqrl.text.text_maze import TextMaze
from seqrl.text.twenty_questions import TwentyQuestions
from seqrl.text.wordle import Wordle

WORDS = (
    "about", "alone", "apple", "beach", "blame", "brick", "chair", "clear", "cloud", "crane", "dance", "dream",
    "eager", "earth", "fable", "flame", "forty", "frost", "ghost", "grape", "heart", "horse", "house", "image",
    "jolly", "judge", "knife", "label", "lemon", "light", "maple", "money", "mouse", "night", "north", "ocean",
    "olive", "paper", "piano", "plant", "queen", "quiet", "river", "round", "salad", "shore", "sleep", "stone",
    "table", "thick", "tiger", "train", "uncle", "under", "vapor", "voice", "water", "wheat", "world", "youth",
)  # fmt: skip
"""Common words, for Wordle where no list is given."""


def _wordle(words: str | list[str] = "", allowed: str | list[str] = "", num_words: int = 0) -> TextTask[Any]:
    listed = _word_list(words, "words") if words else list(WORDS)
    if num_words:
        if isinstance(num_words, bool) or not isinstance(num_words, int) or not 1 <= num_words <= len(listed):
            raise UserError(f"num_words is {num_words!a}: give a whole number from 1 to {len(listed)}")
        listed = listed[:num_words]
    return Wordle(listed, allowed=_word_list(allowed, "allowed") if allowed else None)


def _word_list(value: str | list[str], name: str) -> list[str]:
    """A list as it is, or the lines of a file."""
    if not isinstance(value, str):
        return value
    try:
        return Path(value).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text in UTF-8"
        raise UserError(f"cannot read {value!a}, the list of {name} ({reason}): give a file, one word a line") from None


TASKS: dict[str, Callable[..., TextTask[Any]]] = {
    "negotiation": Negotiation,
    "text_maze": TextMaze,
    "twenty_questions": TwentyQuestions,
    "wordle": _wordle,
}
"""What makes each task, by name."""


def make_task(name: str, **kwargs: Any) -> TextTask[Any]:
    """The task called `name`.

    `kwargs` are those of its class (`TextMaze`, `TwentyQuestions`). Wordle's `words` and `allowed` are lists, or files
    with a word a line; without `words` it has a small list of its own; with `num_words` only the first of them.
    Raises UserError for an unknown name or argument, and for what the task refuses.
    """
    if name not in TASKS:
        raise UserError(f"unknown task '{name}': {nearest(name, TASKS)}")
    known = list(inspect.signature(TASKS[name]).parameters)
    for key in kwargs:
        if key not in known:
            raise UserError(f"the task {name} takes no '{key}': {nearest(key, known)}")
    try:
        return TASKS[name](**kwargs)
    except (TypeError, AttributeError) as error:  # a value of another type, such as max_turns="many"
        raise UserError(f"cannot make the task {name} ({str(error).splitlines()[0]}): see its arguments") from None
