"""What a check finds."""

from typing import Any, Literal, NamedTuple


class Finding(NamedTuple):
    """One line of an audit. `kind` is stable, for programs; `message` has the figures and the way out."""

    check: str
    kind: str
    severity: Literal["ok", "look", "wrong"]
    message: str


Found = tuple[dict[str, Any], list[Finding]]
"""What a check gives: its figures, and its findings. Without a finding that is not ok, all is well."""


def percent(share: float) -> str:
    """A share in words that never round a few to none, or most to all."""
    if share == 0:
        return "none"
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{100 * share:.3g} %"


def listed(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def all_well(found: list[Finding], check: str, message: str) -> list[Finding]:
    """What was found; where that is nothing, that all is well."""
    return found or [Finding(check, check, "ok", message)]
