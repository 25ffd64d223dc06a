"""How well the recipes learn: one row for each problem and memory, over seeds, with a JSON file under results/.

    python -m benchmarks.learning                          # every goal
    python -m benchmarks.learning masked_cartpole-gru      # some of them
    python -m benchmarks.learning tmaze_100-gru --seeds 0 1 2

Each run trains on one thread, is evaluated over 100 episodes that training did not see, and takes the likeliest action.
Leduc poker is too much a matter of luck for that: what the policy brings is summed exactly, over all games that may be.
"""

import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import torch
import tyro

import seqrl
from seqrl.config import RunConfig, make_environment, parse_env_kwargs
from seqrl.envs.leduc_exact import best_response_return, policy_of, policy_return
from seqrl.evaluate import evaluate
from seqrl.recipes import RECIPES

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A recipe with changes, and what the mean return over `seeds` (or, with `each`, of every seed) must reach."""

    recipe: str
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    num_seeds: int = 3
    at_least: float
    each: bool = False
    figure: str = "return"
    """What is to reach it: return, or for Leduc share_of_best_response."""
    seconds: float | None = None
    """Every run's training must end within this, on an idle machine of two cores."""

    def config(self, seed: int, run_dir: str) -> RunConfig:
        return dataclasses.replace(RECIPES[self.recipe](), seed=seed, run_dir=run_dir, **self.changes)


GOALS: dict[str, Goal] = {
    "masked_cartpole-gru": Goal(recipe="masked_cartpole", num_seeds=5, at_least=475, each=True, seconds=40),
    "masked_cartpole-lstm": Goal(
        recipe="masked_cartpole", changes={"memory": "lstm"}, num_seeds=5, at_least=475, each=True, seconds=40
    ),
    "masked_cartpole-gru-bfloat16": Goal(
        recipe="masked_cartpole", changes={"precision": "bfloat16"}, num_seeds=5, at_least=475, each=True
    ),
    "masked_cartpole_r2d2-gru": Goal(recipe="masked_cartpole_r2d2", num_seeds=5, at_least=475, each=True),
    "tmaze_r2d2-gru": Goal(recipe="tmaze_r2d2", num_seeds=5, at_least=1.0, each=True),
    "masked_cartpole_impala-gru": Goal(recipe="masked_cartpole_impala", num_seeds=5, at_least=475, each=True),
    "tmaze_impala-gru": Goal(recipe="tmaze_impala", num_seeds=5, at_least=1.0, each=True),
    "masked_cartpole_impala-gru-async": Goal(
        recipe="masked_cartpole_impala", changes={"engine": "async"}, num_seeds=5, at_least=475, each=True
    ),
    "tmaze_impala-gru-async": Goal(
        recipe="tmaze_impala", changes={"engine": "async"}, num_seeds=5, at_least=1.0, each=True
    ),
    "masked_cartpole_impala-gru-ray": Goal(
        recipe="masked_cartpole_impala", changes={"engine": "ray"}, num_seeds=5, at_least=475, each=True
    ),
    "tmaze_impala-gru-ray": Goal(
        recipe="tmaze_impala", changes={"engine": "ray"}, num_seeds=5, at_least=1.0, each=True
    ),
    "masked_pendulum-gru": Goal(recipe="masked_pendulum", at_least=-220),
    "masked_pendulum_sac-gru": Goal(recipe="masked_pendulum_sac", at_least=-220, each=True),
    "masked_mountain_car-gru": Goal(recipe="masked_mountain_car", at_least=91),
    "tmaze_100-gru": Goal(recipe="tmaze_100", at_least=1.0),
    "popgym_repeat_previous_easy-gru": Goal(recipe="popgym_repeat_previous_easy", at_least=0.95),
    "minigrid_memory-gru": Goal(recipe="minigrid_memory", at_least=0.75),
    "leduc-gru": Goal(recipe="leduc", at_least=0.95, each=True, figure="share_of_best_response"),
    "leduc_uniform-gru": Goal(
        recipe="leduc",
        changes={"env_kwargs": ("opponent=uniform",)},
        at_least=0.95,
        each=True,
        figure="share_of_best_response",
    ),
}


def measure(name: str, goal: Goal, seeds: list[int]) -> dict[str, Any]:
    """Train and evaluate `goal` on `seeds`."""
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            config = goal.config(seed, f"{folder}/run")
            start = time.perf_counter()
            agent = seqrl.train(config)
            seconds = time.perf_counter() - start
            found = (played if goal.figure == "return" else summed)(agent, config)
        runs.append({"seed": seed, **found, "seconds": round(seconds, 1)})
        figures = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"{name} seed {seed}: {figures} in {seconds:.1f} s", flush=True)
    returns = [run[goal.figure] for run in runs]
    figure = min(returns) if goal.each else float(np.mean(returns))
    slowest = max(run["seconds"] for run in runs)
    return {
        "name": name,
        "config": {k: v for k, v in dataclasses.asdict(goal.config(0, "")).items() if k not in ("run_dir", "seed")},
        "runs": runs,
        "figure": goal.figure,
        "mean": float(np.mean(returns)),
        "at_least": goal.at_least,
        "of": "each seed" if goal.each else "the mean of the seeds",
        "reached": figure >= goal.at_least and (goal.seconds is None or slowest <= goal.seconds),
    }


def played(agent: Any, config: RunConfig) -> dict[str, float]:
    """The mean return of episodes, and half its 95 % interval."""
    with closing(make_environment(config, 50)) as environment:
        evaluation = evaluate(agent, environment, 100, seed=10_000 + config.seed)
    return {"return": evaluation.mean, "half_width": evaluation.half_width}


def summed(agent: Any, config: RunConfig) -> dict[str, float]:
    """The exact return in Leduc poker, and what part that is of the best response's."""
    game = parse_env_kwargs(config.env_kwargs)
    value, best = policy_return(policy_of(agent), **game), best_response_return(**game)
    return {"return": value, "best_response": best, "share_of_best_response": value / best}


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures were measured on, and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "date": date.today().isoformat(),
        "processor": next(models, platform.processor()),
        "cores": os.cpu_count(),
        **({"gpu": torch.cuda.get_device_name(device)} if device != "cpu" else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "seqrl": seqrl.__version__,
    }


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(GOALS), /, seeds: tuple[int, ...] = ()
) -> None:
    """Measure the goals `names` on `seeds` (by default as many as each goal asks for), and store the scores."""
    torch.set_num_threads(1)
    for name in names:
        goal = GOALS[name]
        chosen = list(seeds or range(goal.num_seeds))
        result = measure(name, goal, chosen)
        command = f"python -m benchmarks.learning {name}" + (f" --seeds {' '.join(map(str, seeds))}" if seeds else "")
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"learning_{name}.json"
        path.write_text(json.dumps({"command": command, **machine(), **result}, indent=2) + "\n")
        verdict = "reached" if result["reached"] else "MISSED"
        print(f"{name}: mean {result['mean']:.3f}, goal {goal.at_least:g} of {result['of']}: {verdict} -> {path.name}")


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
