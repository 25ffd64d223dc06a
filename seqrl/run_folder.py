"""The files of a run's folder: written whole, and read as what may have been damaged, or never was a run's."""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import reprlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import gymnasium as gym
from torch import nn

from seqrl.checkpoint import counter, load_checkpoint
from seqrl.data.episode_files import INDEX, lack
from seqrl.envs.privileged import is_privileged, split_space
from seqrl.errors import UserError, quoted
from seqrl.spaces import difference, space_from_json, space_to_json

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
UNFIT = (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError)
"""What parts raise at a state of another shape: a tuple where they have a dict, other sizes, nothing at all."""


def read_metrics(folder: Path) -> Iterator[dict[str, float]]:
    """The lines of a run's metrics.jsonl. Those at its end that are cut short, by a kill or since they are being
    written, are left out.

    Raises UserError for any other that is no object of numbers, the step among them.
    """
    path = folder / METRICS
    # A crash of the machine may leave bytes that are no text.
    texts = path.read_text(errors="replace").splitlines() if path.exists() else []
    count = 0
    for number, text in enumerate(texts, 1):
        try:
            line = _logged(text)
        except json.JSONDecodeError:
            continue
        if line is None or number > count + 1:
            raise UserError(f"{path} is damaged in line {count + 1}: delete that line, or restore it from a copy")
        yield line
        count += 1


def _logged(text: str | bytes) -> dict[str, float] | None:
    """What a line of metrics.jsonl says; None where no run wrote it. Raises JSONDecodeError for one cut short."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets without end, no text
        return None
    whole = isinstance(line, dict) and "step" in line and all(_is_of(value, float) for value in line.values())
    return line if whole else None


def read_last_metrics(folder: Path) -> dict[str, float]:
    """The newest value of each metric among the last lines of metrics.jsonl: cheap, however long it has become. Lines
    that are damaged are left out."""
    path = folder / METRICS
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        start = max(0, os.path.getsize(path) - 8192)
        file.seek(start)
        texts = file.read().split(b"\n")[bool(start) : -1]  # the first may have lost its head, the last be unfinished
    last: dict[str, float] = {}
    with contextlib.suppress(json.JSONDecodeError):  # of a line cut short by a kill, there is none behind
        for text in texts:
            last |= _logged(text) or {}
    return last


def read_finished_step(folder: Path) -> int:
    """The step up to which a run was trained, 0 if it has logged nothing."""
    return int(max((line["step"] for line in read_metrics(folder)), default=0))


def read_saved_step(folder: Path) -> int:
    """The step of a run's last checkpoint, 0 before the first."""
    path = folder / CHECKPOINT
    return counter(load_checkpoint(path)[1], "step", path) if path.exists() else 0


def load_weights(agent: nn.Module, run: str | Path, part: str = "") -> None:
    """Bring `agent` to the weights of a run folder, or what is a part of that agent, such as "policy", to that part's.

    Raises UserError where they are another agent's, or damaged.
    """
    path = Path(run) / CHECKPOINT
    tree, _ = load_checkpoint(path)
    try:
        weights = tree["agent"]
        if part:
            weights = {
                key.removeprefix(f"{part}."): leaf for key, leaf in weights.items() if key.startswith(f"{part}.")
            }
        agent.load_state_dict(weights)
    except UNFIT as error:
        raise UserError(
            f"{path} does not fit the agent of config.json ({str(error).rpartition(chr(10))[2].strip()}): "
            "restore both files from the same run"
        ) from None


def holds_part(run: str | Path, part: str) -> bool:
    """Whether the agent in a run's checkpoint has a part called so, such as "policy": what a run of a user's own
    algorithm can serve as is told by its files, without its code. Raises UserError where there is no checkpoint."""
    tree, _ = load_checkpoint(Path(run) / CHECKPOINT)
    agent = tree.get("agent") if isinstance(tree, dict) else None
    return isinstance(agent, dict) and any(name.startswith(f"{part}.") for name in agent)


def check_new(folder: Path) -> None:
    """Raise UserError where there is such a folder already, or cannot be one of this name."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8, which TensorBoard and JSON cannot name
        raise UserError(f"{str(folder)!r} is no UTF-8 (--run-dir): choose another name") from None
    if folder.exists():
        way_on = f"continue it with --resume {quoted(folder)}"
        raise UserError(f"{folder} exists already (--run-dir): choose another, or {way_on}")


def create_folder(folder: Path, files: dict[str, Any]) -> None:
    """Make `folder` with JSON files in it, whole or not at all. Raises UserError when it exists or cannot be made."""
    check_new(folder)
    for name, value in files.get("config.json", {}).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name.replace('_', '-')} is {value}: it must be a finite number")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        temporary.chmod(0o755)
        os.rename(temporary, folder)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot create the run folder {folder} ({error.strerror}): choose another --run-dir") from None


def default_run_dir(env: str, memory: str, seed: int) -> str:
    """runs/ENV_MEMORY_sSEED, with a number behind it if that exists."""
    return str(first_free(Path("runs"), f"{env}_{memory}_s{seed}"))


def first_free(folder: Path, name: str, suffix: str = "") -> Path:
    """The path in `folder` of what is called so, with a number behind its name if that exists."""
    name = name.replace("/", "-").replace(":", "-")
    paths = (folder / f"{name}{'' if k == 1 else f'_{k}'}{suffix}" for k in range(1, 1_000_000))
    return next(path for path in paths if not path.exists())


def config_to_json(algorithm: str, config: Any) -> dict[str, Any]:
    """A config with its type beside its fields."""
    return {"type": algorithm, **dataclasses.asdict(config)}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a run folder. Raises UserError when `folder` is not one."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder ({_is_instead(folder, name)}")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not an object): restore it from a copy")
    return content


def _is_instead(folder: Path, name: str) -> str:
    """What a folder is that is no run's, since it has no file of this name; and the way out."""
    if (folder / INDEX).is_file():
        return f"it holds logged episodes): seqrl audit {quoted(folder)} looks at them, seqrl compare learns from them"
    if runs := _runs_in(folder):
        return f"it holds runs): name one of them, such as {folder / runs[0]}"
    if not folder.exists() and (near := difflib.get_close_matches(folder.name, _runs_in(folder.parent), n=1)):
        return f"there is none of this name): did you mean '{folder.parent / near[0]}'?"
    return f"{lack(folder, name)}): give one that `seqrl train` wrote"


