"""What commands write for other programs to read: --output FILE.json."""

import json
from pathlib import Path
from typing import Any

from seqrl.checkpoint import write_atomically
from seqrl.comparison.run_pool import null_for_nan
from seqrl.config import require
from seqrl.data.dialogues import shown
from seqrl.errors import UserError


def check_output(output: str) -> None:
    """Raise UserError, before anything is played, for a file that exists already or has no folder."""
    path = Path(output)
    require(not output or not path.exists(), f"{shown(output, 1000)} exists already (--output): choose another file")
    there = path.parent.is_dir()
    require(there, f"{shown(str(path.parent), 1000)} is no folder (--output): make it, or choose another file")


def write_output(output: str, figures: dict[str, Any]) -> None:
    """One JSON object, if a file is named. What is NaN, such as the interval of a single episode, is null."""
    if not output:
        return
    try:
        content = json.dumps(null_for_nan(figures), indent=2, allow_nan=False) + "\n"
        write_atomically(Path(output), content.encode())
    except OSError as error:
        raise UserError(f"cannot write {shown(output, 1000)} ({error.strerror}): choose another --output") from None
    print("Written:", shown(output, 1000))
