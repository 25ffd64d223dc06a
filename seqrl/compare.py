"""Which memory does this problem need? Each gets the same budget over several seeds, and is measured."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

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
from seqrl.run import config_from_json, config_to_json, progress_bar, read_json, read_metrics
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
    settings: Annotated[ppo.Config, tyro.conf.arg(prefix_name=False)] = field(default_factory=ppo.Config)


def compare(config: Config, resumed: bool = False) -> Comparison:
    """Train every memory on every seed, evaluate each run, and write results.json, table.md and compare.png.

    Everything goes under `settings.run_dir`, one run folder for each memory and seed. With `resumed`, runs that are
    done are kept and the others continued. Raises UserError for bad settings or an existing folder.
    """
    check(config)
    folder = Path(config.settings.run_dir)
    if not resumed:
        _create(folder, config)
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
    write_atomically(folder / "results.json", json.dumps(dataclasses.asdict(result), indent=2).encode())
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
    environment = make_environment(config.settings, 1)
    ppo.build(config.settings, environment.single_observation_space, environment.single_action_space)
    environment.close()


def _create(folder: Path, config: Config) -> None:
    if folder.exists():
        raise UserError(f"{folder} exists already (--run-dir): choose another, or continue it with --resume {folder}")
    folder.mkdir(parents=True)
    write_atomically(folder / "config.json", json.dumps(config_to_json("compare", config), indent=2).encode())


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
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: set[Future[None]] = {pool.submit(_train_and_evaluate, run, config.num_episodes) for run in runs}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for run_dir, task in tasks.items():
                    _show(progress, task, Path(run_dir))
                for future in done:
                    future.result()
        except BaseException:
            for future in pending:
                future.cancel()
            raise


def _show(progress: Progress, task: TaskID, folder: Path) -> None:
    """Bring a run's bar up to the last line of its metrics."""
    lines = list(read_metrics(folder))
    if lines:
        last = lines[-1]
        returns = [line["episode_return"] for line in lines if "episode_return" in line]
        progress.update(
            task,
            completed=last["step"],
            episode_return=returns[-1] if returns else None,
            steps_per_second=last.get("steps_per_second", 0.0),
        )


def _train_and_evaluate(run: ppo.Config, num_episodes: int) -> None:
    """One run, in a process and on a thread of its own; nothing is done again that its folder already holds."""
    folder = Path(run.run_dir)
    if (folder / EVALUATION).exists():
        return
    torch.set_num_threads(1)
    agent = resume(folder) if folder.exists() else train(run)
    last = list(read_metrics(folder))[-1]
    if last["step"] < run.num_steps:
        raise KeyboardInterrupt  # the run was interrupted, and has saved itself
    with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
        evaluation = evaluate(agent, environment, num_episodes, run.seed + EVALUATION_SEED)
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


def _curve(folder: Path) -> list[tuple[float, float]]:
    return [(line["step"], line["episode_return"]) for line in read_metrics(folder) if "episode_return" in line]
