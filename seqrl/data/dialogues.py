"""Logged dialogues: one JSON-lines schema, read strictly and written so that it reads back the same.

`docs/dialogues.md` shows the schema. Reading is strict because what a log loses silently is a reward: an unknown key is
refused, not skipped. What a sound reader can still be given, but nobody should learn from, is for `seqrl audit`.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from seqrl.data.packed import way_to_text
from seqrl.errors import UserError, nearest
from seqrl.visible import visible

MAX_LINE_BYTES = 64 << 20
"""A longer line is refused before it is read: a file without line ends would fill the memory."""
MAX_EXACT = 2**53
"""Integers beyond it are other numbers in programs that read JSON as floats."""
MOST_REWARD = 1e15
"""The squares of larger ones, and of their sums, are infinite as float32, in which values are learnt."""
OTHER_FORMS = dict.fromkeys(("messages", "prompt", "completion", "chosen", "rejected", "chat_logs"), "dialogues")
OTHER_FORMS |= dict.fromkeys(("observations", "observation", "obs"), "a dataset of episodes")
"""Keys by which a line is known to be of a format that `seqrl import` reads, and what that makes of it."""

Value = str | bool | int | float


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one speaker says before another does."""

    speaker: str
    text: str
    reward: float | None = None
    """What it earned, credited to the token that ends it. None: nothing was logged, which is not a 0."""
    thumbs: int | None = None
    """1 up, −1 down: the other's verdict on the agent's turn, on it or on the other's turn behind it."""
    clicks: int | None = None
    propensity: float | None = None
    """The probability with which the logging policy chose this text."""
    at: float | None = None
    """Seconds since any fixed moment."""
    cut: bool | None = None
    """Whether the text was cut off, as at the most tokens of a turn: the speaker did not end it there itself."""


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One conversation, and how it came out.

    `outcome` and `meta` hold strings, numbers and booleans. By convention `outcome` has `agreement` (bool) and `points`
    (the agent's); nothing in it was known before the dialogue's end, and what is in `meta` was known at its beginning.
    """

    id: str
    turns: tuple[Turn, ...]
    agent: str
    """The speaker that is to be learnt; the others' turns are observations."""
    outcome: Mapping[str, Value] = field(default_factory=dict)
    meta: Mapping[str, Value] = field(default_factory=dict)


TURN_KEYS = tuple(each.name for each in fields(Turn))
DIALOGUE_KEYS = tuple(each.name for each in fields(Dialogue))


def read_dialogues(path: str | Path) -> Iterator[Dialogue]:
    """The dialogues of a file, one at a time.

    UTF-8; a byte-order mark at the beginning, CRLF and blank lines are allowed. Raises UserError with the file, the
    line, what is wrong in it and the way out: for a line that is no object of the schema, numbers that are not finite,
    keys that are unknown or come twice, lone surrogates; for a file that cannot be read or holds no dialogue.
    """
    return (dialogue for _, dialogue in numbered_dialogues(path))


def numbered_dialogues(path: str | Path) -> Iterator[tuple[int, Dialogue]]:
    """The same with the numbers of their lines, from 1."""
    for number, line in numbered_lines(path):
        where = place(path, number)
        yield number, dialogue_of(parse_json(line, where), where)


def write_dialogues(path: str | Path, dialogues: Iterable[Dialogue]) -> int:
    """Write a file that `read_dialogues` gives back equal, whole or not at all; returns how many there were.

    Raises UserError for a dialogue that would not read back the same, none at all, or a file that cannot be written.
    """
    lines = (_line(each, f"{shown(path)}, dialogue {k} to write") for k, each in enumerate(dialogues, 1))
    return write_lines(path, lines)


def write_lines(path: str | Path, lines: Iterable[bytes], what: str = "dialogues") -> int:
    """Write a file of these lines, whole or not at all; returns how many there were.

    Raises UserError for none at all, or a file that cannot be written.
    """
    path, count = Path(path), 0
    temporary = path.with_name(f".{path.name}.tmp")  # always this name: what a killed process left is written over
    try:
        with open(temporary, "wb") as file:
            for line in lines:
                file.write(line + b"\n")
                count += 1
            if not count:
                raise UserError(f"{shown(path)} would hold no {what}: give at least one")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {shown(path)} ({error.strerror}): choose another file") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return count


def _line(dialogue: Dialogue, where: str) -> bytes:
    content: dict[str, Any] = {"id": dialogue.id, "agent": dialogue.agent}
    content["turns"] = [
        {key: value for key in TURN_KEYS if (value := getattr(turn, key)) is not None} for turn in dialogue.turns
    ]
    content |= {key: dict(value) for key in ("outcome", "meta") if (value := getattr(dialogue, key))}
    return json_line(content, dialogue, dialogue_of, where)


def json_line(content: dict[str, Any], value: Any, reader: Callable[[Any, str], Any], where: str) -> bytes:
    """`content` as a line of JSON. Raises UserError, beginning with `where`, where `reader` makes no `value` of it."""
    try:
        again = reader(content, where)
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise UserError(f"{where} holds what JSON cannot ({shown(error)}): give plain numbers and strings") from None
    if again != value:
        raise UserError(f"{where} would not read back the same: give tuples, plain numbers and plain strings")
    for code in (0x85, 0x2028, 0x2029):  # other programs end lines at them; JSON escapes what else they end lines at
        text = text.replace(chr(code), f"\\u{code:04x}")
    return text.encode()


def shown(text: object, most: int = 60) -> str:
    """Text for a terminal, cut after `most` characters: `visible`, and the backslash is an escape too, so that no text
    can pass for one."""
    whole = str(text)
    return visible(whole[:most].replace("\\", "\\\\")) + ("…" if len(whole) > most else "")


def place(path: str | Path, number: int) -> str:
    """How messages name a line."""
    return f"{shown(path, 1000)}, line {number}"


def numbered_lines(path: str | Path, what: str = "dialogues") -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, with their numbers from 1. Raises UserError, also where none is.

    Messages call what the lines hold `what`, in the plural.
    """
    number, empty = 0, True
    try:
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = place(path, number)
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{where} is longer than {MAX_LINE_BYTES >> 20} MiB: give a {what[:-1]} a line")
                text = _decoded(line, where).rstrip("\r\n")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text.startswith("\ufeff"):
                    raise UserError(f"{where} begins with a byte-order mark: remove it, only a file may begin with one")
                if text.strip():
                    empty = False
                    yield number, text
    except OSError as error:
        raise UserError(f"cannot read {shown(path, 1000)} ({error.strerror}): give a file of {what}") from None
    if empty:
        raise UserError(f"{shown(path, 1000)} holds no {what}: give a file with one a line")


def first_line(path: str | Path) -> dict[str, Any]:
    """The object in the first line of a file, empty where it cannot be read or is another."""
    try:
        number, line = next(numbered_lines(path))
        content = parse_json(line, place(path, number))
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        bad = f"byte 0x{line[error.start]:02x} at {error.start}"
        raise UserError(f"{where} is no text in UTF-8 ({bad}): {way_to_text(line)}") from None


class _Refused(Exception):  # noqa: N818
    """What JSON's parser is stopped with; never leaves `parse_json`."""


def parse_json(text: str, where: str) -> Any:
    """JSON without its traps: no NaN or infinity, no key twice, no number that other programs read as another.

    Raises UserError, beginning with `where`.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        problem = (error.msg[:1].lower() + error.msg[1:]).removesuffix(" at")
        raise UserError(f"{where} is damaged JSON ({problem} at column {error.pos + 1}): write it again") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply: give turns as a flat list") from None
    except _Refused as error:
        raise UserError(f"{where} {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise _Refused(f"has the key '{shown(twice)}' twice in one object: keep one")
    return result


def _constant(text: str) -> NoReturn:
    raise _Refused(f"holds {text}: numbers must be finite; leave out what is not known")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_EXACT:
        raise _Refused(f"holds the integer {shown(text, 20)}: beyond 2^53 it is not exact; write it as a string")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _Refused(f"holds {shown(text, 20)}, which is infinite as a float: numbers must be finite")
    return number


def dialogue_of(content: Any, where: str) -> Dialogue:
    """The dialogue of a parsed line. Raises UserError, beginning with `where`, for what the schema does not allow."""
    if not isinstance(content, dict):
        raise UserError(f"{where} is {_kind(content)}: give an object with id, agent and turns")
    key = next((key for key in OTHER_FORMS if key in content), None)
    if key and "turns" not in content:
        raise UserError(f"{where} is in another format (it has '{key}'): seqrl import makes {OTHER_FORMS[key]} of it")
    _check_keys(content, DIALOGUE_KEYS, ("id", "turns", "agent"), where, "; what else is known belongs in meta")
    turns = content["turns"]
    if not isinstance(turns, list):
        raise UserError(f"{where}: turns is {_kind(turns)}: give a list of objects with speaker and text")
    if not turns:
        raise UserError(f"{where}: turns is empty: leave the dialogue out")
    return Dialogue(
        id=name_of(content["id"], f"{where}: id"),
        turns=tuple(_turn(turn, f"{where}: turns[{k}]") for k, turn in enumerate(turns)),
        agent=name_of(content["agent"], f"{where}: agent"),
        outcome=values_of(content.get("outcome", {}), f"{where}: outcome"),
        meta=values_of(content.get("meta", {}), f"{where}: meta"),
    )


def _turn(content: Any, where: str) -> Turn:
    if not isinstance(content, dict):
        raise UserError(f"{where} is {_kind(content)}: give an object with speaker and text")
    _check_keys(content, TURN_KEYS, ("speaker", "text"), where, "")
    text = content["text"]
    if not isinstance(text, str):
        raise UserError(f"{where}.text is {_kind(text)}: give a string")
    rest = {key: CHECKED[key](content[key], f"{where}.{key}") for key in CHECKED if key in content}
    return Turn(speaker=name_of(content["speaker"], f"{where}.speaker"), text=text_of(text, f"{where}.text"), **rest)


def _check_keys(
    content: dict[str, Any], known: tuple[str, ...], needed: tuple[str, ...], where: str, way_out: str
) -> None:
    for key in content:
        if not isinstance(key, str) or key not in known:
            raise UserError(f"{where} has the unknown key '{shown(key)}': {nearest(str(key), known)}{way_out}")
    for key in needed:
        if key not in content:
            raise UserError(f"{where} has no '{key}': {NEEDED[key]}")


NEEDED = {
    "id": "give each dialogue a string of its own",
    "turns": "give a list of objects with speaker and text",
    "agent": "name the speaker that is to be learnt",
    "speaker": "name who says it",
    "text": "give what is said, a string",
}


def name_of(value: Any, where: str) -> str:
    """`value`, checked to be a string that is not empty. Raises UserError, which begins with `where`."""
    if not isinstance(value, str):
        raise UserError(f"{where} is {_kind(value)}: give a string")
    if not value.strip():
        raise UserError(f"{where} is empty: give it a name")
    return text_of(value, where)


def text_of(value: str, where: str) -> str:
    """`value`, checked to be text that can be written. Raises UserError, which begins with `where`."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} has half of a surrogate pair ({shown(value[error.start])} at {error.start}): write the whole "
            "character, or leave it out"
        ) from None
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} is {_kind(value)}: give a number, or leave it out")
    return _finite(value, where)


