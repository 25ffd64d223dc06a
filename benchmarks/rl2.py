"""RL²: recurrent PPO on trials of bandits and random MDPs, against the published scores.

    python -m benchmarks.rl2                                      # all settings, three seeds each
    python -m benchmarks.rl2 --settings bandit_10_5 --seeds 0     # two minutes

Each setting is trained from nothing, on one thread, and plays 10,000 trials of other tasks, by drawn actions, as the
paper's do, and by its likeliest ones. Runs are added to the JSON file as they end, and those in it are not run again;
runs of a setting that has changed since stay, and have a row of their own. `training_seconds` are a clock's;
`training_cpu_seconds` leave out what others took.

Source: Duan et al. 2016 (RL², arXiv 1611.02779), tables 1 and 2: a GRU of 256 units, trained by TRPO. Here it is
recurrent PPO, which a teacher that knows the task helps at first: with a GRU of 64 to 128 units on bandits, with linear
attention of 64 on random MDPs. On those of 25 and 75 episodes the learner, and not the agent, is told what each action
costs in expectation, in place of the rewards that chance paid; `mdp_25_rewards` learns from these.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import seqrl
from benchmarks.learning import machine
from seqrl.adaptation import trial_returns
from seqrl.algorithms import ppo, read_config
from seqrl.config import make_environment
from seqrl.recipes import RECIPES

NUM_TRIALS, EVALUATION_SEED = 10_000, 1_000_000
Answer = dict[str, Any]


def bandit(num_episodes: int, num_arms: int, **changes: Any) -> ppo.Config:
    """The bandit's recipe with other numbers; a trial takes a row more than it has pulls."""
    kwargs = (f"num_arms={num_arms}", f"num_episodes={num_episodes}")
    return replace(RECIPES["rl2_bandit"](), env_kwargs=kwargs, rollout_length=num_episodes + 1, **changes)


def tabular_mdp(num_episodes: int, **changes: Any) -> ppo.Config:
    """The random MDPs' recipe with other numbers; an inner episode has ten decisions."""
    kwargs = (f"num_episodes={num_episodes}",)
    return replace(RECIPES["rl2_tabular_mdp"](), env_kwargs=kwargs, rollout_length=10 * num_episodes + 1, **changes)


# Regrets have little noise, so that what exploring brings a hundred steps later can be told from chance.
FROM_REGRETS: Answer = {"learn_from_regret": True, "gae_lambda": 0.99, "num_epochs": 3}

# By setting: the config, the goal, and the published scores of RL² and of the best known reference.
SETTINGS: dict[str, tuple[ppo.Config, float, float, float]] = {
    "bandit_10_5": (bandit(10, 5), 6.6, 6.7, 6.7),
    "bandit_100_5": (bandit(100, 5, num_envs=256, num_steps=20_000_000), 77.5, 78.7, 78.3),
    "bandit_100_10": (bandit(100, 10, num_envs=256, num_steps=20_000_000), 82.0, 83.5, 82.8),
    "bandit_100_50": (bandit(100, 50, num_envs=256, num_steps=30_000_000, hidden_size=128), 84.0, 84.9, 85.2),
    "bandit_500_5": (bandit(500, 5, num_envs=256, num_steps=60_000_000, gamma=0.995), 402.0, 401.6, 406.7),
    "bandit_500_50": (
        bandit(500, 50, num_envs=256, num_steps=40_000_000, gamma=0.995, hidden_size=128),
        438.9, 438.9, 463.7,
    ),
    "mdp_10": (tabular_mdp(10), 156.0, 156.2, 150.2),
    "mdp_25": (
        tabular_mdp(
            25, num_envs=1024, num_steps=16_000_000, num_minibatches=8, gamma=1.0, teacher_share=0.3, **FROM_REGRETS
        ),
        440.0, 445.7, 427.8,
    ),
    "mdp_25_rewards": (
        tabular_mdp(
            25, num_envs=1024, num_steps=20_000_000, num_minibatches=8, gamma=0.998, teacher_share=0.25,
            gae_lambda=0.99, num_epochs=5,
        ),
        440.0, 445.7, 427.8,
    ),
    "mdp_75": (
        tabular_mdp(
            75, num_envs=512, num_steps=20_000_000, num_minibatches=12, gamma=0.998, teacher_share=0.2, **FROM_REGRETS
        ),
        1449.2, 1428.8, 1449.2,
    ),
}  # fmt: skip


def version(run: Answer) -> tuple[str, int, float]:
    """What tells the runs of a setting from those it had before: its name, its steps, its averaging of weights."""
    return run["setting"], run["num_steps"], run.get("weight_average", 0.0)


