"""A comparison's folder: one process at a time works in it, what config.json names only grows, and it may be moved."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqrl.checkpoint import write_atomically, write_json
from seqrl.config import require
from seqrl.locks import lock

RESULTS = "results.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a comparison's folder. Raises UserError where one does."""
    if os.name == "nt":
        yield  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself: config.json is replaced where something is added
    try:
        lock(descriptor, f"{folder} is being worked on by another seqrl compare: wait for it, or stop it")
        yield
    finally:
        os.close(descriptor)


def check_grows(folder: Path, seeds: tuple[int, int], names: tuple[Sequence[str], Sequence[str]]) -> None:
    """Raise UserError where the second of the numbers of seeds, or of the names, does not hold all of the first."""
    there, asked = seeds
    require(
        asked >= there,
        f"--num-seeds is {asked}: {folder} has {there} already, and runs are only added to it: give {there} or more, "
        "or compare anew with another --run-dir",
    )
    lacking = [name for name in names[0] if name not in names[1]]
    require(not lacking, f"{folder} has {', '.join(lacking)} too, which was added meanwhile: resume it once more")


def write_results(folder: Path, results: dict[str, Any], table: str) -> None:
    """Write results.json and table.md. What lies in the folder is named there as seen from it: it may be moved."""
    write_json(folder / RESULTS, _from_inside(folder, results))
    write_atomically(folder / "table.md", _from_inside(folder, table).encode())


def _from_inside(folder: Path, value: Any) -> Any:
    """`value`, as JSON can hold it, with `folder/` taken away wherever a path begins with it."""
    if isinstance(value, dict):
        return {key: _from_inside(folder, child) for key, child in value.items()}
    if isinstance(value, list):
        return [_from_inside(folder, child) for child in value]
    if isinstance(value, str):
        return re.sub(rf"(?<![\w./-]){re.escape(f'{folder}{os.sep}')}", "", value)
    return value
