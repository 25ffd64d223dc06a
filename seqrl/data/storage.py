"""Rows that a replay keeps: in memory or in a file, and either way on disk after a checkpoint."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory.kernels.native_library import call, library
from seqrl.trajectory import Tree, tree_leaves, tree_map

Where = Literal["memory", "disk"]


class Storage:
    """A ring of `num_rows` rows for each of B columns, read in sequences of `length` rows.

    A row's leaves stand side by side in one record of bytes, so that a sequence is one block of memory however many
    leaves there are. The ring's first `length − 1` rows stand behind its end again: a sequence that runs on over the
    end is one block as well.

    With a `folder`, the records have a file in it, `rows.bin`, without a header. "disk" maps this file, and the
    operating system keeps in memory what is in use. "memory" holds the records itself, and `save` copies those written
    since the last `save` to the file. It is allocated in full at the start: a full disk is found out then, and never
    by a crash in the middle of a run. With `restore`, the rows are those of the file.

    Raises UserError where the disk has no room for the file, or the file to restore is missing or of another size.
    """

    def __init__(
        self, row: Tree, num_rows: int, length: int, where: Where, folder: Path | None, *, restore: bool = False
    ):
        """`row` is one row of all columns, leaves [B, ...], which says what the leaves are."""
        if where == "disk" and folder is None:
            raise ValueError("storage on disk needs a folder")
        self.num_rows, self.length = num_rows, length
        self.row = tree_map(torch.zeros_like, row)
        self.fields, record_size = _fields(self.row)
        """A tree like a row, of what tells `unpack` where its leaves are."""
        shape = torch.Size((len(next(tree_leaves(row))), num_rows + length - 1, record_size))
        self._path = None if folder is None else folder / "rows.bin"
        self._file = None if self._path is None else _mapped(self._path, shape, restore)
        if where == "disk" and self._file is not None:
            self._records = self._file
        else:
            self._records = torch.zeros(shape, dtype=torch.uint8)
            if restore and self._file is not None:
                self._records.copy_(self._file)
        self._unsaved: list[Tensor] = []

    @property
    def leaves(self) -> Tree:
        """The rows, leaves [B, num_rows, ...]; views."""
        return unpack(self.fields, self._records[:, : self.num_rows])

    def write(self, rows: Tree, positions: Tensor) -> None:
        """Write `rows`, leaves [T, B, ...], to the `positions` [T] of the ring."""
        records = self._records.new_zeros(len(positions), *self._records[:, 0].shape)
        tree_map(torch.Tensor.copy_, unpack(self.fields, records), rows)
        again = positions < self.length - 1
        for place, part in ((positions, records), (positions[again] + self.num_rows, records[again])):
            self._records.index_copy_(1, place, part.transpose(0, 1))
            if self._records is not self._file:
                self._unsaved.append(place)

    def read(self, columns: Tensor, positions: Tensor) -> Tree:
        """Rows `positions` [T, N] of `columns` [N]: leaves [T, N, ...]."""
        index = (columns * self._records.shape[1] + positions).view(-1)
        records = self._records.flatten(0, 1).index_select(0, index)
        return unpack(self.fields, records.unflatten(0, positions.shape))

    def read_sequences(self, slot: Tensor, stride: int = 1, device: torch.device | str = "cpu") -> Tensor:
        """The sequences `slot` [N], for `unpack`: records [length, N, record_size] of bytes on `device`.

        Slot k·B + b begins at position k·`stride` of column b. The bytes are one block, and nobody else's.
        """
        columns, column_rows = self._records.shape[:2]
        blocks = gather(self._records.flatten(0, 1), slot, self.length, columns, column_rows, stride)
        return blocks.to(device)

    def save(self) -> None:
        """Bring the file up to date, and to the disk."""
        if self._file is None or self._path is None:
            return
        if self._unsaved:
            positions = torch.cat(self._unsaved)
            self._file.index_copy_(1, positions, self._records.index_select(1, positions))
            self._unsaved.clear()
        with open(self._path, "rb+") as file:
            os.fsync(file.fileno())


def gather(rows: Tensor, slot: Tensor, length: int, columns: int = 1, column_rows: int = 0, stride: int = 1) -> Tensor:
    """Blocks of `length` of the rows [R, ...], at `slot` [N]: [length, N, ...], bytes of its own.

    Slot n begins at the row n; where rows are those of `columns`, one behind the other, of `column_rows` each, slot
    k · columns + b begins at the row k · `stride` of column b. `rows` is contiguous. In C++ the next rows of all blocks
    are on their way from main memory while one is copied.
    """
    out = rows.new_empty(length, len(slot), *rows.shape[1:])
    if library() is None:
        first = slot % columns * column_rows + slot // columns * stride
        blocks = rows.unfold(0, length, 1).movedim(-1, 1)  # [R − length + 1, length, ...], which overlap in memory
        torch.index_select(blocks, 0, first, out=out.transpose(0, 1))
    else:
        sizes = (len(slot), length, rows.nbytes // len(rows), columns, column_rows, stride)
        call("gather_blocks", sizes, rows, slot, out)
    return out


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a leaf of `shape` stands in a record: from `offset` on, counted in numbers of its type."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def unpack(fields: Tree, records: Tensor) -> Tree:
    """The leaves [..., *leaf] that `fields` tell of, out of `records` [..., record_size]; views."""
    outer = tuple(records.shape[:-1])
    typed: dict[torch.dtype, Any] = {}

    def leaf(field: _Field) -> Tensor:
        if (known := typed.get(field.dtype)) is None:
            numbers = records.view(field.dtype)
            known = typed[field.dtype] = numbers, numbers.stride()[:-1], numbers.storage_offset()
        numbers, strides, start = known
        return numbers.as_strided(outer + field.shape, strides + field.strides, start + field.offset)

    return tree_map(leaf, fields)


def _fields(row: Tree) -> tuple[Tree, int]:
    """The leaves' places in a record, and its size in bytes.

    The widest types come first, and the size is a multiple of theirs: so every number is aligned.
    """
    end = 0
    fields: dict[int, _Field] = {}
    for leaf in sorted(tree_leaves(row), key=lambda leaf: -leaf.itemsize):
        strides = leaf[0].contiguous().stride()
        fields[id(leaf)] = _Field(leaf.dtype, tuple(leaf.shape[1:]), strides, end // leaf.itemsize)
        end += leaf[0].nbytes
    widest = max(leaf.itemsize for leaf in tree_leaves(row))
    return tree_map(lambda leaf: fields[id(leaf)], row), -(-end // widest) * widest


def _mapped(path: Path, shape: torch.Size, must_exist: bool) -> Tensor:
    path.parent.mkdir(exist_ok=True)
    num_bytes = shape.numel()
    if path.exists():
        if path.stat().st_size != num_bytes:
            raise UserError(
                f"{path} holds {path.stat().st_size:,} bytes, not {num_bytes:,}: resume with the run's own settings"
            )
    elif must_exist:
        raise UserError(f"{path}, with the rows of the run's replay, is missing: a run is resumed in its own folder")
    else:
        _allocate(path, num_bytes)
    return torch.from_file(str(path), shared=True, size=num_bytes, dtype=torch.uint8).view(shape)


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