def _reward(value: Any, where: str) -> float:
    number = _number(value, where)
    if abs(number) > MOST_REWARD:
        raise UserError(f"{where} is {number:.6g}: values are learnt of rewards up to {MOST_REWARD:g}, scale them")
    return number


def _finite(value: float, where: str) -> float:
    """Of a dialogue that is to be written; what is read has been through `parse_json`."""
    if not abs(value) < math.inf or (isinstance(value, int) and abs(value) > MAX_EXACT):
        raise UserError(f"{where} is not finite, or beyond 2^53: leave it out, or write it as a string")
    return float(value)


def _thumbs(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in (-1, 1):
        raise UserError(f"{where} is {_kind(value)}: give 1 for up, -1 for down, or leave it out")
    return int(value)


def _clicks(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_EXACT:
        raise UserError(f"{where} is {_kind(value)}: give how many there were, 0 or more")
    return value


def _cut(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where} is {_kind(value)}: give true where the turn was cut off, or leave it out")
    return value


CHECKED: dict[str, Callable[[Any, str], Any]] = {
    "reward": _reward, "thumbs": _thumbs, "clicks": _clicks, "propensity": _number, "at": _number, "cut": _cut,
}  # fmt: skip


def values_of(content: Any, where: str) -> dict[str, Value]:
    """`content`, checked to be an object of strings, numbers and booleans; a UserError begins with `where`."""
    if not isinstance(content, dict):
        raise UserError(f"{where} is {_kind(content)}: give an object of strings, numbers and booleans")
    for key, value in content.items():
        what = f"{where}.{shown(key)}"
        if not isinstance(key, str):
            raise UserError(f"{what} is named by {_kind(key)}: give a string")
        text_of(key, f"{where}: the key '{shown(key)}'")
        if isinstance(value, str):
            text_of(value, what)
        elif isinstance(value, int | float):
            _finite(value, what)
        else:
            raise UserError(f"{what} is {_kind(value)}: give a string, a number or a boolean, or leave it out")
    return dict(content)


def _kind(value: Any) -> str:
    """What a value is, for messages: short ones themselves."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f'"{shown(value, 20)}"'
    if isinstance(value, int | float):
        return shown(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, Mapping) else f"of type {shown(type(value).__name__)}"
