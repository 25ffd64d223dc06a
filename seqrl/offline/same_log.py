"""Whether a run goes on with the log that it began with, told by the log's contents."""

import hashlib
from pathlib import Path
from typing import Any

from seqrl.config import require
from seqrl.data.dialogues import shown
from seqrl.errors import UserError
from seqrl.run import Run

LOGS = ("dataset", "preferences", "thumbs", "prompts", "dialogues")
"""Settings that name a log. A run learns from one; dialogues come last, as older runs may name some that they do not
read."""
BLOCK = 2**20
MOST_BLOCKS = 256
"""Blocks of a file of logged episodes that are read, the first and the last among them; of one with fewer, all."""


def log_digest(config: Any) -> str:
    """SHA-256 of what is in the log of `config`, wherever it lies; "" where there is none, or no file that could be
    read again, but a pipe.

    A file of lines is read whole. Logged episodes may be larger than memory: the sizes of their files count, and of one
    beyond 256 MiB as much, in blocks at even distances. What `about` says of them does not count.

    Raises UserError where it cannot be read.
    """
    name, path = _log_of(config)
    try:
        if name and path.is_file():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return _of_episodes(path) if name and path.is_dir() else ""
    except OSError as error:
        raise UserError(f"cannot read {shown(path, 1000)} ({error.strerror}): make it readable") from None


def same_log(run: Run, config: Any, counters: dict[str, Any]) -> str:
    """`log_digest`, which is to be kept among a checkpoint's counters. Raises UserError where it is not the one in
    `counters`; those of a run that begins, or began before digests were kept, have none."""
    digest = log_digest(config)
    name, path = _log_of(config)
    require(
        counters.get("log", digest) == digest,
        f"{run.folder} began with other contents of {shown(path, 1000)} (--{name}): bring back the log that it began "
        "with, or train on this one in a new folder",
    )
    return digest


def _log_of(config: Any) -> tuple[str, Path]:
    """The setting that names a log, "" if none does, and what it names."""
    name = next((name for name in LOGS if getattr(config, name, "")), "")
    return name, Path(getattr(config, name, ""))


def _of_episodes(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.bin")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        count = min(-(-size // BLOCK), MOST_BLOCKS)
        with path.open("rb") as file:
            for k in range(count):
                file.seek(max(size - BLOCK, 0) * k // max(count - 1, 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()
