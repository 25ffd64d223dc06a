"""Preferences between answers, and thumbs on single ones: JSON lines as TRL has them, read strictly.

    {"id": "1", "prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Hello!"}],
     "rejected": [{"role": "assistant", "content": "What?"}], "labeller": "ada"}
    {"id": "2", "prompt": "Hi", "completion": "Hello!", "label": true}

Parts are lists of messages, or strings: a prompt is then said by "user", the others by the agent. `id` (else the file's
name and the line's number), `labeller` and `agent` (else "assistant") may be left out; so may the prompt of a pair: it
is then the messages that both begin with. Other columns that hold strings, numbers or booleans are kept in `meta`.
There `cut_in_chosen` and `cut_in_rejected` (of a thumb, `cut`) say which of the agent's turns in that answer were cut
off before their end, by their numbers from 1, such as "1" or "1 3".
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from seqrl.data.dialogues import (
    MAX_LINE_BYTES,
    Turn,
    Value,
    first_line,
    json_line,
    name_of,
    numbered_lines,
    parse_json,
    place,
    shown,
    text_of,
    values_of,
    write_lines,
)
from seqrl.data.messages import after_prompt, check_columns, messages_of
from seqrl.errors import UserError

AGENT, USER = "assistant", "user"
PAIR = ("id", "prompt", "chosen", "rejected", "labeller", "agent")
THUMB = ("id", "prompt", "completion", "label", "labeller", "agent")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Two ways in which a conversation may go on, and which of them was preferred."""

    id: str
    prompt: tuple[Turn, ...]
    """The beginning that both share; may be empty."""
    chosen: tuple[Turn, ...]
    """What is said after it, normally one turn of the agent's."""
    rejected: tuple[Turn, ...]
    labeller: str | None = None
    """Who chose."""
    agent: str = AGENT
    """The speaker that is to be learnt: both go on with at least one turn of its."""
    meta: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Thumb:
    """One way in which a conversation went on, judged alone: good (`label` True) or bad."""

    id: str
    prompt: tuple[Turn, ...]
    completion: tuple[Turn, ...]
    label: bool
    labeller: str | None = None
    agent: str = AGENT
    meta: Mapping[str, Value] = field(default_factory=dict)
    group: int | None = field(default=None, compare=False)
    """Of one from a log of dialogues, the number of its dialogue's group (`seqrl.data.held_out`); files have none."""


Judged = TypeVar("Judged", Preference, Thumb)


def read_preferences(path: str | Path) -> Iterator[Preference]:
    """The preferences of a file, one at a time.

    Raises UserError with the file, the line, what is wrong in it and the way out, as `read_dialogues` does; also for
    parts that are missing, in which the agent says nothing, or columns nearly named like one of those known.
    """
    return (preference for _, preference in numbered_preferences(path))


def read_thumbs(path: str | Path) -> Iterator[Thumb]:
    """The thumbs of a file, one at a time; else as `read_preferences`."""
    return (thumb for _, thumb in numbered_thumbs(path))


def numbered_preferences(path: str | Path) -> Iterator[tuple[int, Preference]]:
    """The same with the numbers of their lines, from 1."""
    return _numbered(path, "preferences", preference_of)


def numbered_thumbs(path: str | Path) -> Iterator[tuple[int, Thumb]]:
    """The same with the numbers of their lines, from 1."""
    return _numbered(path, "thumbs", thumb_of)


def _numbered(path: str | Path, what: str, reader: Callable[[Any, str, str], Judged]) -> Iterator[tuple[int, Judged]]:
    for number, line in numbered_lines(path, what):
        where = place(path, number)
        yield number, reader(parse_json(line, where), where, f"{Path(path).stem}-{number}")


def holds_preferences(path: str | Path) -> bool:
    """Whether the first line of a file has answers that were chosen or rejected; False also where it cannot be read."""
    return not first_line(path).keys().isdisjoint({"chosen", "rejected"})


def holds_thumbs(path: str | Path) -> bool:
    """Whether the first line of a file has an answer with a thumb; else as `holds_preferences`."""
    return first_line(path).keys() >= {"completion", "label"}


def thumbs_of(preferences: Iterable[Preference]) -> Iterator[Thumb]:
    """Each pair as two answers judged alone: the chosen one good, the rejected one bad."""
    for each in preferences:
        rest = {key: value for key, value in each.meta.items() if key not in ("cut_in_chosen", "cut_in_rejected")}
        for part, answer in (("chosen", each.chosen), ("rejected", each.rejected)):
            cut = {"cut": each.meta[f"cut_in_{part}"]} if f"cut_in_{part}" in each.meta else {}
            yield Thumb(
                id=f"{each.id}-{part}", prompt=each.prompt, completion=answer, label=part == "chosen",
                labeller=each.labeller, agent=each.agent, meta=rest | cut,
            )  # fmt: skip


