"""Which memory does this problem need? Each gets the same budget over several seeds, and is measured."""

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.progress import Progress, TaskID

from seqrl.algorithms import ppo, resume, train
from seqrl.checkpoint import write_atomically
from seqrl.config import make_environment, parse_env_kwargs, require
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.errors import UserError, nearest
from seqrl.evaluate import evaluate
from seqrl.memory import MEMORIES
from seqrl.report import Comparison, Row, plot_comparison
from seqrl.run import (
    config_from_json,
    config_to_json,
    create_folder,
    progress_bar,
    read_json,
    read_last_metrics,
    read_metrics,
)
from seqrl.statistics import mean_and_half_width

EVALUATION = "evaluation.json"
EVALUATION_SEED = 10_000
"""Added to a run's seed, so that evaluation sees episodes that training did not."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare, and how thoroughly. All other flags are PPO's and hold for every memory."""

    memories: tuple[str, ...] = ("none", "frame_stack", "gru")
    """The memories to compare: any of none, frame_stack, gru, lstm, linear, transformer."""
    num_seeds: int = 3
    """Runs of each memory, with the seeds SEED, SEED + 1, …"""
    num_episodes: int = 100
    """Evaluation episodes of each run."""
    workers: int = 0
    """Runs that train at the same time; 0 for one on each processor."""
    settings: Annotated[ppo.Config, tyro.conf.arg(name="")] = field(default_factory=ppo.Config)


def compare(config: Config, resumed: bool = False) -> Comparison:
    """Train every memory on every seed, evaluate each run, and write results.json, table.md and compare.png.

    Everything goes under `settings.run_dir`, one run folder for each memory and seed. With `resumed`, runs that are
    done are kept and the others continued. Raises UserError for bad settings or an existing folder.
    """
    check(config)
    folder = Path(config.settings.run_dir)
    if not resumed:
        create_folder(folder, {"config.json": config_to_json("compare", config)})
    runs = [
        dataclasses.replace(
            config.settings, memory=memory, seed=config.settings.seed + k, run_dir=str(folder / f"{memory}_s{k}")
        )
        for memory in config.memories
        for k in range(config.num_seeds)
    ]
    with progress_bar() as progress:
        _run_all(runs, config, progress)
    result = summarise(config)
    figures = json.dumps(_null_for_nan(dataclasses.asdict(result)), indent=2, allow_nan=False)
    write_atomically(folder / "results.json", figures.encode())
    write_atomically(folder / "table.md", result.markdown().encode())
    plot_comparison(result, folder / "compare.png")
    return result


