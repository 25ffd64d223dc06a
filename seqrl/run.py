"""A run is a folder: config.json, spaces.json, checkpoint.safetensors, metrics.jsonl and tensorboard/."""

import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO, Protocol, Self

import gymnasium as gym
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from seqrl.errors import UserError
from seqrl.spaces import space_from_json, space_to_json
from seqrl.trajectory import Tree

try:
    import fcntl
except ImportError:  # Windows: there two processes that train one folder are not told from one
    fcntl = None  # type: ignore[assignment]

CHECKPOINT = "checkpoint.safetensors"


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
        for name, part in parts.items():
            try:
                part.load_state_dict(tree[name])
            except (KeyError, RuntimeError, ValueError) as error:
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

        Raises UserError where another process trains in the folder.
        """
        self._take_lock()
        self._start_step, self._start_time = step, time.monotonic()
        self._truncate_metrics(step)
        self._metrics = (self.folder / "metrics.jsonl").open("a")
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

    def _truncate_metrics(self, step: int) -> None:
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in _lines(path) if _logged_step(line) <= step]
            write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _logged_step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # a line cut short by a kill


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()  # a crash of the machine may leave bytes that are no text


def read_metrics(folder: Path) -> Iterator[dict[str, float]]:
    """The lines of a run's metrics.jsonl; a line that is still being written is left out."""
    path = folder / "metrics.jsonl"
    for line in _lines(path) if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def read_last_metrics(folder: Path) -> dict[str, float]:
    """The newest value of each metric among the last lines of metrics.jsonl: cheap, however long it has become."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    with open(path, "rb") as file:
        start = max(0, os.path.getsize(path) - 8192)
        file.seek(start)
        lines = file.read().split(b"\n")[bool(start) : -1]  # the first may have lost its head, the last be unfinished
    return {name: value for line in lines for name, value in json.loads(line).items()}


def read_finished_step(folder: Path) -> int:
    """The step up to which a run was trained, 0 if it has logged nothing."""
    return int(max((line["step"] for line in read_metrics(folder)), default=0))


def read_saved_step(folder: Path) -> int:
    """The step of a run's last checkpoint, 0 before the first."""
    path = folder / CHECKPOINT
    return load_checkpoint(path)[1]["step"] if path.exists() else 0


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
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} does not fit the agent of config.json ({str(error).rpartition(chr(10))[2].strip()}): "
            "restore both files from the same run"
        ) from None


def create_folder(folder: Path, files: dict[str, Any]) -> None:
    """Make `folder` with JSON files in it, whole or not at all. Raises UserError when it exists or cannot be made."""
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (not an object): restore it from a copy")
    return content


def config_from_json(data: dict[str, Any], kind: type, path: Path) -> Any:
    """The config of class `kind` that `config_to_json` wrote.

    Raises UserError for fields it does not know, and for values of another type than the default's.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key != "type"}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{path} has unknown settings {unknown}: it was written by another version of seqrl")
    for key, value in values.items():
        known = type(fields[key].default)
        if not (type(value) is known or (known is float and type(value) is int)):
            raise UserError(f"{path} has {key} {value!r}, which is no {known.__name__}: restore it from a copy")
    return kind(**values)


def read_spaces(folder: Path) -> tuple[gym.Space, gym.Space]:
    """The observation and the action space that the run's agent was made for."""
    spaces = read_json(folder, "spaces.json")
    return _space(folder, spaces, "observation"), _space(folder, spaces, "action")


def _space(folder: Path, spaces: dict[str, Any], name: str) -> gym.Space:
    try:
        return space_from_json(spaces[name])
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
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


class _LabelColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")  # the only column that a narrow terminal cuts


class _ReturnColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        value = task.fields["episode_return"]
        return Text("return     –" if value is None else f"return {value:7.2f}", style="green")


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['steps_per_second']:8,.0f} steps/s", style="cyan")


def progress_bar() -> Progress:
    """On standard error, and silent where nobody watches: in a file, or in a worker whose parent shows its progress."""
    watched = multiprocessing.parent_process() is None or multiprocessing.current_process().name == "learner 0"
    silent = not (sys.stderr.isatty() and watched)
    whole = Column(no_wrap=True)
    columns = (
        _LabelColumn(), BarColumn(15, table_column=whole), TextColumn("{task.percentage:3.0f}%", table_column=whole),
        _ReturnColumn(whole), _SpeedColumn(whole), TimeRemainingColumn(compact=True, table_column=whole),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), disable=silent)
