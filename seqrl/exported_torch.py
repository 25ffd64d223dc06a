"""Reads a step that `torch.export` saved, without unpickling and without running what the file says.

`torch.export.load` unpickles example inputs, custom objects and some weights, and evaluates strings as Python: shapes,
guards, names of functions and of types. A file of `seqrl export` has none of the former, and of the latter only what
these patterns allow; so anything else is refused before PyTorch sees it.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from seqrl.errors import UserError

ABOUT = "seqrl.json"
_ENTRIES = re.compile(
    r"(archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/(weights|constants)/(weight|tensor)_\d+"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json|extra/seqrl\.json)"
)
_SYMBOL = r"Symbol\('\w+'(, (positive|integer)=True)*\)|Integer\(-?\d+\)"
_SHAPE = re.compile(rf"({_SYMBOL}|s\d+|Add|Mul|Max|Min|FloorDiv|[-+*(), \d])*")
_GUARD = re.compile(r"(L\['leaves'\]\[\d+\]\.size\(\)\[\d+\]|[<>=!]=|[-+*<>() \d])*")
_TARGET = re.compile(
    r"torch\.ops\.aten\.((?!__)\w+|__(and|or)__)(\.(?!__)\w+)?|_operator\.(add|sub|mul|floordiv|neg|eq|ge|gt|le|lt)"
)
_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")

Function = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def read(data: bytes, source: str) -> tuple[Function, dict[str, Any]]:
    """The step in the bytes of a .pt2 file, arrays by name in and out, and what is told of it.

    Raises UserError for a file that is damaged, that `seqrl export` did not write, or that could run code.
    """
    try:
        about = _checked(data)
    except _SuspiciousError as problem:
        raise UserError(
            f"{source} was not written by seqrl export, and loading it could run code ({problem}): export the run again"
        ) from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source} is damaged or no exported agent ({error}): export the run again") from None
    module = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def function(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # Copies, for PyTorch warns of arrays that may not be written to.
        outputs = module(*(torch.from_numpy(np.array(inputs[name])) for name, *_ in about["inputs"]))
        return {name: leaf.numpy() for (name, *_), leaf in zip(about["outputs"], outputs, strict=True)}

    return function, about


class _SuspiciousError(Exception):
    """What a file holds that could run code."""


def _checked(data: bytes) -> dict[str, Any]:
    """What is told of the step. Raises _SuspiciousError for what could be unpickled or evaluated."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files: dict[str, bytes] = {}
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]  # below the archive's own name
            if name in files or not _ENTRIES.fullmatch(name):
                raise _SuspiciousError(f"it holds {entry.filename!r}")
            files[name] = archive.read(entry)
    if files["data/sample_inputs/model.pt"]:
        raise _SuspiciousError("it holds pickled example inputs")
    for kind in ("weights", "constants"):
        _check_payload(json.loads(files[f"data/{kind}/model_{kind}_config.json"]))
    _check_program(json.loads(files["models/model.json"]))
    return json.loads(files[f"extra/{ABOUT}"])


def _check_payload(payload: dict[str, Any]) -> None:
    for name, tensor in payload["config"].items():
        if tensor["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", tensor["path_name"]):
            raise _SuspiciousError(f"{name} is pickled")


def _check_program(program: dict[str, Any]) -> None:
    module = program["graph_module"]
    _require("guard", program["guards_code"], _GUARD)
    _require("function", (node["target"] for node in module["graph"]["nodes"]), _TARGET)
    _require("shape", _all_of(program, "expr_str"), _SHAPE)
    _require("symbol", program["range_constraints"], re.compile(r"\w+"))
    if module.get("treespec_namedtuple_fields") or program["opset_version"].keys() != {"aten"}:
        raise _SuspiciousError("it names types or functions of other libraries")
    for key in ("in_spec", "out_spec"):
        for spec in _all_of(program, key):
            for kind in _all_of(json.loads(spec), "type"):
                if kind not in _TYPES:
                    raise _SuspiciousError(f"it names the type {kind!r}")


def _require(what: str, found: Any, pattern: re.Pattern[str]) -> None:
    for text in found:
        if not pattern.fullmatch(text):
            raise _SuspiciousError(f"the {what} {text[:80]!r}")


def _all_of(tree: Any, key: str) -> Iterator[Any]:
    """The values of `key` anywhere in a tree of JSON."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from _all_of(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _all_of(value, key)
