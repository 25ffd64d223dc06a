"""A run is a folder: config.json, spaces.json, checkpoint.safetensors, metrics.jsonl and tensorboard/."""

import contextlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO, Protocol, Self

import gymnasium as gym

from seqrl.checkpoint import counter, load_checkpoint, save_checkpoint, write_atomically
from seqrl.errors import UserError, quoted
from seqrl.locks import lock
from seqrl.own_code import algorithm_of
from seqrl.progress import progress_bar
from seqrl.run_folder import (
    CHECKPOINT,
    METRICS,
    UNFIT,
    check_spaces,
    config_from_json,
    config_to_json,
    create_folder,
    read_json,
    read_metrics,
    read_spaces,
    spaces_to_json,
)
from seqrl.spaces import difference
from seqrl.trajectory import Tree


class Stateful(Protocol):
    """A part of a training run that a checkpoint holds."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> Any: ...


FITTED = (
    "memory", "memory_kwargs", "hidden_size", "num_frames", "previous_action", "previous_reward",
    "normalize_observations", "separate_critic", "privileged_critic", "critic_memory", "squash", "rescale_values",
    "reward_scale",
)  # fmt: skip
"""Settings that the weights of an agent were learnt with: with others they do not fit, or mean something else."""


class Run:
    """The folder of one training run, its log and its progress bar.

    Used as a context manager around training: Ctrl-C sets `interrupted`, so that the loop ends between two updates and
    saves; a second Ctrl-C stops at once. One process at a time trains a folder: from `open`, or `begin`, to the end of
    the context it is locked.
    """

    is_new = False
    """Whether the folder was made by this process, and nothing in it is gone on with."""
    start_from = ""
    """The run whose agent is to be taken over before the first update, until it is."""
    _lock: BinaryIO | None = None
    _start_time = 0.0
    _flush_time = -math.inf

    def __init__(self, folder: Path, num_steps: int, label: str):
        self.folder, self.num_steps, self.label = folder, num_steps, label
        self.interrupted = False

    @classmethod
    def open(cls, config: Any, observation_space: gym.Space, action_space: gym.Space, resume: bool) -> "Run":
        """Create the run's folder, or with `resume` reopen it. The algorithm is the one that the config's class is of.

        Raises UserError when a new run's folder exists, a reopened one's spaces differ from the environment's, or
        another process trains it.
        """
        folder = Path(config.run_dir)
        label = f"{algorithm_of(config)} {config.memory} {config.env}"
        if resume:
            check_spaces(folder, observation_space, action_space)
        else:
            if getattr(config, "start_from", ""):
                _check_start(config, observation_space, action_space)
            spaces = spaces_to_json(observation_space, action_space)
            create_folder(folder, {"config.json": config_to_json(algorithm_of(config), config), "spaces.json": spaces})
        run = cls(folder, config.num_steps, label)
        run.is_new, run.start_from = not resume, getattr(config, "start_from", "")
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
            self.start_from = ""  # what was taken over is in it
            counter(counters, "step", path)  # one without it is damaged, and no reason to begin at step 0
        _load(parts, tree, path, "resume with the run's own config")
        return counters

    def take_over(self, parts: dict[str, Stateful]) -> None:
        """Bring `parts` to where the run to start from left its own. Raises UserError where they do not fit."""
        path = Path(self.start_from) / CHECKPOINT
        _load(parts, load_checkpoint(path)[0], path, "start from a run with the same settings")
        self.start_from = ""

    def save(self, parts: dict[str, Stateful], counters: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all. Raises UserError where that fails."""
        self._check_there()
        path = self.folder / CHECKPOINT
        try:
            tree: Tree = {name: dict(part.state_dict()) for name, part in parts.items()}
            save_checkpoint(path, tree, counters)
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}){', the one before is kept' if path.exists() else ''}: "
                f"free some space, then continue with --resume {quoted(self.folder)}"
            ) from None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """What takes place inside, such as an evaluation, does not count in the steps per second."""
        start = time.monotonic()
        yield
        self._start_time += time.monotonic() - start

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, the same scalars for TensorBoard, and the progress bar.

        Raises UserError where a metric is not finite: the update went wrong, and a checkpoint before it is still good;
        and where the folder is gone.
        """
        self._check_there()
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
        if time.monotonic() - self._flush_time > 60:
            self._tensorboard.flush()
            self._flush_time = time.monotonic()
        self._progress.update(self._task, completed=step, steps_per_second=rate)
        if "episode_return" in metrics:
            self._progress.update(self._task, episode_return=metrics["episode_return"])

    def begin(self, step: int) -> None:
        """Say from which step training goes on. What was logged after it is dropped: it is about to be repeated.

        Raises UserError where another process trains in the folder, or its log is damaged.
        """
        self._take_lock()
        if step == 0 and self.start_from:
            raise UserError(
                f"--start-from {self.start_from}: {self.label.split()[0]} takes over no agent, leave it out"
            )
        self._start_step, self._start_time = step, time.monotonic()
        self._drop_metrics_after(step)
        self._metrics = (self.folder / METRICS).open("a")
        # Flushed by `log`: where the folder is gone, TensorBoard's own thread would end in a traceback.
        folder = str(self.folder / "tensorboard")
        from torch.utils.tensorboard import SummaryWriter  # here: whoever does not train need not wait for it

        self._tensorboard = SummaryWriter(folder, purge_step=step + 1, flush_secs=10**6)
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
                with contextlib.suppress(FileNotFoundError):  # of a folder that is gone
                    getattr(self, log).close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if error is None or isinstance(error, FileNotFoundError):
            self._check_there()

    def _check_there(self) -> None:
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder} is gone: it was moved or deleted while training; continue with "
                "seqrl train --resume <where it is now>"
            ) from None

    def _take_lock(self) -> None:
        path = self.folder / "config.json"  # which is there in any case, and never replaced
        if self._lock is None and path.exists():
            self._lock = path.open("rb")
            lock(self._lock.fileno(), f"{self.folder} is being trained by another process: wait for it, or stop it")

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


def _check_start(config: Any, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Raise UserError, before anything is written, where this run cannot begin as the agent in `config.start_from`."""
    folder, kind = Path(config.start_from), algorithm_of(config)
    content = read_json(folder, "config.json")
    if content.get("type") != kind:
        raise UserError(
            f"--start-from {folder} is of {content.get('type')}: a run of {kind} starts from one of its own kind"
        )
    earlier = config_from_json(content, type(config), folder / "config.json")
    for name in FITTED:
        theirs, own = (getattr(each, name, None) for each in (earlier, config))
        if theirs != own:
            raise UserError(f"--start-from {folder} has --{name.replace('_', '-')} {theirs}, not {own}: give the same")
    observed, acted = read_spaces(folder)
    wrong = difference(observation_space, observed, "observation", bounds=False)
    wrong = wrong or difference(action_space, acted, "action", ordered=True)
    if wrong:
        raise UserError(
            f"--start-from {folder} was trained on another space: {wrong}; give an environment that fits it"
        )
    if not (folder / CHECKPOINT).exists():
        raise UserError(f"--start-from {folder} has no checkpoint yet: train it first, or start from another")


def _load(parts: dict[str, Stateful], tree: dict[str, Any], path: Path, way_out: str) -> None:
    """Give each part what a checkpoint holds of it. Raises UserError for what does not fit."""
    for name, part in parts.items():
        try:
            part.load_state_dict(tree[name])
        except UNFIT as error:
            reason = str(error).rpartition("\n")[2].strip()  # torch puts what differs below a headline
            raise UserError(f"{path} does not fit this run ({name}: {reason}): {way_out}") from None
