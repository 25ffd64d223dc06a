"""Are logged episodes, dialogues, preferences or thumbs fit to learn from? A look before hours go into training."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from seqrl.audit import of_columns, of_dialogues, of_episodes, of_preferences, of_thumbs
from seqrl.audit.finding import Finding, Found
from seqrl.audit.reading import Rows
from seqrl.audit.reading_dialogues import read_log, speaker_rows, speaker_table
from seqrl.data.dialogues import shown
from seqrl.data.episodes import EpisodeDataset
from seqrl.tables import plain_table

__all__ = ["Audit", "Finding", "audit", "audit_dialogues", "audit_preferences", "audit_thumbs"]

CHECKS = (
    of_episodes.episodes, of_episodes.returns, of_episodes.rewards, of_episodes.endings, of_episodes.leaks,
    of_episodes.duplicates, of_columns.finite, of_columns.columns, of_columns.placeholders, of_columns.coverage,
    of_columns.actions, of_columns.chance,
)  # fmt: skip
STYLES = {"ok": "green", "look": "yellow", "wrong": "bold red"}


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset: one finding or more for each check, in order, and the figures behind them.

    Severities: "ok"; "look" at this, it may be as it should; "wrong", which no sound log has.
    """

    folder: Path
    about: dict[str, Any]
    figures: dict[str, Any]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.severity != "wrong" for finding in self.findings)

    @property
    def bad_lines(self) -> frozenset[int]:
        """Those of a log that have something wrong."""
        return frozenset().union(*(each.lines for each in self.findings if each.severity == "wrong"))

    def table(self) -> Table:
        """One line for each finding."""
        env = " ".join([str(self.about.get("env") or ""), *map(str, self.about.get("env_kwargs") or ())]).strip()
        caption = Text(self.figures["read"])
        if "form" not in self.about:
            caption = Text("five numbers: least / 5 % / median / 95 % / greatest; ") + caption
        title = Text(f"{shown(self.folder, 1000)}{f': {env}' if env else ''}")
        table = plain_table(title, caption)
        for name in ("check", "verdict", "what was found"):
            table.add_column(name, no_wrap=name != "what was found")
        for check, _, severity, message, _ in self.findings:
            table.add_row(check, Text(severity, STYLES[severity]), Text(message))
        return table

    def tables(self) -> list[Table]:
        """The findings, and of dialogues who said how much."""
        speakers = self.figures.get("speakers")
        return [self.table()] + ([speaker_table(speakers)] if speakers else [])

    def as_dict(self) -> dict[str, Any]:
        """The same for programs, such as JSON can hold: what is not finite is null."""
        content = {
            "folder": str(self.folder),
            "sound": self.sound,
            "about": self.about,
            "findings": [
                {key: value for key, value in finding._asdict().items() if key != "lines"} for finding in self.findings
            ],
            "figures": self.figures,
        }
        return json.loads(json.dumps(_plain(content)))


def audit(dataset: EpisodeDataset, *, max_rows: int = 2_000_000, max_bytes: int = 1 << 30, seed: int = 0) -> Audit:
    """Look at a dataset, and write nothing.

    Lengths, returns and endings are those of all episodes. Of a dataset with more than `max_rows` rows, or `max_bytes`
    of observations, everything else is of a sample of whole episodes drawn by `seed`, and the result says so
    (`figures["read"]`). Memory is bounded by these two, never by the dataset; images are read in blocks.
    """
    rows = Rows(dataset, max_rows, max_bytes, seed)
    number = f"{len(rows.episodes):,} of {dataset.num_episodes:,} episodes"
    figures: dict[str, Any] = {
        "read": f"observations, actions and rewards of a sample: {number}" if rows.is_sample else "all rows were read"
    }
    findings = _checked(CHECKS, rows, figures)
    return Audit(dataset.folder, dataset.about, figures, findings)


def audit_dialogues(path: str | Path) -> Audit:
    """Look at a file of logged dialogues (`seqrl.data.dialogues`), and write nothing. It is read once.

    `figures["speakers"]` has a row for each speaker: dialogues, turns, tokens (words between spaces), how many of them
    are learnt from, rewards and their sum. Raises UserError for a file that is no such log, naming the line.
    """
    log = read_log(path)
    figures: dict[str, Any] = {"read": "all dialogues were read"}
    findings = _checked(of_dialogues.CHECKS, log, figures)
    return Audit(Path(path), {"form": "dialogues"}, figures | {"speakers": speaker_rows(log)}, findings)


def audit_preferences(path: str | Path) -> Audit:
    """Look at a file of preferences (`seqrl.data.preferences`), and write nothing. It is read once.

    Raises UserError for a file that is none, naming the line.
    """
    log = of_preferences.read_pairs(path)
    figures: dict[str, Any] = {"read": "all pairs were read"}
    findings = _checked(of_preferences.CHECKS, log, figures)
    return Audit(Path(path), {"form": "preferences"}, figures, findings)


def audit_thumbs(path: str | Path) -> Audit:
    """Look at a file of thumbs (`seqrl.data.preferences`), and write nothing. It is read once.

    Raises UserError for a file that is none, naming the line.
    """
    log = of_thumbs.read_judged(path)
    figures: dict[str, Any] = {"read": "all thumbs were read"}
    findings = _checked(of_thumbs.CHECKS, log, figures)
    return Audit(Path(path), {"form": "thumbs"}, figures, findings)


def _checked(checks: Iterable[Callable[[Any], Found]], log: Any, figures: dict[str, Any]) -> list[Finding]:
    """What the checks find in `log`; their figures are added to `figures`."""
    findings: list[Finding] = []
    for check in checks:
        more, found = check(log)
        figures |= more
        findings += found
    return findings


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