def cut_turns(judged: Preference | Thumb, column: str) -> frozenset[int]:
    """Which of the agent's turns in an answer were cut off, from 1: what `column` of its `meta` says, if it is there.

    Raises UserError for what is no list of numbers, or not of turns that are there.
    """
    value = judged.meta.get(column, "")
    answer = getattr(judged, {"cut_in_chosen": "chosen", "cut_in_rejected": "rejected", "cut": "completion"}[column])
    count = sum(turn.speaker == judged.agent for turn in answer)
    try:
        numbers = frozenset(int(number) for number in str(value).split())
    except ValueError:
        numbers = frozenset({0})
    if not numbers <= set(range(1, count + 1)):
        raise UserError(
            f"{shown(judged.id)}: {column} is {shown(str(value))}: give the numbers of the agent's turns that were "
            f'cut off, such as "1 3", of the {count} in this answer'
        )
    return numbers


def preference_of(content: Any, where: str, name: str | None = None) -> Preference:
    """The preference of a parsed line; `name` is its id if it has none. Raises UserError, beginning with `where`."""
    content = _columns(content, where, PAIR, ("chosen", "rejected"))
    shared = _shared(content, where, name, PAIR)
    agent = shared["agent"]
    prompt = messages_of(content.get("prompt", []), USER, f"{where}: prompt")
    chosen, rejected = (
        after_prompt(prompt, messages_of(content[key], agent, f"{where}: {key}")) for key in ("chosen", "rejected")
    )
    if "prompt" not in content:
        count = _shared_beginning(chosen, rejected)
        prompt, chosen, rejected = chosen[:count], chosen[count:], rejected[count:]
    return Preference(
        prompt=_turns(prompt, f"{where}: prompt"),
        chosen=_answer(chosen, agent, f"{where}: chosen"),
        rejected=_answer(rejected, agent, f"{where}: rejected"),
        **shared,
    )


