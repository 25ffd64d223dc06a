"""Which logs a run that speaks learnt from: its own, and those of the policies that it began as or steers.

A config names files as they were named where training was started. Where a run's path still ends as its config says,
what stands before that is this folder: names are looked up there first, and in the current folder last.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from seqrl.data.dialogues import Dialogue, read_dialogues
from seqrl.data.feedback import holds_dialogues
from seqrl.data.held_out import together
from seqrl.run_folder import read_json

LOGS = ("dialogues", "prompts", "thumbs")
"""Settings that name a log of dialogues, the last one or another file."""
Places = tuple[Path, ...]
"""Folders in which names are looked up, one after the other."""


def num_learnt_from(run: Path, dialogues: list[Dialogue], path: str) -> int:
    """How many of `dialogues` stand in the logs that the run and its policies learnt from, as far as these are there.

    All of them, if it is the same file: that a share of it was held out while training is not enough, as what was
    chosen by that share is chosen to look well on it.
    """
    logs = [log for _, log in _logs_of(run) if log is not None]
    if any(log.resolve() == Path(path).resolve() for log in logs):
        return len(dialogues)
    learnt = {_words(dialogue) for log in logs for dialogue in read_dialogues(log)}
    return sum(_words(dialogue) in learnt for dialogue in dialogues)


def not_found(run: Path) -> list[str]:
    """Which of these logs are not there, or the policy's run, behind which there may be others."""
    return list(dict.fromkeys(name for name, log in _logs_of(run) if log is None))


def speakers_of(run: Path) -> tuple[str, str] | None:
    """How the agent and the other are called in the first log that the run learnt from, if it is there and its first
    dialogues call them alike."""
    log = next((log for _, log in _logs_of(run) if log is not None), None)
    if log is None:
        return None
    dialogues = list(islice(read_dialogues(log), 20))
    agents = {dialogue.agent for dialogue in dialogues}
    others = {turn.speaker for dialogue in dialogues for turn in dialogue.turns} - agents
    return (agents.pop(), others.pop()) if len(agents) == len(others) == 1 else None


def policy_of(run: Path) -> Path | None:
    """The run as whose policy `run` began, if it is there."""
    settings = read_json(run, "config.json")
    config = _found(f"{settings.get('policy')}/config.json", _places(run, settings, ()))
    return config and config.parent


def _logs_of(run: Path) -> Iterator[tuple[str, Path | None]]:
    return _chain(run, read_json(run, "config.json"), (), {run.resolve()})


def _chain(run: Path, settings: dict[str, Any], others: Places, seen: set[Path]) -> Iterator[tuple[str, Path | None]]:
    """Names and files of a run's logs, then of those of the runs behind it; None for what is not found."""
    places = _places(run, settings, others)
    for key in LOGS:
        name = str(settings.get(key) or "")
        log = _found(name, places) if name else None
        if name and (key != "thumbs" or log is None or holds_dialogues(log)):
            yield name, log
    policy = str(settings.get("policy") or "")
    if not policy:
        return
    config = _found(f"{policy}/config.json", places)
    behind = config.parent if config else Path(policy)
    copied = (run / "policy.json").is_file()  # by ilql and chai
    if behind.resolve() in seen or not (copied or config):  # in a circle where runs were written anew since
        yield policy, None
        return
    settings = read_json(*((run, "policy.json") if copied else (behind, "config.json")))
    yield from _chain(behind, settings, places, {*seen, behind.resolve()})


def _places(run: Path, settings: dict[str, Any], others: Places) -> Places:
    """Where training was started, if that is known; `others`; the current folder."""
    own, whole = Path(str(settings.get("run_dir") or "")).parts, run.absolute().parts
    started = (Path(*whole[: -len(own)]),) if own and whole[-len(own) :] == own else ()
    return (*started, *others, Path())


def _found(name: str, places: Places) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


def _words(dialogue: Dialogue) -> tuple[str, ...]:
    """What tells a dialogue from others: its id too, since in small tasks different dialogues say the same, or what it
    has in common with the one that is seen from the other side."""
    return (together(dialogue) or dialogue.id, *(turn.text for turn in dialogue.turns))