def read_comparison(folder: Path) -> Config:
    """The config of a comparison's folder. Raises UserError when it is not one."""
    data = read_json(folder, "config.json")
    if data.get("type") != "compare":
        raise UserError(f"{folder} is no comparison but a run of {data.get('type')}: use seqrl train --resume {folder}")
    settings = config_from_json(data.pop("settings"), ppo.Config, folder / "config.json")
    settings = dataclasses.replace(settings, run_dir=str(folder))
    return dataclasses.replace(config_from_json(data, Config, folder / "config.json"), settings=settings)


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense, before anything is written."""
    for memory in config.memories:
        require(memory in MEMORIES, f"unknown memory '{memory}' (--memories): {nearest(memory, MEMORIES)}")
    require(len(set(config.memories)) == len(config.memories), "--memories names one twice: name each once")
    require(bool(config.memories), "--memories is empty: name at least one")
    require(config.num_seeds >= 1, f"--num-seeds is {config.num_seeds}: it must be at least 1")
    require(config.num_episodes >= 2, f"--num-episodes is {config.num_episodes}: an interval needs at least 2")
    ppo.check(config.settings)
    with contextlib.closing(make_environment(config.settings, 1)) as environment:
        for memory in config.memories:
            settings = dataclasses.replace(config.settings, memory=memory)
            ppo.build(settings, environment.single_observation_space, environment.single_action_space)


def _run_all(runs: Sequence[ppo.Config], config: Config, progress: Progress) -> None:
    """Train and evaluate `runs` in worker processes, and show how far each is."""
    tasks = {
        run.run_dir: progress.add_task(
            f"{run.memory} seed {run.seed}", total=run.num_steps, episode_return=None, steps_per_second=0.0
        )
        for run in runs
    }
    workers = min(config.workers or os.cpu_count() or 1, len(runs))
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads may deadlock
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _begin_worker, (stop,)) as pool:
        with _interrupts_ignored():  # processes begun here ignore them too
            pending: set[Future[None]] = {pool.submit(_train_and_evaluate, run, config.num_episodes) for run in runs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for run_dir, task in tasks.items():
                    _show(progress, task, Path(run_dir))
                for future in done:
                    future.result()
        except BaseException as error:
            stop.set()
            for process in multiprocessing.active_children():
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)  # its run saves itself
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process was killed, perhaps for want of memory: "
                    f"continue with --resume {config.settings.run_dir}"
                ) from None
            raise


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


def _show(progress: Progress, task: TaskID, folder: Path) -> None:
    """Bring a run's bar up to the last line of its metrics."""
    last = read_last_metrics(folder)
    if last:
        progress.update(task, completed=last["step"], steps_per_second=last["steps_per_second"])
    if "episode_return" in last:
        progress.update(task, episode_return=last["episode_return"])


def _train_and_evaluate(run: ppo.Config, num_episodes: int) -> None:
    """One run, in a process and on a thread of its own; nothing is done again that its folder already holds."""
    folder = Path(run.run_dir)
    if (folder / EVALUATION).exists() or _stop.is_set():
        return
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agent = resume(folder) if folder.exists() else train(run)
        last = read_last_metrics(folder)
        if last["step"] < run.num_steps:
            raise KeyboardInterrupt  # the run was interrupted, and has saved itself
        with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
            evaluation = evaluate(agent, environment, num_episodes, run.seed + EVALUATION_SEED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # between runs, the parent's word is enough
    result = {
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
        "seconds": last["step"] / last["steps_per_second"],
        "num_parameters": sum(parameter.numel() for parameter in agent.parameters()),
    }
    write_atomically(folder / EVALUATION, json.dumps(result).encode())


def summarise(config: Config) -> Comparison:
    """The measured figures of all runs in the comparison's folder."""
    folder, settings = Path(config.settings.run_dir), config.settings
    rows = []
    for memory in config.memories:
        folders = [folder / f"{memory}_s{k}" for k in range(config.num_seeds)]
        results = [read_json(path, EVALUATION) for path in folders]
        means = [float(np.mean(result["returns"])) for result in results]
        mean, half_width = mean_and_half_width(means)
        seconds = float(np.mean([result["seconds"] for result in results]))
        rows.append(
            Row(
                memory=memory,
                mean=mean,
                half_width=half_width,
                seed_means=means,
                steps_per_second=settings.num_steps / seconds,
                num_parameters=results[0]["num_parameters"],
                seconds=seconds,
                best_run=str(folders[int(np.argmax(means))]),
                curves=[_curve(path) for path in folders],
            )
        )
    masked = settings.hide or settings.flicker or settings.noise
    kwargs = parse_env_kwargs(settings.env_kwargs)
    return Comparison(
        env=" ".join([settings.env, *settings.env_kwargs]),
        num_steps=settings.num_steps,
        num_episodes=config.num_episodes,
        optimal=None if masked else optimal_return(settings.env, **kwargs),
        memoryless=None if masked else memoryless_return(settings.env, **kwargs),
        rows=rows,
    )


def _null_for_nan(value: Any) -> Any:
    """`value` as strict JSON can hold it. The interval of a single seed is NaN."""
    if isinstance(value, dict):
        return {key: _null_for_nan(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(child) for child in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _curve(folder: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["episode_return"]) for line in read_metrics(folder) if "episode_return" in line]
