"""Behaviour cloning, filtered BC, Monte Carlo values and ILQL on logs of scripted speakers, against exact optima.

    python -m benchmarks.language maze --seeds 0 1 2 --output benchmarks/results/language_maze.json

Problems: maze and maze_partly (LMRL-Gym's double T, fully and partly observed), wordle and wordle_430 (lists of 236 and
431 words, read from ../shared/data/wordle), twenty_questions. Each seed logs its own dialogues, trains each method on
them, and talks to the task with conversations of its own. Three ways to decode are shown: `sampled` draws from the
policy, steered or not; `greedy` takes the likeliest token. Values steer by β; each β of the settings is shown, and the
one in `settings` is what counts, chosen on other seeds than those reported (see docs/log.md).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, ilql, train
from seqrl.config import parse_env_kwargs
from seqrl.data.dialogues import write_dialogues
from seqrl.language.generation import Sampling, Voice
from seqrl.language.play import play
from seqrl.language.scripted import scripted_dialogues
from seqrl.language_config import LanguageConfig
from seqrl.statistics import mean_and_half_width
from seqrl.text import MazeOptimum, QuestionsOptimum, TextTask, WordleOptimum, make_task

Answer = dict[str, Any]
WORDS = Path(__file__).parents[1].parent / "shared" / "data" / "wordle"
MODES = {"sampled": Sampling(), "greedy": Sampling(temperature=0.0)}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task, its log, and the settings of what learns from it."""

    task: str
    task_kwargs: tuple[str, ...] = ()
    speakers: tuple[str, ...]
    num_dialogues: int
    shared: Answer
    """Settings of every method."""
    policy: Answer
    values: Answer
    """Settings of ILQL and MC."""
    monte_carlo: Answer
    """Settings of MC besides."""
    betas: tuple[float, ...]
    num_played: int = 500

    def make(self) -> TextTask[Any]:
        return make_task(self.task, **parse_env_kwargs(self.task_kwargs))


MAZE = Problem(
    task="text_maze",
    speakers=("random", "random", "random", "optimal:0.9"),  # returns of −83 on average, as in LMRL-Gym's log
    num_dialogues=1_200,
    shared={"context_turns": 8, "batch_size": 32, "hidden_size": 64, "held_out": 0.0, "log_every": 500},
    policy={"num_steps": 1_000, "learning_rate": 3e-3},
    values={"num_steps": 4_000, "gamma": 0.99, "expectile": 0.9, "cql_weight": 1e-3, "polyak": 0.01, "beta": 8.0},
    monte_carlo={},
    betas=(2.0, 8.0, 32.0),
    num_played=250,
)
WORDLE = Problem(
    task="wordle",
    task_kwargs=(f"words={WORDS / 'wordle_official_200.txt'}",),
    speakers=("random_consistent", "random_consistent:0.5", "optimal:0.5", "greedy:0.3"),
    num_dialogues=20_000,
    shared={"batch_size": 128, "hidden_size": 128, "held_out": 0.02, "log_every": 500},
    policy={"num_steps": 4_000, "learning_rate": 3e-3},
    values={"num_steps": 6_000, "gamma": 0.99, "expectile": 0.8, "cql_weight": 1e-3, "polyak": 0.01, "beta": 8.0},
    monte_carlo={},
    betas=(4.0, 8.0, 16.0, 32.0),
    num_played=1_000,
)
PROBLEMS = {
    "maze": MAZE,
    "maze_partly": replace(MAZE, task_kwargs=("partly_observed=true",)),
    "wordle": WORDLE,
    "wordle_430": replace(WORDLE, task_kwargs=(f"words={WORDS / 'wordle_official_400.txt'}",)),
    "twenty_questions": replace(
        WORDLE,
        task="twenty_questions",
        task_kwargs=(),
        speakers=("random", "random_consistent:0.5", "random_consistent", "optimal:0.5"),
        num_dialogues=4_000,
    ),
}
OPTIMA = {"text_maze": MazeOptimum, "wordle": WordleOptimum, "twenty_questions": QuestionsOptimum}
METHODS = ("bc", "filtered_bc", "mc", "ilql")