def _runs_in(folder: Path) -> list[str]:
    """Names of the runs and comparisons right inside a folder."""
    return sorted(path.parent.name for path in folder.glob("*/config.json"))


def config_from_json(data: dict[str, Any], kind: type, path: Path) -> Any:
    """The config of class `kind` that `config_to_json` wrote.

    Raises UserError for what is no object, for fields it does not know, and for values that are not of their types.
    """
    if not isinstance(data, dict):
        raise UserError(f"{path} has {reprlib.repr(data)} for settings, which is no object: restore it from a copy")
    kinds = get_type_hints(kind)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "type"}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        raise UserError(f"{path} has unknown settings {unknown}: it was written by another version of seqrl")
    for key, value in values.items():
        if not _is_of(value, kinds[key]):
            known = _called(kinds[key])
            raise UserError(f"{path} has {key} {reprlib.repr(value)}, which is no {known}: restore it from a copy")
    return kind(**values)


def readable(config: Any) -> Any:
    """`config` with its paths as strings. Raises UserError for a setting of another type than it is declared with, as
    Python lets anybody give: a run that was trained with it could not be read any more."""
    kinds = get_type_hints(type(config))
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    paths = {name: os.fspath(value) for name, value in values.items() if isinstance(value, os.PathLike)}
    for name, value in (values | paths).items():
        is_number = type(value) is kinds[name] and type(value) in (int, float)  # which ones will do is checked later
        if not is_number and not _is_of(tuple(value) if isinstance(value, list) else value, kinds[name]):
            raise UserError(f"{name}={reprlib.repr(value)} is no {_called(kinds[name])}: {_instead(name, value)}")
    return dataclasses.replace(config, **paths)


def _called(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).removeprefix("typing.")


def _instead(name: str, value: Any) -> str:
    """The way out for a setting of a type that is not its own."""
    if name == "env":
        return 'name its id, after gymnasium.register, such as "CartPole-v1" or "my_module:Mine-v0"'
    if name == "hide":
        return 'give a tuple, such as (1, 3) or ("velocity",)'
    if isinstance(value, dict) and name.endswith("kwargs"):
        with contextlib.suppress(TypeError, ValueError):
            return f"give {tuple(f'{key}={json.dumps(each)}' for key, each in value.items())}"
    if isinstance(value, str):
        return f"give ({value!r},)" if name.endswith("kwargs") else "give it without quotes"
    if isinstance(value, float) and value.is_integer():
        return f"give {int(value)}"
    return "give another value, or leave it out"


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value that JSON held is of an annotated type. Numbers are finite, and whole ones what tensors hold."""
    if get_origin(kind) is tuple:
        return type(value) is tuple and all(_is_of(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        kind = str  # which of them, the algorithm checks
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind and (kind is not int or -(2**63) <= value < 2**63)


def read_spaces(folder: Path) -> tuple[gym.Space, gym.Space]:
    """The observation and the action space that the run's agent was made for."""
    spaces = read_json(folder, "spaces.json")
    return _space(folder, spaces, "observation"), _space(folder, spaces, "action")


def _space(folder: Path, spaces: dict[str, Any], name: str) -> gym.Space:
    try:
        return space_from_json(spaces[name])
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{folder / 'spaces.json'} is damaged ({name}: {reason}): restore it from a copy") from None


def spaces_to_json(observation_space: gym.Space, action_space: gym.Space) -> dict[str, Any]:
    """What spaces.json holds."""
    return {"observation": space_to_json(observation_space), "action": space_to_json(action_space)}


def check_spaces(folder: Path, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Raise UserError when an environment's spaces differ from those of the run's agent."""
    given = {"observation": observation_space, "action": action_space}
    for (name, space), trained in zip(given.items(), read_spaces(folder), strict=True):
        if not is_privileged(space):  # a critic may have seen more, which playing does without
            trained = split_space(trained)[0]
        if wrong := difference(space, trained, name, ordered=name == "action"):
            raise UserError(
                f"the {name} space does not fit the agent in {folder}, which was trained on another: {wrong}; "
                "give the environment it was trained on, with the same --hide and --env-kwargs"
            )
