"""Which memory does this problem need? Each gets the same budget over several seeds, and is measured."""

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from seqrl.acting import ActingModule
from seqrl.algorithms import ppo
from seqrl.checkpoint import write_atomically
from seqrl.config import make_environment, parse_env_kwargs, require
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.errors import UserError, nearest
from seqrl.evaluate import evaluate
from seqrl.memory import MEMORIES
from seqrl.report import Comparison, Row, plot_comparison
from seqrl.run import config_from_json, config_to_json, create_folder, read_json, read_metrics
from seqrl.run_pool import EVALUATION, EVALUATION_SEED, Job, null_for_nan, run_all
from seqrl.statistics import mean_and_half_width


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare, and how thoroughly. All other flags are PPO's and hold for every memory."""

    memories: tuple[str, ...] = ("none", "frame_stack", "gru")
    """The memories to compare: any of none, frame_stack, gru, lstm, linear, linear_attention, transformer."""
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
    jobs = [Job(f"{run.memory} seed {run.seed}", run) for run in runs]
    run_all(jobs, partial(play, num_episodes=config.num_episodes), config.workers, folder)
    result = summarise(config)
    figures = json.dumps(null_for_nan(dataclasses.asdict(result)), indent=2, allow_nan=False)
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


def play(run: ppo.Config, agent: ActingModule, *, num_episodes: int) -> dict[str, Any]:
    """Returns and lengths of a trained agent's episodes."""
    with contextlib.closing(make_environment(run, min(num_episodes, 50))) as environment:
        evaluation = evaluate(agent, environment, num_episodes, run.seed + EVALUATION_SEED)
    return {"returns": evaluation.returns.tolist(), "lengths": evaluation.lengths.tolist()}


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
