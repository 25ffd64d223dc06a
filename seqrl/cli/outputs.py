"""What commands write: in the terminal, in datasets/, and for other programs to read --output FILE.json."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy
import torch
from rich.console import Console

import seqrl
from seqrl.checkpoint import write_json
from seqrl.config import require
from seqrl.data.dialogues import shown
from seqrl.errors import UserError
from seqrl.tables import plain_table

DATASETS = Path("datasets")
"""What is collected and imported goes there, if nothing else is said."""


def check_output(output: str) -> None:
    """Raise UserError, before anything is played, for a file that exists already or has no folder."""
    path = Path(output)
    require(not output or not path.exists(), f"{shown(output, 1000)} exists already (--output): choose another file")
    parent = shown(str(path.parent), 1000)
    require(
        path.parent.is_dir(),
        f"cannot write {shown(output, 1000)}: {parent} is no folder (--output), make it or choose another file",
    )


def write_output(output: str, figures: dict[str, Any]) -> None:
    """One JSON object, if a file is named. What is NaN, such as the interval of a single episode, is null."""
    if not output:
        return
    try:
        write_json(Path(output), figures)
    except OSError as error:
        raise UserError(f"cannot write {shown(output, 1000)} ({error.strerror}): choose another --output") from None
    print("Written:", shown(output, 1000))


def print_row(title: str, columns: dict[str, str]) -> None:
    """A table of a single row, by its columns."""
    table = plain_table(title)
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row(*columns.values())
    Console().print(table)


def versions() -> dict[str, str]:
    """Of the packages that what is played depends on."""
    modules = {"seqrl": seqrl, "gymnasium": gymnasium, "numpy": numpy, "torch": torch}
    return {name: module.__version__ for name, module in modules.items()}
