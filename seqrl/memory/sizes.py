"""The check that every memory makes of its sizes."""

from seqrl.errors import UserError


def check_sizes(owner: str, **sizes: int) -> None:
    """Raise UserError for the first size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} is {size} in {owner}: give at least 1")
