"""One experiment: a log for each seed, agents that learn from it by several methods, their scores, and a JSON file."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import RESULTS, machine
from seqrl.algorithms import decision_transformer
from seqrl.checkpoint import write_atomically
from seqrl.data import EpisodeDataset, EpisodeWriter
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import Environment
from seqrl.evaluate import evaluate

Scores = dict[str, float]


class Goal(NamedTuple):
    """What the mean over seeds of one method's score must reach, or must not exceed."""

    method: str
    score: str
    at_least: float | None = None
    at_most: float | None = None

    def reached(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return f"{self.method}: {self.score} {' and '.join(f'{sign} {b:g}' for sign, b in bounds if b is not None)}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`methods` are changes of `settings`, both fields of the Decision Transformer's Config."""

    about: str
    log: Callable[[Path, int], EpisodeDataset]
    score: Callable[[DecisionAgent, EpisodeDataset, int], Scores]
    """Of an agent, its log and the seed: evaluates, and sets `target_return` for it."""
    settings: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    part: Callable[[EpisodeDataset], np.ndarray] | None = None
    """The episodes, by number, that the methods with `part` True learn from."""
    others: Callable[[EpisodeDataset, int], dict[str, Scores]] = lambda dataset, seed: {}
    """Scores, by name, of what does not train a transformer: oracles and baselines."""
    goals: Sequence[Goal] = ()
    num_seeds: int = 3
    packages: Sequence[str] = ()
    """Optional packages that the problem comes from: their versions are stored with the scores."""


def run(name: str, experiment: Experiment, seed: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A line for the log of `seed`, one for each of the others, and one for each method that learns from it."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        dataset = experiment.log(Path(folder) / "log", seed)
        seconds = time.perf_counter() - begin
        runs = [{"seed": seed, "method": "log", **about_log(dataset), "seconds": round(seconds, 1)}]
        print(f"{name} seed {seed}: {runs[0]}", flush=True)
        for other, scores in experiment.others(dataset, seed).items():
            runs.append({"seed": seed, "method": other, **scores})
            print(f"  {other}: {scores}", flush=True)
        for method in methods:
            settings = {"held_out": 0.0, **experiment.settings, **experiment.methods[method]}
            learnt = dataset
            if settings.pop("part", False) and experiment.part is not None:
                learnt = copied(dataset, experiment.part(dataset), Path(folder) / f"{method} log")
            begin = time.perf_counter()
            agent = decision_transformer.train(
                decision_transformer.Config(
                    dataset=str(learnt.folder), seed=seed, run_dir=f"{folder}/{method}", **settings
                )
            )
            seconds = time.perf_counter() - begin
            scores = experiment.score(agent, dataset, seed)
            runs.append({"seed": seed, "method": method, **scores, "train_seconds": round(seconds, 1)})
            print(f"  {method}: {scores} in {seconds:.0f} s", flush=True)
    return runs


def result_of(experiment: Experiment, runs: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """What is stored of the runs so far: how they were made, their means over seeds, and the goals."""
    means, seeds = summarize(runs), list(dict.fromkeys(run["seed"] for run in runs))
    found = [(goal, means[goal.method][goal.score]) for goal in experiment.goals if goal.method in means]
    goals = [{"goal": str(goal), "value": value, "reached": goal.reached(value)} for goal, value in found]
    settings = {"settings": experiment.settings, "methods": {m: experiment.methods[m] for m in methods}}
    settings |= {"packages": {name: version(name) for name in experiment.packages}}
    return {"about": experiment.about, **settings, "seeds": seeds, "means": means, "goals": goals, "runs": runs}


def copied(dataset: EpisodeDataset, episodes: np.ndarray, folder: Path) -> EpisodeDataset:
    """A log of its own with some episodes of another."""
    about = dataset.about | {"source": f"{len(episodes)} of: {dataset.about['source']}"}
    with EpisodeWriter(folder, dataset.observation_space, dataset.action_space, about=about) as writer:
        for k in episodes:
            writer.add(dataset.episode(int(k)))
    return EpisodeDataset.open(folder)


def about_log(dataset: EpisodeDataset) -> Scores:
    quantiles = np.quantile(dataset.returns, [0, 0.5, 0.9, 1]).round(3).tolist()
    return {
        "episodes": dataset.num_episodes,
        "decisions": len(dataset),
        "return": round(float(dataset.returns.mean()), 4),
        **dict(zip(("lowest", "median", "percentile_90", "highest"), quantiles, strict=True)),
    }


def summarize(runs: list[dict[str, Any]]) -> dict[str, Scores]:
    """By method, each score's mean over seeds, and its lowest and highest where there are several."""
    means: dict[str, Scores] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        scores: Scores = {}
        for key in mine[0]:
            if key in ("seed", "method"):
                continue
            values = [run[key] for run in mine]
            scores[key] = float(np.mean(values))
            if len(values) > 1:
                scores |= {f"{key} lowest": float(min(values)), f"{key} highest": float(max(values))}
        means[method] = {key: round(value, 4) for key, value in scores.items()}
    return means


def returns(policy: Any, environment: Environment, num_episodes: int, seed: int, sample: bool = False) -> np.ndarray:
    """Returns of `num_episodes`; the environments are closed."""
    try:
        return evaluate(policy, environment, num_episodes, seed=10_000 + seed, sample=sample).returns
    finally:
        environment.close()


def by_target(
    agent: DecisionAgent,
    make: Callable[[int], Environment],
    targets: Sequence[float],
    episodes: int,
    seed: int,
    sample: bool = False,
) -> np.ndarray:
    """Returns [targets, episodes], all played side by side; `make` makes a number of environments."""
    agent.target_return = torch.tensor(targets).repeat_interleave(episodes)
    played = returns(agent, make(len(targets) * episodes), len(targets) * episodes, seed, sample)
    agent.target_return = targets[-1]
    return played.reshape(len(targets), episodes)


def store(name: str, command: str, result: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"offline_{name}.json"
    write_atomically(path, (json.dumps({"command": command, **machine(), **result}, indent=2) + "\n").encode())
    return path


def show(name: str, result: dict[str, Any]) -> None:
    """A table of means over seeds, methods down, and the goals."""
    columns = list(
        dict.fromkeys(
            key
            for method, scores in result["means"].items()
            if method != "log"
            for key in scores
            if not key.endswith(("lowest", "highest")) and key != "train_seconds"
        )
    )
    table = Table("method", *columns, title=f"{name}: means over seeds {result['seeds']}")
    for method, scores in result["means"].items():
        if method != "log":
            table.add_row(method, *(f"{scores[key]:.3f}" if key in scores else "" for key in columns))
    console = Console(width=160)
    console.print(table)
    for goal in result["goals"]:
        console.print(f"{goal['goal']}: {goal['value']:.3f} {'reached' if goal['reached'] else 'MISSED'}")