def present(setting: str) -> tuple[str, int, float]:
    """The version of a setting that would be trained now."""
    config = SETTINGS[setting][0]
    return setting, config.num_steps, config.weight_average


def trained(config: ppo.Config) -> tuple[Any, Answer]:
    """The agent of a run, which goes on where it was interrupted, and its seconds where it was trained in one go."""
    folder = Path(config.run_dir)
    resumed, begin, cpu_begin = folder.exists(), time.monotonic(), time.process_time()
    if resumed and replace(read_config(folder), run_dir=config.run_dir) != config:
        raise SystemExit(f"{folder} holds a run of other settings: give another --runs")
    agent = seqrl.resume(folder) if resumed else seqrl.train(config)
    seconds = {"training_seconds": time.monotonic() - begin, "training_cpu_seconds": time.process_time() - cpu_begin}
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    if last["step"] < config.num_steps:  # Ctrl-C ends training early
        raise SystemExit(f"{folder} was interrupted at step {last['step']}: with --runs the same command goes on there")
    return agent, {"resumed": True} if resumed else {name: round(value, 1) for name, value in seconds.items()}


def measure(setting: str, seed: int, device: str, runs: Path | None) -> Answer:
    """Train one agent and play it: mean total reward of a trial with half its 95 % interval, in both ways to act."""
    torch.set_num_threads(1)
    config = replace(SETTINGS[setting][0], device=device)
    answer: Answer = {"setting": setting, "seed": seed, "num_steps": config.num_steps}
    answer |= {"weight_average": config.weight_average, **machine(device)}
    with tempfile.TemporaryDirectory() as folder:
        run_dir = (runs or Path(folder)) / f"{setting}_{seed}"
        agent, seconds = trained(replace(config, seed=seed, run_dir=str(run_dir)))
    environment = make_environment(config, 1_000)
    for way, sample in (("likeliest", False), ("drawn", True)):
        total = trial_returns(agent, environment, NUM_TRIALS, EVALUATION_SEED, sample).sum(1)
        answer[way] = {"mean": float(total.mean()), "half_width": float(1.96 * total.std(ddof=1) / len(total) ** 0.5)}
    return answer | seconds


def minutes(runs: list[Answer]) -> str:
    """Of training, the longest of `runs`: of the core that did it, where that was noted, else by the clock."""
    longest: dict[str, float] = {}
    for run in [run for run in runs if "training_seconds" in run]:
        place = "GPU" if "gpu" in run else "core"
        longest[place] = max(longest.get(place, 0.0), run.get("training_cpu_seconds", run["training_seconds"]) / 60)
    return ", ".join(f"{place} {longest[place]:.1f}" for place in sorted(longest))


def show(runs: list[Answer]) -> None:
    """A row for each version of each setting: each seed's score and their mean, beside the goal and published ones."""
    names = ("setting", "M steps", "averaged", "goal", "published", "reference", "drawn, by seed", "mean", "±")
    table = Table(*names, "likeliest", "minutes")
    versions = sorted({version(run) for run in runs}, key=lambda one: (list(SETTINGS).index(one[0]), *one[1:]))
    for setting, num_steps, averaged in versions:
        mine = [run for run in runs if version(run) == (setting, num_steps, averaged)]
        mine.sort(key=lambda run: int(run["seed"]))
        drawn, likeliest = ([run[way]["mean"] for run in mine] for way in ("drawn", "likeliest"))
        table.add_row(
            *(setting, f"{num_steps / 1e6:g}", f"{averaged:g}", *(f"{score:g}" for score in SETTINGS[setting][1:])),
            *(" ".join(f"{score:.5g}" for score in drawn), f"{sum(drawn) / len(drawn):.5g}"),
            f"{mine[0]['drawn']['half_width']:.2g}",
            *(" ".join(f"{score:.5g}" for score in likeliest), minutes(mine)),
        )
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, help="a folder that keeps what is trained: interrupted runs go on there")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rl2.json"))
    args = parser.parse_args()

    runs = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    for seed in args.seeds:
        for setting in args.settings:
            if any((version(run), run["seed"]) == (present(setting), seed) for run in runs):
                continue
            command = f"python -m benchmarks.rl2 {' '.join(sys.argv[1:])}".strip()
            runs.append(measure(setting, seed, args.device, args.runs) | {"command": command})
            print(json.dumps(runs[-1]), flush=True)
            # Read again: another process may have added its own in the meantime.
            kept = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
            runs = [run for run in kept if run not in runs] + runs
            written = args.output.with_name(f"{args.output.name}.{os.getpid()}")
            written.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
            written.rename(args.output)
    show(runs)


if __name__ == "__main__":
    main()
