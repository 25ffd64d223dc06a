"""Malformed lines of files of JSON lines: each in one message that says where, what and the way out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seqrl.errors import UserError


def refused(
    tmp_path: Path, read: Callable[[str | Path], Iterator[Any]], sound: str, line: str | bytes, message: str
) -> Any:
    """Reads a sound line, a blank one, and `line`, which has to be refused. Returns what the sound line gave.

    `message` is all that comes behind the place, which is the third line: blank lines count.
    """
    path = tmp_path / "log.jsonl"
    path.write_bytes(sound.encode() + b"\r\n\n" + (line.encode() if isinstance(line, str) else line) + b"\n")
    found = read(path)
    first = next(found)
    with pytest.raises(UserError) as error:
        list(found)
    assert str(error.value) == f"{path}, line 3" + ("" if message.startswith(":") else " ") + message
    assert str(error.value).isprintable()
    return first
