"""Storage: what was written is read back, from memory and from files, and a full disk is found out at the start."""

import errno
import os
import resource

import pytest
import torch

from seqrl.data.storage import Storage
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten, tree_map

B, NUM_ROWS = 3, 7
ROW = {
    "image": torch.zeros(B, 2, 2, dtype=torch.uint8),
    "pair": (torch.zeros(B), torch.zeros(B, dtype=torch.int64)),
    "flag": torch.zeros(B, dtype=torch.bool),
}


def rows(num, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(leaf):
        return torch.randint(0, 2 if leaf.dtype == torch.bool else 200, (num, *leaf.shape), generator=generator).to(
            leaf
        )

    return tree_map(draw, ROW)


def assert_equal(found, expected):
    for name, leaf in tree_flatten(expected).items():
        assert tree_flatten(found)[name].dtype == leaf.dtype
        assert torch.equal(tree_flatten(found)[name], leaf), name


# Breaks if `read` takes `positions * B + columns`, or `write` leaves out the transpose.
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_rows_by_hand(tmp_path, where):
    storage = Storage(ROW, NUM_ROWS, where, tmp_path)
    written = rows(NUM_ROWS)
    storage.write(tree_map(lambda leaf: leaf[:4], written), torch.tensor([5, 6, 0, 1]))
    storage.write(tree_map(lambda leaf: leaf[4:], written), torch.tensor([2, 3, 4]))
    columns, positions = torch.tensor([2, 0, 2, 1]), torch.tensor([[6, 0, 4, 5], [0, 1, 5, 6]])
    assert_equal(storage.read(columns, positions), tree_map(lambda leaf: leaf[(positions + 2) % 7, columns], written))


# Breaks if `_unsaved` is cleared before it is copied, `restore` does nothing, or "disk" has a copy of its own.
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("again", ["memory", "disk"])
def test_saved_rows_come_back_in_either_place(tmp_path, where, again):
    storage = Storage(ROW, NUM_ROWS, where, tmp_path)
    columns, positions = torch.arange(B).repeat_interleave(NUM_ROWS), torch.arange(NUM_ROWS).repeat(B)[None]
    for seed in range(3):  # some rows twice between two saves, some rows not at all
        for k in range(3):
            storage.write(rows(3, seed=10 * seed + k), torch.arange(k + 2 * seed, k + 2 * seed + 3) % NUM_ROWS)
        storage.save()
        other = Storage(ROW, NUM_ROWS, again, tmp_path)
        other.restore()
        assert_equal(other.read(columns, positions), storage.read(columns, positions))


def test_memory_alone_needs_no_folder():
    storage = Storage(ROW, NUM_ROWS, "memory", None)
    storage.write(rows(2), torch.tensor([6, 0]))
    storage.save()
    storage.restore()
    assert_equal(storage.read(torch.arange(B), torch.tensor([[6] * B, [0] * B])), rows(2))
    with pytest.raises(ValueError, match="needs a folder"):
        Storage(ROW, NUM_ROWS, "disk", None)


# Breaks with `file.truncate` in place of `posix_fallocate`: a file of holes, and a crash when they are filled.
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_files_are_allocated_in_full(tmp_path):
    """Golden: each file's size, in numbers and in blocks."""
    Storage(ROW, 50_000, "memory", tmp_path)
    for name, size in {"image": 4, "pair.0": 4, "pair.1": 8, "flag": 1}.items():
        status = (tmp_path / f"{name}.bin").stat()
        assert status.st_size == B * 50_000 * size
        assert status.st_blocks * 512 >= status.st_size


def test_a_file_of_another_size_is_refused(tmp_path):
    Storage(ROW, NUM_ROWS, "memory", tmp_path)
    with pytest.raises(UserError, match=r"image\.bin holds 84 bytes, not 96: resume with the run's own settings"):
        Storage(ROW, NUM_ROWS + 1, "disk", tmp_path)


def check_full(folder, reason):
    with pytest.raises(
        UserError, match=rf"cannot keep the replay in .* \({reason}\): .*free some space, or lower"
    ) as e:
        Storage(ROW, 10_000, "disk", folder)
    assert "\n" not in str(e.value)
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    Storage(ROW, 9_000, "memory", folder.with_name("other"))


# Breaks if OSError is not caught, or the temporary file is left behind.
def test_a_disk_that_is_full(tmp_path, monkeypatch):
    allocate = os.posix_fallocate

    def full(descriptor, offset, length):
        if length == 10_000 * B * 8:  # the third file
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    check_full(tmp_path / "replay", "No space left on device")


def test_files_larger_than_allowed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_500 * B * 8, hard))
    try:
        check_full(tmp_path / "replay", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
