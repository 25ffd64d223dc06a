"""A checkpoint comes back as it went in, is written whole or not at all, and a pickle is never loaded."""

import io
import json
import os
import pickle
import pickletools
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seqrl import checkpoint
from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_flatten

Pair = namedtuple("Pair", "first second")


def same(one: Tree, other: Tree) -> bool:
    """Structure, types, shapes and bits, where a named tuple counts as a tuple."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same, one, other))
    return one.dtype == other.dtype and torch.equal(one, other)


TREES: dict[str, Tree] = {
    "nested": {"a": {"b": (torch.randn(2, 3), {"c": torch.arange(3)})}, "d": (torch.ones(1), (torch.zeros(2),))},
    "named tuple": {"pair": Pair(torch.ones(2), (torch.zeros(1),))},
    "keys with dots": {"env.x": torch.ones(2), "env": {"y.z": torch.zeros(3)}, "weights.0.bias": torch.ones(1)},
    "empty nodes": {"none": (), "nothing": {}, "something": torch.ones(1)},
    "a tensor alone": torch.randn(3),
    "views": {"row": torch.randn(4, 4)[:, 1], "transposed": torch.randn(2, 3).T, "expanded": torch.ones(1).expand(5)},
    "shared memory": dict.fromkeys(("one", "two"), torch.randn(3)),
    **{
        str(dtype).removeprefix("torch."): {"full": torch.ones(2, 2).to(dtype), "scalar": torch.ones(()).to(dtype),
                                            "empty": torch.empty(0, 3).to(dtype)}
        for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
                      torch.float64, torch.complex64)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    # Breaks when save_checkpoint drops `.contiguous()` or `.clone()`, or _rebuild joins paths with "/".
    counters = {"step": 3, "nested": {"rate": 0.25}}
    save_checkpoint(tmp_path / "c.safetensors", TREES[name], counters)
    tree, read = load_checkpoint(tmp_path / "c.safetensors")
    assert same(TREES[name], tree)
    assert read == counters


def test_not_a_number_survives_bit_for_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"x": torch.tensor([float("nan"), float("-inf"), -0.0])}, {})
    bits = load_checkpoint(tmp_path / "c")[0]["x"].view(torch.int32)
    assert torch.equal(bits, torch.tensor([float("nan"), float("-inf"), -0.0]).view(torch.int32))


def test_two_leaves_of_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="same dotted path"):
        save_checkpoint(tmp_path / "c", {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, {})


@pytest.mark.parametrize(("length", "start"), [(640, b"\x80\x02"), (1408, b"\x80\x05"), (19280, b"PK")])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path, length: int, start: bytes) -> None:
    """A safetensors file begins with its header's length, which may spell the first bytes of a pickle or a zip."""
    # Breaks when load_checkpoint refuses by the first two bytes before safetensors has had its say.
    path = tmp_path / "c"
    save_checkpoint(path, {"x": torch.ones(1)}, {"padding": ""})
    missing = length - int.from_bytes(path.read_bytes()[:8], "little")
    save_checkpoint(path, {"x": torch.ones(1)}, {"padding": "x" * missing})
    assert path.read_bytes().startswith(start)
    assert torch.equal(load_checkpoint(path)[0]["x"], torch.ones(1))


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    # Breaks when write_atomically writes to `path` itself, or leaves its temporary file behind.
    path = tmp_path / "c"
    save_checkpoint(path, {"x": torch.ones(2)}, {"step": 1})
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint if moment == "open" else os, moment, fail, raising=False)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"x": torch.zeros(2)}, {"step": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


def test_what_a_killed_write_left_is_written_over(tmp_path: Path) -> None:
    # Breaks when the temporary name holds the process id.
    (tmp_path / ".c.tmp").write_bytes(b"half a checkp")
    write_atomically(tmp_path / "c", b"whole")
    assert os.listdir(tmp_path) == ["c"]
    assert (tmp_path / "c").read_bytes() == b"whole"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def calls_mkdir(path: Path) -> bool:
    """Whether a pickle in the file names mkdir and calls what it named: its opcodes are read, and none is run."""
    data = path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            data = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    stream, found = io.BytesIO(data), []
    while stream.tell() < len(data):
        found += [(code.name, str(argument)) for code, argument, _ in pickletools.genops(stream)]
        if found[-1][0] == "STOP" and any("mkdir" in argument for _, argument in found):
            break  # what follows are a tensor's bytes
    return any("mkdir" in argument for _, argument in found) and any(name == "REDUCE" for name, _ in found)


@pytest.mark.parametrize("writer", ["torch zip", "torch legacy", 0, 1, 2, 3, 4, 5])
def test_a_pickle_is_never_loaded(tmp_path: Path, writer: str | int) -> None:
    # Breaks when load_checkpoint falls back to torch.load(..., weights_only=False).
    path, proof = tmp_path / "c", tmp_path / "proof"
    if isinstance(writer, int):
        path.write_bytes(pickle.dumps({"agent": Payload(proof)}, protocol=writer))
    else:
        torch.save({"agent": Payload(proof)}, path, _use_new_zipfile_serialization=writer == "torch zip")
    with pytest.raises(UserError, match="damaged" if writer in (0, 1) else "pickle") as caught:
        load_checkpoint(path)
    assert not proof.exists()
    assert str(path) in str(caught.value)
    assert calls_mkdir(path), "the payload of this test would have done nothing"


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(UserError, match=r"no checkpoint at .*--resume"):
        load_checkpoint(path)
    save_checkpoint(path, {"x": torch.arange(100.0)}, {"step": 1})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)
    for data in (b"hello", b"\xff" * 100, json.dumps({"a": 1}).encode(), whole.replace(b'"structure"', b'"strvcture"')):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(UserError, match="no seqrl format"):
        load_checkpoint(path)
    save_file({"x": torch.ones(1)}, path, {"format": "seqrl-999"})
    with pytest.raises(UserError, match="seqrl-999"):
        load_checkpoint(path)


def test_leaves_go_by_their_paths(tmp_path: Path) -> None:
    """Golden: other programs read the file with safetensors alone."""
    # Breaks when tree_flatten joins with anything but a dot.
    from safetensors.torch import load_file

    tree = {"agent": {"memory.weight": torch.ones(2)}, "rollout": (torch.zeros(1),)}
    save_checkpoint(tmp_path / "c", tree, {})
    assert set(load_file(tmp_path / "c")) == {"agent.memory.weight", "rollout.0"} == set(tree_flatten(tree))
