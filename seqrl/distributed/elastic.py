"""The number of actors of a run, which may be changed while it trains: a small file in its folder says it."""

from pathlib import Path

from seqrl.checkpoint import write_atomically

NUM_ACTORS = "num_actors"
"""The file that holds a number; without it, there are as many as the run's config says."""


def ask_for_actors(folder: Path, number: int) -> None:
    """Let the run in `folder` have `number` actors: from the next update on if it trains, else when it is resumed."""
    write_atomically(folder / NUM_ACTORS, f"{number}\n".encode())


def asked_for_actors(folder: Path, otherwise: int) -> int:
    """How many actors the run in `folder` is to have; `otherwise` where nobody has said, or what is no such number."""
    try:
        number = int((folder / NUM_ACTORS).read_text())
    except (OSError, ValueError):
        return otherwise
    return number if number >= 1 else otherwise
