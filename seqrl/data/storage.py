"""Rows that a replay keeps: in memory or in files, and either way on disk after a checkpoint."""

import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_flatten, tree_map

Where = Literal["memory", "disk"]


class Storage:
    """A ring of `num_rows` rows for each of B columns: leaves [B, num_rows, ...], so that a sequence lies in one piece.

    With a `folder`, every leaf has a file in it, `PATH.bin`, raw numbers without a header. "disk" maps these files, and
    the operating system keeps in memory what is in use. "memory" holds the rows itself, and `save` copies those written
    since the last `save` to the files. Files are allocated in full at the start: a full disk is found out then, and
    never by a crash in the middle of a run.

    Raises UserError where the disk has no room for the files, or a file that is to be restored has another size.
    """

    def __init__(self, row: Tree, num_rows: int, where: Where, folder: Path | None):
        """`row` is one row of all columns, leaves [B, ...], which says what the leaves are."""
        self.num_rows, self.where, self.folder = num_rows, where, folder
        self.row = tree_map(torch.zeros_like, row)
        if where == "disk" and folder is None:
            raise ValueError("storage on disk needs a folder")
        self._files = None if folder is None else self._map(folder)
        self.leaves = self._files if where == "disk" else tree_map(self._in_memory, row)
        self._unsaved: list[Tensor] = []

    def _in_memory(self, leaf: Tensor) -> Tensor:
        return torch.zeros(len(leaf), self.num_rows, *leaf.shape[1:], dtype=leaf.dtype)

    def _map(self, folder: Path) -> Tree:
        folder.mkdir(exist_ok=True)
        names = iter(tree_flatten(self.row))
        return tree_map(lambda leaf: self._map_leaf(folder / f"{next(names)}.bin", leaf), self.row)

    def _map_leaf(self, path: Path, leaf: Tensor) -> Tensor:
        shape = (len(leaf), self.num_rows, *leaf.shape[1:])
        numel = torch.Size(shape).numel()
        num_bytes = numel * leaf.element_size()
        if not path.exists():
            _allocate(path, num_bytes)
        elif path.stat().st_size != num_bytes:
            raise UserError(
                f"{path} holds {path.stat().st_size:,} bytes, not {num_bytes:,}: resume with the run's own settings"
            )
        return torch.from_file(str(path), shared=True, size=numel, dtype=leaf.dtype).view(shape)

    def write(self, rows: Tree, positions: Tensor) -> None:
        """Write `rows`, leaves [T, B, ...], to the `positions` [T] of the ring."""
        tree_map(lambda leaf, new: leaf.index_copy_(1, positions, new.transpose(0, 1)), self.leaves, rows)
        if self.where == "memory" and self._files is not None:
            self._unsaved.append(positions)

    def read(self, columns: Tensor, positions: Tensor) -> Tree:
        """Rows `positions` [T, N] of `columns` [N]: leaves [T, N, ...]."""
        index = (columns * self.num_rows + positions).view(-1)
        shape = positions.shape

        def gather(leaf: Tensor) -> Tensor:
            return leaf.flatten(0, 1).index_select(0, index).view(*shape, *leaf.shape[2:])

        return tree_map(gather, self.leaves)

    def save(self) -> None:
        """Bring the files up to date, and to the disk."""
        if self._files is None or self.folder is None:
            return
        if self._unsaved:
            positions = torch.cat(self._unsaved)
            tree_map(
                lambda file, leaf: file.index_copy_(1, positions, leaf.index_select(1, positions)),
                self._files, self.leaves,
            )  # fmt: skip
            self._unsaved.clear()
        for name in tree_flatten(self.row):
            with open(self.folder / f"{name}.bin", "rb+") as file:
                os.fsync(file.fileno())

    def restore(self) -> None:
        """Take the rows from the files."""
        if self.where == "memory" and self._files is not None:
            tree_map(lambda leaf, file: leaf.copy_(file), self.leaves, self._files)
            self._unsaved.clear()


def _allocate(path: Path, num_bytes: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                file.truncate(num_bytes)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot keep the replay in {path.parent} ({error.strerror}): {path.name} takes {num_bytes / 1e9:.2f} GB; "
            "free some space, or lower --replay-capacity"
        ) from None
