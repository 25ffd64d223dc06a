"""Runs that train and are measured side by side, each in a process of its own: what all comparisons are made of.

Each run has its folder; what was measured of it, once it is trained, stands there in `evaluation.json`. A pool that was
interrupted, or killed, is continued by running the same jobs again.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import TaskID

from seqrl.acting import ActingModule
from seqrl.algorithms import resume, train
from seqrl.checkpoint import write_json
from seqrl.config import require
from seqrl.errors import UserError, quoted
from seqrl.progress import Bar, progress_bar
from seqrl.reports.common import number
from seqrl.run_folder import read_json, read_last_metrics
from seqrl.seeds import derived_seed

EVALUATION = "evaluation.json"
EVALUATION_SEED = 10_000
"""Evaluation sees episodes that training did not."""


def seed_of(run: Any, purpose: int) -> int:
    """A run's seed for `purpose`. Hashed, for a batch may give row i the seed plus i, and runs share episodes."""
    return derived_seed(run.seed, purpose) >> 1


def check_seeds(first: int, number: int, flag: str = "--num-seeds") -> None:
    """Raise UserError where `number` runs, whose seeds count up from `first`, are none or do not all have one."""
    require(number >= 1, f"{flag} is {number}: it must be at least 1")
    last = first + number - 1
    require(last < 2**31, f"--seed {first} with {number} seeds: the last is {last}, it must be at most {2**31 - 1}")


def is_done(run: str | Path) -> bool:
    """Whether a run is trained and measured."""
    return (Path(run) / EVALUATION).is_file()


Measure = Callable[[Any, ActingModule], dict[str, Any]]
"""What is measured of a run's config and its trained agent, such as JSON can hold. It is sent to another process."""


class Job(NamedTuple):
    """A run to train: what its progress bar is called, and its config, with a `run_dir` of its own."""

    label: str
    config: Any


def run_all(jobs: Sequence[Job], measure: Measure, workers: int, folder: Path) -> list[UserError]:
    """Train and measure all `jobs`, `workers` at a time (0: one on each processor), and show how far each is.

    What a job's folder already holds is not done again. A run that raises a UserError, such as one that diverges, does
    not stop the others: what was raised is returned. Ctrl-C lets the runs that train save themselves, and raises
    KeyboardInterrupt. Raises UserError where a process was killed; `folder` is what is to be continued then.
    """
    with progress_bar() as progress:
        return _run_all(jobs, measure, workers, folder, progress)


def _run_all(jobs: Sequence[Job], measure: Measure, workers: int, folder: Path, progress: Bar) -> list[UserError]:
    labels = {job.config.run_dir: job.label for job in jobs}
    done_before = {run_dir for run_dir in labels if is_done(run_dir)}  # nothing is said of those
    begun, over = set(done_before), 0
    tasks = {
        job.config.run_dir: progress.add_task(
            job.label, total=job.config.num_steps, episode_return=None, steps_per_second=0.0
        )
        for job in jobs
    }
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads may deadlock
    stop = context.Event()
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    failed: list[UserError] = []
    with ProcessPoolExecutor(workers, context, _begin_worker, (stop,)) as pool:
        with _interrupts_ignored():  # processes begun here ignore them too
            runs = {pool.submit(_train_and_measure, job.config, measure): job.config.run_dir for job in jobs}
        pending: set[Future[None]] = set(runs)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for run_dir, task in tasks.items():
                    _show(progress, task, Path(run_dir))
                    if run_dir not in begun and Path(run_dir).exists():
                        begun.add(run_dir)
                        progress.say(f"{labels[run_dir]}: begun, in {run_dir}")
                for future in done:
                    if error := _error_of(future, runs[future], folder):
                        failed.append(error)
                        progress.update(tasks[runs[future]], description=f"{labels[runs[future]]} failed")
                    over += 1
                    if runs[future] not in done_before:
                        what = "failed" if error else _brought(Path(runs[future]))
                        progress.say(f"{labels[runs[future]]}: {what} ({over} of {len(jobs)} runs)")
        except BaseException as error:
            stop.set()
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)  # its run saves itself
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"a worker process was killed, perhaps for want of memory: continue with seqrl compare --resume "
                    f"{folder}, and --workers N for fewer at a time (there were {workers})"
                ) from None
            raise
    return failed


def _error_of(future: Future[None], run: str, folder: Path) -> UserError | None:
    """The UserError that the run raised, which says what run it was. Anything else is raised, and says so too."""
    said = f"that was the run {run}; continue with seqrl compare --resume {quoted(folder)}"
    try:
        future.result()
    except UserError as error:
        return UserError(f"{error} ({said})")
    except BrokenProcessPool:
        raise
    except Exception as error:
        error.add_note(f"seqrl: {said}")
        raise
    return None


_stop: Event
"""Set, in a worker process, when no further run should begin."""


def _begin_worker(stop: Event) -> None:
    """What a worker process does first: hear of Ctrl-C through its parent alone, and end when its parent ends."""
    global _stop
    _stop = stop
    os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # or it would go on writing to a run that `--resume` may have begun again

    threading.Thread(target=end_with_parent, daemon=True).start()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers them to the main thread alone
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _show(progress: Bar, task: TaskID, folder: Path) -> None:
    """Bring a run's bar up to the last line of its metrics."""
    last = read_last_metrics(folder)
    if last:
        progress.update(task, completed=last["step"], steps_per_second=last["steps_per_second"])
    if "episode_return" in last:
        progress.update(task, episode_return=last["episode_return"])


def _brought(folder: Path) -> str:
    """What is said of a run that is done: what it took, and its mean return when evaluated, if it was played."""
    if not is_done(folder):
        return "not done"
    result = read_json(folder, EVALUATION)
    returns = result.get("returns")
    return f"done in {result['seconds']:,.0f} s" + (
        f", return {number(sum(returns) / len(returns))}" if returns else ""
    )


def _train_and_measure(config: Any, measure: Measure) -> None:
    """One run, in a process and on a thread of its own; nothing is done again that its folder already holds."""
    folder = Path(config.run_dir)
    if is_done(folder) or _stop.is_set():
        return
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agent = resume(folder) if folder.exists() else train(config)
        last = read_last_metrics(folder)
        if last.get("step", 0) < config.num_steps:
            raise KeyboardInterrupt  # the run was interrupted, and has saved itself
        measured = measure(config, agent)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # between runs, the parent's word is enough
    result = {
        **measured,
        "seconds": measured.get("seconds", 0.0) + last["step"] / last["steps_per_second"],
        "num_parameters": sum(parameter.numel() for parameter in agent.parameters()),
    }
    write_json(folder / EVALUATION, result)