def one_seed(problem: Problem, seed: int, methods: Sequence[str], folder: Path) -> Answer:
    """Log, train and talk: the mean return of each method and way to decode, and the seconds that each took."""
    task, log = problem.make(), folder / "log.jsonl"
    start = time.monotonic()
    write_dialogues(log, scripted_dialogues(task, problem.speakers, problem.num_dialogues, seed))
    seconds = {"log": time.monotonic() - start}
    shared = problem.shared | {
        "dialogues": str(log), "task": problem.task, "task_kwargs": problem.task_kwargs, "seed": seed,
        "checkpoint_every": 10**6,
    }  # fmt: skip
    configs: dict[str, LanguageConfig] = {
        "bc": bc.Config(**shared | problem.policy | {"run_dir": str(folder / "bc")}),
        "filtered_bc": bc.Config(**shared | problem.policy | {"run_dir": str(folder / "filtered"), "best_share": 0.1}),
    }
    values = shared | problem.values | {"policy": str(folder / "bc")}
    configs["ilql"] = ilql.Config(**values | {"run_dir": str(folder / "ilql")})
    configs["mc"] = ilql.Config(**values | problem.monte_carlo | {"run_dir": str(folder / "mc"), "target": "return"})
    returns: dict[str, float] = {}
    for name in ("bc", *(name for name in methods if name != "bc")):
        start = time.monotonic()
        agent = train(configs[name])
        seconds[name] = time.monotonic() - start
        voices = {"": agent.voice()}
        if name in ("ilql", "mc"):
            voices = {f" β={beta:g}": agent.voice(beta) for beta in problem.betas}
        for steering, voice in voices.items():
            for mode, sampling in MODES.items():
                returns[f"{name} {mode}{steering}"] = mean_return(task, voice, problem.num_played, seed, sampling)
        seconds[f"talking with {name}"] = time.monotonic() - start - seconds[name]
    return {"returns": returns, "seconds": seconds, "log": log_summary(log)}


def mean_return(task: TextTask[Any], voice: Voice, num_dialogues: int, seed: int, sampling: Sampling) -> float:
    played = play(task, voice, num_dialogues, seed=10_000 + seed, sampling=sampling, max_tokens=16)
    return sum(each.total for each in played) / num_dialogues


def log_summary(log: Path) -> Answer:
    totals = [sum(turn.get("reward", 0.0) for turn in json.loads(line)["turns"]) for line in log.open()]
    return {"mean": sum(totals) / len(totals), "best": max(totals)}


def summary(problem: Problem, seeds: dict[str, Answer]) -> Answer:
    """Means over seeds with 95 % intervals, and how much of the way from BC to the optimum each goes."""
    optimum = OPTIMA[problem.task](problem.make()).expected_return  # type: ignore[operator]
    names = list(next(iter(seeds.values()))["returns"])
    rows = {}
    for name in names:
        values = [answer["returns"][name] for answer in seeds.values()]
        mean, half_width = mean_and_half_width(values)
        cloned = [answer["returns"]["bc sampled"] for answer in seeds.values()]
        gap = [(v - b) / (optimum - b) for v, b in zip(values, cloned, strict=True)]
        rows[name] = {"mean": mean, "half_width": half_width, "gap_closed": sum(gap) / len(gap), "seeds": values}
    return {"optimum": optimum, "log_mean": [a["log"]["mean"] for a in seeds.values()], "rows": rows}


def show(name: str, result: Answer) -> None:
    log_mean = sum(result["log_mean"]) / len(result["log_mean"])
    table = Table(title=f"{name}: optimum {result['optimum']:.2f}, log {log_mean:.2f}")
    for column in ("", "return (95 %)", "of the way from BC to the optimum"):
        table.add_column(column, justify="left" if not column else "right")
    for row, answer in result["rows"].items():
        table.add_row(row, f"{answer['mean']:.2f} ± {answer['half_width']:.2f}", f"{answer['gap_closed']:.0%}")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    problem = PROBLEMS[args.problem]
    if problem.task == "wordle" and not WORDS.is_dir():
        sys.exit("the word lists are not here: put LMRL-Gym's into ../shared/data/wordle (one word a line)")
    answers: dict[str, Answer] = {}
    for seed in args.seeds:
        folder = Path(tempfile.mkdtemp(prefix="language-"))
        try:
            answers[str(seed)] = one_seed(problem, seed, args.methods, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"seed {seed}: {json.dumps(answers[str(seed)])}", flush=True)
    result = summary(problem, answers)
    show(args.problem, result)
    if args.output:
        settings = {
            name: getattr(problem, name) for name in ("speakers", "num_dialogues", "shared", "policy", "values")
        }
        command = f"python -m benchmarks.language {' '.join(sys.argv[1:])}"
        content = {"command": command, **machine(), "threads": args.threads, "settings": settings, **result}
        content["seconds"] = {seed: answer["seconds"] for seed, answer in answers.items()}
        args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
