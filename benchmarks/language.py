"""Behaviour cloning, filtered BC, Monte Carlo values and ILQL on logs of scripted speakers, against exact optima.

    python -m benchmarks.language maze --seeds 0 1 2 --output benchmarks/results/language_maze.json

Problems: maze and maze_partly (LMRL-Gym's double T, fully and partly observed), wordle and wordle_430 (lists of 236 and
431 words, read from ../shared/data/wordle), wordle_60 (seqrl's own words), twenty_questions. Each seed logs its own
dialogues, trains each method on them, and talks to the task with conversations of its own. Two ways to decode are
shown: `sampled` draws from the policy, steered or not; `greedy` takes the likeliest token. Values steer by β, and every
β tried is shown.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
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
from seqrl.language_runs.config import LanguageConfig
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
    betas: tuple[float, ...]
    num_played: int = 500

    def make(self) -> TextTask[Any]:
        return make_task(self.task, **parse_env_kwargs(self.task_kwargs))


MAZE = Problem(
    task="text_maze",
    speakers=("random", "random", "random", "optimal:0.9"),  # returns of −83 on average, as in LMRL-Gym's log
    num_dialogues=1_200,
    shared={"context_turns": 8, "batch_size": 32, "hidden_size": 64, "held_out": 0.0, "log_every": 500},
    policy={"num_steps": 400, "learning_rate": 3e-3},
    values={
        "num_steps": 4_500, "learning_rate": 3e-3, "gamma": 0.99, "expectile": 0.9, "cql_weight": 1e-3, "polyak": 0.05,
    },
    betas=(2.0, 8.0, 32.0),
    num_played=250,
)  # fmt: skip
WORDLE = Problem(
    task="wordle",
    task_kwargs=(f"words={WORDS / 'wordle_official_200.txt'}",),
    speakers=("random", "random", "random_consistent:0.5", "optimal:0.2"),  # returns of −4.28; LMRL-Gym's log has −4.12
    num_dialogues=40_000,
    shared={
        "model": "transformer", "num_layers": 2, "hidden_size": 128, "context_length": 80, "batch_size": 32,
        "held_out": 0.02, "log_every": 250,
    },
    policy={"num_steps": 5_000, "learning_rate": 2e-3},
    values={
        "num_steps": 2_000, "learning_rate": 1e-3, "gamma": 0.99, "expectile": 0.8, "cql_weight": 0.03, "polyak": 0.05,
    },
    betas=(4.0, 8.0),
    num_played=500,
)  # fmt: skip
PROBLEMS = {
    "maze": MAZE,
    "maze_partly": replace(
        MAZE,
        task_kwargs=("partly_observed=true",),
        shared=MAZE.shared | {"context_turns": 16, "hidden_size": 128},
        policy=MAZE.policy | {"num_steps": 300},
        values=MAZE.values | {"num_steps": 2_500},
    ),
    "wordle": WORDLE,
    "wordle_60": replace(
        WORDLE,
        task_kwargs=(),  # seqrl's own words
        shared=WORDLE.shared | {"hidden_size": 64, "batch_size": 64},
        policy={"num_steps": 2_500, "learning_rate": 3e-3},
        values=WORDLE.values | {"num_steps": 1_200, "learning_rate": 2e-3, "polyak": 0.02},
        betas=(4.0, 16.0),
        num_played=500,
    ),
    "wordle_430": replace(WORDLE, task_kwargs=(f"words={WORDS / 'wordle_official_400.txt'}",)),
    "twenty_questions": replace(
        WORDLE,
        task="twenty_questions",
        task_kwargs=(),
        speakers=("random", "random_consistent:0.5", "random_consistent", "random_consistent:0.2"),
        num_dialogues=4_000,
        shared={"hidden_size": 128, "batch_size": 32, "held_out": 0.0, "log_every": 500},
        policy={"num_steps": 800, "learning_rate": 3e-3},
        values=WORDLE.values | {"num_steps": 1_500, "learning_rate": 3e-3, "polyak": 0.02},
        betas=(1.0, 2.0, 4.0, 8.0),
    ),
}
OPTIMA = {"text_maze": MazeOptimum, "wordle": WordleOptimum, "twenty_questions": QuestionsOptimum}
METHODS = ("bc", "filtered_bc", "mc", "ilql")


def prepare(problem: Problem, seed: int, folder: Path) -> Answer:
    """Write the log, and clone it."""
    start = time.monotonic()
    log = folder / "log.jsonl"
    write_dialogues(log, scripted_dialogues(problem.make(), problem.speakers, problem.num_dialogues, seed))
    seconds = time.monotonic() - start
    answer = learn(problem, seed, "bc", folder)
    return {"log": log_summary(log), **answer, "seconds": {"log": seconds} | answer["seconds"]}


def configs_of(problem: Problem, seed: int, folder: Path) -> dict[str, LanguageConfig]:
    """The settings of each method."""
    shared = problem.shared | {
        "dialogues": str(folder / "log.jsonl"), "task": problem.task, "task_kwargs": problem.task_kwargs, "seed": seed,
        "checkpoint_every": 10**6,
    }  # fmt: skip
    configs: dict[str, LanguageConfig] = {
        "bc": bc.Config(**shared | problem.policy | {"run_dir": str(folder / "bc")}),
        "filtered_bc": bc.Config(**shared | problem.policy | {"run_dir": str(folder / "filtered"), "best_share": 0.1}),
    }
    values = shared | problem.values | {"policy": str(folder / "bc")}
    configs["ilql"] = ilql.Config(**values | {"run_dir": str(folder / "ilql")})
    configs["mc"] = ilql.Config(**values | {"run_dir": str(folder / "mc"), "target": "return"})
    return configs


def learn(problem: Problem, seed: int, name: str, folder: Path) -> Answer:
    """Train a method and talk: its mean return by each way to decode, and the seconds that it took."""
    task, start = problem.make(), time.monotonic()
    agent = train(configs_of(problem, seed, folder)[name]).cpu()
    trained = time.monotonic()
    voices = {"": agent.voice()}
    if name in ("ilql", "mc"):
        voices = {f" β={beta:g}": agent.voice(beta) for beta in problem.betas}
    returns = {
        f"{name} {mode}{steering}": mean_return(task, voice, problem.num_played, seed, sampling)
        for steering, voice in voices.items()
        for mode, sampling in MODES.items()
    }
    seconds = {name: trained - start, f"talking with {name}": time.monotonic() - trained}
    print(f"seed {seed} {json.dumps(returns, ensure_ascii=False)} {json.dumps(seconds)}", flush=True)
    return {"returns": returns, "seconds": seconds}


def all_seeds(problem: Problem, seeds: Sequence[int], methods: Sequence[str], processes: int) -> dict[str, Answer]:
    """Every seed's answers. Methods follow the cloned policy of their seed, and run side by side in `processes`."""
    folders = {seed: Path(tempfile.mkdtemp(prefix="language-")) for seed in seeds}
    others = [name for name in METHODS if name in methods and name != "bc"]
    threads = torch.get_num_threads()
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
            first = {seed: pool.submit(prepare, problem, seed, folders[seed]) for seed in seeds}
            answers = {str(seed): first[seed].result() for seed in seeds}
            rest = {(s, name): pool.submit(learn, problem, s, name, folders[s]) for name in others for s in seeds}
            for (seed, _), future in rest.items():
                for key, value in future.result().items():
                    answers[str(seed)][key] |= value
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
    return answers


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
    parser.add_argument("--processes", type=int, default=1, help="methods and seeds that are trained side by side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    problem = PROBLEMS[args.problem]
    problem = replace(problem, shared=problem.shared | {"device": args.device})
    if any(str(WORDS) in pair for pair in problem.task_kwargs) and not WORDS.is_dir():
        sys.exit("the word lists are not here: put LMRL-Gym's into ../shared/data/wordle (one word a line)")
    start = time.monotonic()
    answers = all_seeds(problem, args.seeds, args.methods, args.processes)
    minutes = (time.monotonic() - start) / 60
    result = summary(problem, answers)
    show(args.problem, result)
    if args.output:
        settings = {
            name: getattr(problem, name) for name in ("speakers", "num_dialogues", "shared", "policy", "values")
        }
        command = f"python -m benchmarks.language {' '.join(sys.argv[1:])}"
        content = {"command": command, **machine(), "threads": args.threads, "settings": settings, **result}
        content |= {"processes": args.processes, "minutes": minutes}
        content["seconds"] = {seed: answer["seconds"] for seed, answer in answers.items()}
        args.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
