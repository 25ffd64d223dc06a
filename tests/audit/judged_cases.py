"""What tests of audits of judged answers share: something said, what was found, one entry changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from seqrl.audit import Audit
from seqrl.data.dialogues import Turn


def said(text: str, speaker: str = "assistant") -> tuple[Turn, ...]:
    return (Turn(speaker=speaker, text=text),)


def found(result: Audit) -> dict[str, str]:
    """Kinds and severities of what is not well."""
    return {finding.kind: finding.severity for finding in result.findings if finding.severity != "ok"}


def at(place: int, **changes: object) -> Callable[[list[Any]], list[Any]]:
    """A log whose entry at `place` is changed."""
    return lambda log: [replace(each, **changes) if k == place else each for k, each in enumerate(log)]
