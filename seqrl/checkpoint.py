"""A tree of tensors in one safetensors file. Nothing is ever unpickled, and a write is whole or did not happen."""

import json
import math
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_flatten, tree_leaves

FORMAT = "seqrl-1"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary neighbour, flush it to disk, and rename it over `path`. One process at a time."""
    temporary = path.with_name(f".{path.name}.tmp")  # always this name: what a killed process left is written over
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write `content` as strict JSON, whole or not at all. NaN, such as the interval of a single seed, is null."""
    write_atomically(path, (json.dumps(_strict(content), indent=2, allow_nan=False) + "\n").encode())


def _strict(value: Any) -> Any:
    """`value` as strict JSON can hold it."""
    if isinstance(value, dict):
        return {key: _strict(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(child) for child in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_checkpoint(path: Path, tree: Tree, counters: dict[str, Any]) -> None:
    """Save a tree of dicts, tuples and tensors, and counters that JSON can hold."""
    write_atomically(path, to_bytes(tree, counters))


def to_bytes(tree: Tree, counters: dict[str, Any]) -> bytes:
    """What `save_checkpoint` writes."""
    tensors = {key: leaf.detach().cpu().clone().contiguous() for key, leaf in tree_flatten(tree).items()}
    assert len(tensors) == sum(1 for _ in tree_leaves(tree)), "two leaves have the same dotted path"
    metadata = {"format": FORMAT, "structure": json.dumps(_structure(tree)), "counters": json.dumps(counters)}
    return save(tensors, metadata)


def from_bytes(data: bytes) -> tuple[Tree, dict[str, Any]]:
    """The tree and the counters of `to_bytes`; named tuples come back as plain ones."""
    length = int.from_bytes(data[:8], "little")  # of the header, by the format of safetensors
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    return _rebuild(json.loads(metadata["structure"]), load(data)), json.loads(metadata["counters"])


def load_checkpoint(path: Path) -> tuple[Tree, dict[str, Any]]:
    """The tree and the counters of `save_checkpoint`; named tuples come back as plain ones.

    Raises UserError for a file that is missing, cut short, damaged, pickled, or not written by seqrl.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: if this is a run that was stopped early, continue it with --resume")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format", "no seqrl format")
                raise UserError(
                    f"{path} is not a checkpoint of this seqrl ({found}, not {FORMAT}): train the run again"
                )
            leaves = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        counters = json.loads(metadata["counters"])
        if not isinstance(counters, dict):
            raise ValueError("its counters are no object")
        return _rebuild(json.loads(metadata["structure"]), leaves), counters
    except UserError:
        raise
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        if _looks_pickled(path):
            raise UserError(
                f"{path} holds a pickle, which could run code and is never loaded: give a safetensors checkpoint"
            ) from None
        raise UserError(
            f"{path} is damaged or not a checkpoint ({error}): restore it from a copy, or train again"
        ) from None


def load_leaf(path: Path, name: str) -> Tensor | None:
    """One tensor of a checkpoint, by its dotted path; None where there is none. What is wrong with the file itself,
    `load_checkpoint` says."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError):
        return None


def counter(counters: dict[str, Any], name: str, path: Path) -> int:
    """A counter of the checkpoint at `path`. Raises UserError where it is no number: a run would begin at 0 again."""
    value = counters.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise UserError(
            f"{path} is damaged or not a run's checkpoint (its {name} is {value!r}): restore it from a copy, or train "
            "again"
        )
    return value


def _looks_pickled(path: Path) -> bool:
    """Whether a file that is not safetensors starts as torch.save's do, a zip or a pickle of protocol 2 to 5."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _structure(tree: Tree) -> Any:
    """What JSON keeps of a tree: objects for dicts, lists for tuples, null for tensors."""
    if isinstance(tree, dict):
        return {str(key): _structure(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return [_structure(value) for value in tree]
    return None


def _rebuild(structure: Any, leaves: dict[str, Any], prefix: str = "") -> Tree:
    if structure is None:
        return leaves[prefix]
    if not isinstance(structure, dict | list):
        raise ValueError(f"its structure has a {type(structure).__name__}")
    items = structure.items() if isinstance(structure, dict) else enumerate(structure)
    children = {key: _rebuild(value, leaves, f"{prefix}.{key}" if prefix else str(key)) for key, value in items}
    return children if isinstance(structure, dict) else tuple(children.values())
