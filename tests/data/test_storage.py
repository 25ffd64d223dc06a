"""Storage: what was written is read back, from memory and from the file, and a full disk is found out at the start."""

import errno
import os
import resource

import pytest
import torch

from seqrl.data import storage as module
from seqrl.data.storage import Storage, gather, unpack
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten, tree_map

B, NUM_ROWS, LENGTH = 3, 7, 3
ROW = {
    "image": torch.zeros(B, 2, 2, dtype=torch.uint8),
    "pair": (torch.zeros(B), torch.zeros(B, dtype=torch.int64)),
    "flag": torch.zeros(B, dtype=torch.bool),
}

native = module.library()
needs_native = pytest.mark.skipif(native is None, reason="needs a C++ compiler")


@pytest.fixture(params=["pytorch", pytest.param("c++", marks=needs_native)])
def computed_by(request, monkeypatch):
    monkeypatch.setattr(module, "library", lambda: None if request.param == "pytorch" else native)


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


def make(where, folder, num_rows=NUM_ROWS, **options):
    return Storage(ROW, num_rows, LENGTH, where, folder, **options)


# Breaks if `read` leaves out the rows behind the ring (`* self.num_rows`), or `write` leaves out the transpose.
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_rows_by_hand(tmp_path, where):
    storage = make(where, tmp_path)
    written = rows(NUM_ROWS)
    storage.write(tree_map(lambda leaf: leaf[:4], written), torch.tensor([5, 6, 0, 1]))
    storage.write(tree_map(lambda leaf: leaf[4:], written), torch.tensor([2, 3, 4]))
    columns, positions = torch.tensor([2, 0, 2, 1]), torch.tensor([[6, 0, 4, 5], [0, 1, 5, 6]])
    assert_equal(storage.read(columns, positions), tree_map(lambda leaf: leaf[(positions + 2) % 7, columns], written))
    assert_equal(storage.leaves, tree_map(lambda leaf: leaf.roll(-2, 0).transpose(0, 1), written))


# Breaks if `again` leaves out a row (`< self.length - 2`), or is not written at all.
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_sequences_run_on_over_the_end(tmp_path, where, computed_by):
    """Every sequence there is, after the ring was written over one and a half times; it has bytes of its own."""
    storage, written = make(where, tmp_path), rows(NUM_ROWS + 4)
    for k in range(NUM_ROWS + 4):
        storage.write(tree_map(lambda leaf, k=k: leaf[k : k + 1], written), torch.tensor([k % NUM_ROWS]))
    columns, first = torch.arange(B).repeat_interleave(NUM_ROWS), torch.arange(NUM_ROWS).repeat(B)
    positions = (first + torch.arange(LENGTH)[:, None]) % NUM_ROWS
    for _ in range(2):
        found = unpack(storage.fields, storage.read_sequences(first * B + columns))
        assert_equal(found, tree_map(lambda leaf: leaf[positions + NUM_ROWS * (positions < 4), columns], written))
        tree_map(torch.Tensor.zero_, found)


# Breaks if C++ leaves out a row's last bytes, or a row; and reads beyond the block (`next`) only ask for memory.
@pytest.mark.parametrize("shape", [(), (3,), (17,), (48,), (5, 50), (300,), (0,)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_gathered_blocks_by_definition(shape, dtype, computed_by):
    """Blocks that overlap, the first and the last there are, of rows of 0 to 2,400 bytes."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (40, *shape), generator=generator).to(dtype)
    for length in (1, 2, 21):
        first = torch.cat([torch.tensor([0, 40 - length]), torch.randint(41 - length, (9,), generator=generator)])
        found = gather(source, first, length)
        assert torch.equal(found, source[first + torch.arange(length)[:, None]])
        assert found.is_contiguous()


def test_one_type_after_the_other_is_aligned():
    """Golden: 8 + 4 + 4 + 1 bytes, filled up to 24: the widest types first."""
    assert make("memory", None).leaves["pair"][1].stride() == (3 * (NUM_ROWS + LENGTH - 1), 3)
    one = Storage({"flag": torch.zeros(2, dtype=torch.bool)}, 4, 1, "memory", None)
    assert one.leaves["flag"].stride() == (4, 1)


# Breaks if `_unsaved` is cleared before it is copied, or leaves out the rows behind the ring; if `restore` copies
# nothing, or "disk" has a copy of its own.
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("again", ["memory", "disk"])
def test_saved_rows_come_back_in_either_place(tmp_path, where, again):
    storage = make(where, tmp_path)
    columns, first = torch.arange(B).repeat_interleave(NUM_ROWS), torch.arange(NUM_ROWS).repeat(B)
    for seed in range(3):  # some rows twice between two saves, some rows not at all
        for k in range(3):
            storage.write(rows(3, seed=10 * seed + k), torch.arange(k + 2 * seed, k + 2 * seed + 3) % NUM_ROWS)
        storage.save()
        other = make(again, tmp_path, restore=True)
        assert_equal(other.read(columns, first[None]), storage.read(columns, first[None]))
        slot = first * B + columns
        assert torch.equal(other.read_sequences(slot), storage.read_sequences(slot))


def test_memory_alone_needs_no_folder():
    storage = make("memory", None)
    storage.write(rows(2), torch.tensor([6, 0]))
    storage.save()
    assert_equal(storage.read(torch.arange(B), torch.tensor([[6] * B, [0] * B])), rows(2))
    with pytest.raises(ValueError, match="needs a folder"):
        make("disk", None)


# Breaks with `file.truncate` in place of `posix_fallocate`: a file of holes, and a crash when they are filled.
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_file_is_allocated_in_full(tmp_path, where):
    """Golden: its size, in numbers and in blocks."""
    make(where, tmp_path, 50_000)
    (path,) = tmp_path.iterdir()
    assert path.name == "rows.bin"
    assert path.stat().st_size == B * (50_000 + LENGTH - 1) * 24
    assert path.stat().st_blocks * 512 >= path.stat().st_size


@pytest.mark.parametrize("restore", [False, True])
def test_a_file_of_another_size_is_refused(tmp_path, restore):
    make("memory", tmp_path)
    with pytest.raises(UserError, match=r"rows\.bin holds 648 bytes, not 720: resume with the run's own settings"):
        make("disk", tmp_path, NUM_ROWS + 1, restore=restore)


# Breaks if a file that is to be restored is made, full of zeros.
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_file_that_is_missing_is_refused(tmp_path, where):
    for _ in range(2):
        with pytest.raises(UserError, match=r"rows\.bin, with the rows of the run's replay, is missing"):
            make(where, tmp_path, restore=True)


def check_full(folder, reason):
    with pytest.raises(
        UserError,
        match=rf"cannot keep the replay in .* \({reason}\): rows.bin takes 0.00 GB; free some space, or lower",
    ) as e:
        make("disk", folder, 10_000)
    assert "\n" not in str(e.value)
    assert not list(folder.iterdir())
    make("memory", folder.with_name("other"), 9_000)


# Breaks if OSError is not caught, or the temporary file is left behind.
def test_a_disk_that_is_full(tmp_path, monkeypatch):
    allocate = os.posix_fallocate

    def full(descriptor, offset, length):
        if length == B * (10_000 + LENGTH - 1) * 24:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    check_full(tmp_path / "replay", "No space left on device")


def test_files_larger_than_allowed(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_500 * B * 24, hard))
    try:
        check_full(tmp_path / "replay", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
