"""A run is a folder: config.json, spaces.json, checkpoint.safetensors, metrics.jsonl and tensorboard/."""

import contextlib
import dataclasses
import json
import math
import os
import reprlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType, UnionType
from typing import Any, BinaryIO, Literal, Protocol, Self, Union, get_args, get_origin, get_type_hints

import gymnasium as gym
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from seqrl.checkpoint import counter, load_checkpoint, save_checkpoint, write_atomically
from seqrl.errors import UserError
from seqrl.progress import progress_bar
from seqrl.spaces import space_from_json, space_to_json
from seqrl.trajectory import Tree

try:
    import fcntl
except ImportError:  # Windows: there two processes that train one folder are not told from one
    fcntl = None  # type: ignore[assignment]

CHECKPOINT, METRICS = "checkpoint.safetensors", "metrics.jsonl"
UNFIT = (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError)
"""What parts raise at a state of another shape: a tuple where they have a dict, other sizes, nothing at all."""


class Stateful(Protocol):
    """A part of a training run that a checkpoint holds."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


class Run:
    """The folder of one training run, its log and its progress bar.

    Used as a context manager around training: Ctrl-C sets `interrupted`, so that the loop ends between two updates and
    saves; a second Ctrl-C stops at once. One process at a time trains a folder: from `open`, or `begin`, to the end of
    the context it is locked.
    """

    _lock: BinaryIO | None = None

    def __init__(self, folder: Path, num_steps: int, label: str):
        self.folder, self.num_steps, self.label = folder, num_steps, label
        self.interrupted = False

    @classmethod
    def open(
        cls, algorithm: str, config: Any, observation_space: gym.Space, action_space: gym.Space, resume: bool
    ) -> "Run":
        """Create the run's folder, or with `resume` reopen it.

        Raises UserError when a new run's folder exists, a reopened one's spaces differ from the environment's, or
        another process trains it.
        """
        folder = Path(config.run_dir)
        label = f"{algorithm} {config.memory} {config.env}"
        if resume:
            check_spaces(folder, observation_space, action_space)
        else:
            spaces = _spaces_to_json(observation_space, action_space)
            create_folder(folder, {"config.json": config_to_json(algorithm, config), "spaces.json": spaces})
        run = cls(folder, config.num_steps, label)
        run._take_lock()
        return run

    def restore(self, parts: dict[str, Stateful]) -> dict[str, Any]:
        """Bring every part to where the last checkpoint left it, and return its counters.

        Without `parts` the counters alone are read. Without a checkpoint the counters are empty. Raises UserError for a
        checkpoint that is damaged or of another agent.
        """
        path = self.folder / CHECKPOINT
        tree, counters = load_checkpoint(path) if path.exists() else ({}, {})
        if path.exists():
            counter(counters, "step", path)  # one without it is damaged, and no reason to begin at step 0
        for name, part in parts.items():
            try:
                part.load_state_dict(tree[name])
            except UNFIT as error:
                reason = str(error).rpartition("\n")[2].strip()  # torch puts what differs below a headline
                raise UserError(
                    f"{path} does not fit this run ({name}: {reason}): resume with the run's own config"
                ) from None
        return counters

    def save(self, parts: dict[str, Stateful], counters: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all. Raises UserError where the disk has no room for it."""
        path = self.folder / CHECKPOINT
        try:
            tree: Tree = {name: dict(part.state_dict()) for name, part in parts.items()}
            save_checkpoint(path, tree, counters)
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}){', the one before is kept' if path.exists() else ''}: "
                f"free some space, then continue with --resume {self.folder}"
            ) from None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, the same scalars for TensorBoard, and the progress bar.

        Raises UserError where a metric is not finite: the update went wrong, and a checkpoint before it is still good.
        """
        saved = (self.folder / CHECKPOINT).exists()
        kept = f"the last checkpoint in {self.folder} is kept; " if saved else ""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} is {value} at step {step}: the update diverged; {kept}"
                    "lower --learning-rate or --max-grad-norm"
                )
        rate = (step - self._start_step) / max(time.monotonic() - self._start_time, 1e-9)
        metrics = {**metrics, "steps_per_second": rate}
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)
        self._progress.update(self._task, completed=step, steps_per_second=rate)
        if "episode_return" in metrics:
            self._progress.update(self._task, episode_return=metrics["episode_return"])

    def begin(self, step: int) -> None:
        """Say from which step training goes on. What was logged after it is dropped: it is about to be repeated.

        Raises UserError where another process trains in the folder, or its log is damaged.
        """
        self._take_lock()
        self._start_step, self._start_time = step, time.monotonic()
        self._drop_metrics_after(step)
        self._metrics = (self.folder / METRICS).open("a")
        self._tensorboard = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)
        self._progress.update(self._task, completed=step)

    def __enter__(self) -> Self:
        self._progress = progress_bar()
        self._task = self._progress.add_task(
            self.label, total=self.num_steps, episode_return=None, steps_per_second=0.0
        )
        self._progress.start()
        self._main_thread = threading.current_thread() is threading.main_thread()
        if self._main_thread:
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._main_thread:
            signal.signal(signal.SIGINT, self._previous_handler)
        self._progress.stop()
        for log in ("_metrics", "_tensorboard"):
            if hasattr(self, log):  # begin() was reached
                getattr(self, log).close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        # On a file that is there in any case and never replaced; a killed process leaves no lock behind.
        path = self.folder / "config.json"
        if fcntl is None or self._lock is not None or not path.exists():
            return
        self._lock = path.open("rb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.folder} is being trained by another process: wait for it, or stop it") from None
        except OSError:
            pass  # a file system without locks

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def _drop_metrics_after(self, step: int) -> None:
        path, lines = self.folder / METRICS, list(read_metrics(self.folder))
        if step == 0 and lines:
            # Nothing tells a run that was killed before its first checkpoint from one whose checkpoint was lost, of
            # which the log may be all that is left: it is put aside, and not dropped.
            names = (f"metrics.lost{'' if k == 1 else f'.{k}'}.jsonl" for k in range(1, 1_000_000))
            aside = next(self.folder / name for name in names if not (self.folder / name).exists())
            path.replace(aside)
            there = f"what it had logged, up to step {int(lines[-1]['step']):,}, is kept in {aside}"
            print(f"seqrl: {self.folder} has no checkpoint and begins at step 0: {there}", file=sys.stderr)
        elif path.exists():
            kept = [line for line in lines if line["step"] <= step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


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


def create_folder(folder: Path, files: dict[str, Any]) -> None:
    """Make `folder` with JSON files in it, whole or not at all. Raises UserError when it exists or cannot be made."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8, which TensorBoard and JSON cannot name
        raise UserError(f"{str(folder)!r} is no UTF-8 (--run-dir): choose another name") from None
    if folder.exists():
        raise UserError(f"{folder} exists already (--run-dir): choose another, or continue it with --resume {folder}")
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
    base = Path("runs") / f"{env}_{memory}_s{seed}".replace("/", "-").replace(":", "-")
    candidates = (base if k == 1 else base.with_name(f"{base.name}_{k}") for k in range(1, 1_000_000))
    return str(next(path for path in candidates if not path.exists()))


