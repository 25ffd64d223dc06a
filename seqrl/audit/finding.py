"""What a check finds."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from seqrl.data.dialogues import shown


class Finding(NamedTuple):
    """One line of an audit. `kind` is stable, for programs; `message` has the figures and the way out.

    `lines` are those of a log that are the worse for it, where it can be mended by leaving them out.
    """

    check: str
    kind: str
    severity: Literal["ok", "look", "wrong"]
    message: str
    lines: frozenset[int] = frozenset()


Found = tuple[dict[str, Any], list[Finding]]
"""What a check gives: its figures, and its findings. Without a finding that is not ok, all is well."""


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def all_well(found: list[Finding], check: str, message: str) -> list[Finding]:
    """What was found; where that is nothing, that all is well."""
    return found or [Finding(check, check, "ok", message)]


class Line(Protocol):
    """What is kept of a line of a log."""

    line: int
    id: str


L = TypeVar("L", bound=Line)


def among(bad: Sequence[Line], log: Sequence[Line], what: str) -> str:
    """How many, and where the first is."""
    first = bad[0]
    return f"{len(bad):,} of {len(log):,} {what} (first: line {first.line}, id '{shown(first.id, 30)}')"


def lines(bad: Sequence[Line]) -> frozenset[int]:
    """Of a finding."""
    return frozenset(each.line for each in bad)


def sharing(log: Sequence[L], key: Callable[[L], Hashable]) -> list[L]:
    """Those whose key another has too."""
    number = Counter(map(key, log))
    return [each for each in log if number[key(each)] > 1]


def repeating(log: Sequence[L], key: Callable[[L], Hashable]) -> list[L]:
    """Those whose key an earlier one has."""
    seen: set[Hashable] = set()
    return [each for each in log if key(each) in seen or seen.add(key(each))]  # type: ignore[func-returns-value]


def agreement(said: Mapping[Any, Mapping[str | None, set[Any]]]) -> tuple[int, int]:
    """What several labellers were asked, and each said one thing of: how often, and how often all said the same."""
    several = [by for by in said.values() if len(by) > 1 and all(len(each) == 1 for each in by.values())]
    return len(several), sum(len(set.union(*by.values())) == 1 for by in several)