def _shared_beginning(chosen: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> int:
    """How many messages both begin with; one is left to each, since identical answers are answers too."""
    most = min(len(chosen), len(rejected)) - 1
    return next((k for k in range(most) if chosen[k] != rejected[k]), max(most, 0))


def thumb_of(content: Any, where: str, name: str | None = None) -> Thumb:
    """The thumb of a parsed line; else as `preference_of`."""
    content = _columns(content, where, THUMB, ("prompt", "completion", "label"))
    shared = _shared(content, where, name, THUMB)
    if not isinstance(content["label"], bool):
        raise UserError(f"{where}: label is neither true nor false: give true for thumbs up, false for down")
    prompt = messages_of(content["prompt"], USER, f"{where}: prompt")
    said = after_prompt(prompt, messages_of(content["completion"], shared["agent"], f"{where}: completion"))
    return Thumb(
        prompt=_turns(prompt, f"{where}: prompt"),
        completion=_answer(said, shared["agent"], f"{where}: completion"),
        label=content["label"],
        **shared,
    )


OTHER = {
    ("completion", "label"): "a thumb (it has '{}'): seqrl train kto --thumbs learns from them",
    ("chosen", "rejected"): "a preference (it has '{}'): seqrl train dpo, or kto --preferences, learns from them",
    ("turns", "messages"): "a dialogue (it has '{}'): seqrl train bc learns from them",
}
"""What a line is that has columns of another form."""


def _columns(content: Any, where: str, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    """The columns of a line that are not null."""
    if not isinstance(content, dict):
        raise UserError(f"{where} is no object: give one with {_listed(needed)}")
    content = {key: value for key, value in content.items() if value is not None}
    for keys, what in OTHER.items():
        found = [key for key in keys if key in content and key not in known]
        if found:
            raise UserError(f"{where} is {what.format(found[0])}")
    check_columns({key: value for key, value in content.items() if key not in known}, where, known)
    for key in needed:
        if key not in content:
            raise UserError(f"{where} has no '{key}': give an object with {_listed(needed)}")
    return content


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _shared(content: dict[str, Any], where: str, name: str | None, known: tuple[str, ...]) -> dict[str, Any]:
    """What preferences and thumbs have alike."""
    number = content.get("id", name)
    if isinstance(number, int) and not isinstance(number, bool):
        number = str(number)  # a row's number is a name too
    labeller = content.get("labeller")
    return {
        "id": name_of(number, f"{where}: id"),
        "labeller": None if labeller is None else name_of(labeller, f"{where}: labeller"),
        "agent": name_of(content.get("agent", AGENT), f"{where}: agent"),
        "meta": values_of({key: value for key, value in content.items() if key not in known}, f"{where}: meta"),
    }


def _turns(messages: list[dict[str, Any]], where: str) -> tuple[Turn, ...]:
    return tuple(
        Turn(
            speaker=name_of(message["speaker"], f"{where}[{k}].role"),
            text=text_of(message["text"], f"{where}[{k}].content"),
        )
        for k, message in enumerate(messages)
    )


def _answer(messages: list[dict[str, Any]], agent: str, where: str) -> tuple[Turn, ...]:
    turns = _turns(messages, where)
    if not any(turn.speaker == agent for turn in turns):
        raise UserError(
            f"{where}: nothing is said by '{shown(agent)}' after the prompt: check the roles, or name it with 'agent'"
        )
    return turns


# Writing


def write_preferences(path: str | Path, preferences: Iterable[Preference]) -> int:
    """Write a file that `read_preferences` gives back equal, whole or not at all; returns how many there were.

    Raises UserError for one that would not read back the same, none at all, or a file that cannot be written.
    """
    return _write(path, preferences, "preference")


def write_thumbs(path: str | Path, thumbs: Iterable[Thumb]) -> int:
    """The same of thumbs."""
    return _write(path, thumbs, "thumb")


def _write(path: str | Path, judged: Iterable[Preference | Thumb], what: str) -> int:
    where = f"{shown(path)}, {what}"
    return write_lines(path, (_line(each, f"{where} {k} to write") for k, each in enumerate(judged, 1)), f"{what}s")


def append_preference(path: str | Path, preference: Preference | Thumb) -> None:
    """Add a line to a file, which is made if there is none. It is on the disk when this returns.

    Raises UserError if the line would not read back the same, or the file cannot be written, or `mend_end` refuses it.
    """
    line = _line(preference, f"{shown(path, 1000)}, a line to add") + b"\n"
    mend_end(path)
    try:
        new = not Path(path).exists()
        with open(path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            folder = os.open(Path(path).parent, os.O_RDONLY)  # the file's name is on the disk when its folder is
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise UserError(f"cannot write {shown(path, 1000)} ({error.strerror}): choose another file") from None


def mend_end(path: str | Path) -> int:
    """Let a file end with a whole line; returns how many bytes were cut off for that, 0 also where there is no file.

    What `append_preference` leaves of a line when its process is killed, or the disk is full, is cut off: nobody was
    told that it was written. A whole line that lacks its end gets it. Raises UserError where the file ends in anything
    else, which is not ours to cut, or cannot be written.
    """
    name = shown(path, 1000)
    try:
        if not os.path.exists(path) or not (size := os.path.getsize(path)):
            return 0
        with open(path, "rb+") as file:
            file.seek(size - 1)
            if file.read() == b"\n":
                return 0
            file.seek(max(size - MAX_LINE_BYTES, 0))
            tail = file.read().rpartition(b"\n")[2]
            if whole := not _is_cut(tail):
                file.write(b"\n")
            elif tail.startswith(BEGINNING[: len(tail)]):
                file.truncate(size - len(tail))
            else:
                raise UserError(f"{name} ends in the middle of a line: end it, or choose another file")
            file.flush()
            os.fsync(file.fileno())
        return 0 if whole else len(tail)
    except OSError as error:
        raise UserError(f"cannot write {name} ({error.strerror}): choose another file") from None


def _is_cut(line: bytes) -> bool:
    """Whether a line ends in its middle; one that is whole and wrong is for its reader to refuse, not to be cut off."""
    try:
        json.loads(line.decode(errors="replace"))
    except json.JSONDecodeError:
        return True
    except (ValueError, RecursionError):  # too many digits, too deep
        pass
    return False


BEGINNING = b'{"id": "'
"""How all lines begin that are written here."""


def _line(judged: Preference | Thumb, where: str) -> bytes:
    prompt = judged.prompt
    content: dict[str, Any] = {"id": judged.id, "prompt": _messages(prompt)}
    if isinstance(judged, Preference):
        content |= {"chosen": _said(prompt, judged.chosen), "rejected": _said(prompt, judged.rejected)}
    else:
        content |= {"completion": _said(prompt, judged.completion), "label": judged.label}
    if judged.labeller is not None:
        content["labeller"] = judged.labeller
    if judged.agent != AGENT:
        content["agent"] = judged.agent
    clash = [key for key in judged.meta if key in content]
    if clash:
        raise UserError(f"{where} has '{shown(clash[0])}' in meta, which is a column of its own: rename it")
    reader = preference_of if isinstance(judged, Preference) else thumb_of
    return json_line(content | dict(judged.meta), judged, reader, where)


def _said(prompt: tuple[Turn, ...], answer: tuple[Turn, ...]) -> list[dict[str, str]]:
    """An answer's messages. One that says its prompt again has it in front once more, since readers take that off."""
    return _messages(prompt + answer if answer[: len(prompt)] == prompt else answer)


def _messages(turns: tuple[Turn, ...]) -> list[dict[str, str]]:
    return [{"role": turn.speaker, "content": turn.text} for turn in turns]