def config_to_json(algorithm: str, config: Any) -> dict[str, Any]:
    """A config with its type beside its fields."""
    return {"type": algorithm, **dataclasses.asdict(config)}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a run folder. Raises UserError when `folder` is not one."""
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder (it has no {name}): give one that `seqrl train` wrote")
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not an object): restore it from a copy")
    return content


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
            known = kinds[key].__name__ if isinstance(kinds[key], type) else str(kinds[key]).removeprefix("typing.")
            raise UserError(f"{path} has {key} {reprlib.repr(value)}, which is no {known}: restore it from a copy")
    return kind(**values)


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


def _spaces_to_json(observation_space: gym.Space, action_space: gym.Space) -> dict[str, Any]:
    return {"observation": space_to_json(observation_space), "action": space_to_json(action_space)}


def check_spaces(folder: Path, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Raise UserError when an environment's spaces differ from those of the run's agent."""
    trained = read_json(folder, "spaces.json")
    for name, space in _spaces_to_json(observation_space, action_space).items():
        if trained.get(name) != space:
            raise UserError(
                f"the {name} space does not fit the agent in {folder}: it was trained on "
                f"{_space(folder, trained, name)}, the environment has {space_from_json(space)}: "
                "give the environment it was trained on, with the same --hide and --env-kwargs"
            )
