"""Behaviour cloning, filtered BC, Monte Carlo values and ILQL on logs of scripted speakers, against exact optima.

    python -m benchmarks.language maze --seeds 0 1 2 --output benchmarks/results/language_maze.json

Problems: maze and maze_partly (LMRL-Gym's double T, fully and partly observed), wordle and wordle_430 (lists of 236 and
431 words, read from ../shared/data/wordle), wordle_60 (seqrl's own words), twenty_questions. Each seed logs its own
dialogues, trains each method on them, and talks to the task with conversations of its own. Two ways to decode are
shown: `sampled` draws from the policy, steered or not; `greedy` takes the likeliest token. Values steer by β, and every
β tried is shown. How much of the way from BC to the optimum a method goes is counted from BC decoded in the same way.
The numbers are written after every seed, and seeds that the file has already are not run again.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.algorithms import bc, ilql, read_config, resume, train
from seqrl.checkpoint import write_atomically
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
    filtered: Answer | None = None
    """Settings of filtered BC where BC begins as that run; else they are BC's, on the best tenth."""
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
VALUES = {"gamma": 0.99, "expectile": 0.8, "cql_weight": 0.03}
FILTERED = {"best_share": 0.3, "num_steps": 1_800, "learning_rate": 2e-3}
WORDLE = Problem(
    task="wordle",
    task_kwargs=(f"words={WORDS / 'wordle_official_200.txt'}",),
    speakers=("random", "random", "random_consistent:0.5", "optimal:0.2"),  # returns of −4.28; LMRL-Gym's log has −4.12
    num_dialogues=20_000,
    shared={
        "model": "transformer", "num_layers": 2, "hidden_size": 128, "context_length": 80, "batch_size": 32,
        "held_out": 0.02, "log_every": 250,
    },
    filtered=FILTERED,
    policy={"num_steps": 4_000, "learning_rate": 1e-3},
    values=VALUES
    | {"num_steps": 4_000, "learning_rate": 1e-3, "polyak": 0.05, "heads_only": True, "horizon": "turn"},
    betas=(4.0, 10.0),
    num_played=250,
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
        num_dialogues=40_000,
        filtered=None,
        policy={"num_steps": 2_500, "learning_rate": 3e-3},
        values=VALUES | {"num_steps": 1_200, "learning_rate": 2e-3, "polyak": 0.02},
        betas=(4.0, 16.0),
        num_played=500,
    ),
    "wordle_430": replace(
        WORDLE,
        task_kwargs=(f"words={WORDS / 'wordle_official_400.txt'}",),
        num_dialogues=40_000,  # of a word as many as of one of the 236
        filtered=FILTERED | {"num_steps": 3_600},
        policy=WORDLE.policy | {"num_steps": 8_000},
    ),
    "twenty_questions": replace(
        WORDLE,
        task="twenty_questions",
        task_kwargs=(),
        speakers=("random", "random_consistent:0.5", "random_consistent", "random_consistent:0.2"),
        num_dialogues=40_000,
        shared=WORDLE.shared | {"context_length": 400, "batch_size": 16},
        filtered=FILTERED | {"num_steps": 2_500},
        policy=WORDLE.policy | {"num_steps": 2_000},
        values=WORDLE.values | {"num_steps": 1_500},
        num_played=500,
    ),
}
OPTIMA = {"text_maze": MazeOptimum, "wordle": WordleOptimum, "twenty_questions": QuestionsOptimum}
METHODS = ("bc", "filtered_bc", "mc", "ilql")


def prepare(problem: Problem, seed: int, folder: Path) -> Answer:
    """Write the log, and clone it: first the best of it, where BC begins as that."""
    log = folder / "log.jsonl"
    if not log.exists():
        write_dialogues(log, scripted_dialogues(problem.make(), problem.speakers, problem.num_dialogues, seed))
    answer = {"log": log_summary(log), "returns": {}, "seconds": {}}
    for name in ("filtered_bc", "bc") if problem.filtered else ("bc",):
        take(answer, learn(problem, seed, name, folder))
    return answer


def take(answer: Answer, more: Answer) -> None:
    """Add to a seed's answer what a method of it gave."""
    for key, value in more.items():
        answer[key] |= value


def configs_of(problem: Problem, seed: int, folder: Path) -> dict[str, LanguageConfig]:
    """The settings of each method."""
    shared = problem.shared | {
        "dialogues": str(folder / "log.jsonl"), "task": problem.task, "task_kwargs": problem.task_kwargs, "seed": seed,
        "checkpoint_every": 10**6,
    }  # fmt: skip
    filtered, whole = {"run_dir": str(folder / "filtered"), "best_share": 0.1}, {"run_dir": str(folder / "bc")}
    if problem.filtered:
        filtered, whole = filtered | problem.filtered, whole | {"policy": str(folder / "filtered")}
    configs: dict[str, LanguageConfig] = {
        "bc": bc.Config(**shared | problem.policy | whole),
        "filtered_bc": bc.Config(**shared | problem.policy | filtered),
    }
    values = shared | problem.values | {"policy": str(folder / "bc")}
    configs["ilql"] = ilql.Config(**values | {"run_dir": str(folder / "ilql")})
    configs["mc"] = ilql.Config(**values | {"run_dir": str(folder / "mc"), "target": "return"})
    return configs


def learn(problem: Problem, seed: int, name: str, folder: Path) -> Answer:
    """Train a method and talk: its mean return by each way to decode, and the seconds of CPU that it took.

    What stands in `folder` already, from the same settings, is not done again.
    """
    config = configs_of(problem, seed, folder)[name]
    betas = list(problem.betas) if name in ("ilql", "mc") else []
    known = {"config": json.loads(json.dumps(asdict(config))), "betas": betas, "num_played": problem.num_played}
    path = folder / f"{name}.json"
    if path.exists() and (kept := json.loads(path.read_text()))["settings"] == known:
        return kept["answer"]
    task, run, start = problem.make(), config.run_dir, time.process_time()
    agent = (resume(run) if Path(run).exists() and read_config(run) == config else train(config)).cpu()
    trained = time.process_time()
    voices = {f" β={beta:g}": agent.voice(beta) for beta in betas} or {"": agent.voice()}
    returns = {
        f"{name} {mode}{steering}": mean_return(task, voice, problem.num_played, seed, sampling)
        for steering, voice in voices.items()
        for mode, sampling in MODES.items()
    }
    seconds = {name: trained - start, f"talking with {name}": time.process_time() - trained}
    print(f"seed {seed} {json.dumps(returns, ensure_ascii=False)} {json.dumps(seconds)}", flush=True)
    answer = {"returns": returns, "seconds": seconds}
    write_atomically(path, json.dumps({"settings": known, "answer": answer}, ensure_ascii=False).encode())
    return answer


def one_seed(
    problem: Problem, seed: int, methods: Sequence[str], pool: ProcessPoolExecutor, keep: Path | None
) -> Answer:
    """A seed's answer: its cloned policy, then the other methods, side by side in `pool`. Runs stay in `keep`/SEED."""
    folder = keep / str(seed) if keep else Path(tempfile.mkdtemp(prefix="language-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        answer = pool.submit(prepare, problem, seed, folder).result()
        learnt = {key.split()[0] for key in answer["returns"]}
        rest = [name for name in METHODS if name in methods and name not in learnt]
        for future in [pool.submit(learn, problem, seed, name, folder) for name in rest]:
            take(answer, future.result())
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return answer


def all_seeds(
    problem: Problem, seeds: Sequence[int], methods: Sequence[str], processes: int, keep: Path | None
) -> Iterator[tuple[int, Answer]]:
    """Every seed's answer as soon as it is there. So many seeds at once as keep all `processes` busy."""
    threads = torch.get_num_threads()
    at_once = max(1, processes // max(1, len(set(methods) - {"bc"})))
    with (
        ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool,
        ThreadPoolExecutor(at_once) as waiting,
    ):
        jobs = {waiting.submit(one_seed, problem, seed, methods, pool, keep): seed for seed in seeds}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def mean_return(task: TextTask[Any], voice: Voice, num_dialogues: int, seed: int, sampling: Sampling) -> float:
    played = play(task, voice, num_dialogues, seed=10_000 + seed, sampling=sampling, max_tokens=16)
    return sum(each.total for each in played) / num_dialogues


def log_summary(log: Path) -> Answer:
    totals = [sum(turn.get("reward", 0.0) for turn in json.loads(line)["turns"]) for line in log.open()]
    return {"mean": sum(totals) / len(totals), "best": max(totals)}


def summary(problem: Problem, seeds: dict[str, Answer]) -> Answer:
    """Means over seeds, 95 % intervals, and how much of the way from BC, decoded alike, to the optimum each goes."""
    optimum = OPTIMA[problem.task](problem.make()).expected_return  # type: ignore[operator]
    names = list(next(iter(seeds.values()))["returns"])
    rows = {}
    for name in names:
        values = [answer["returns"][name] for answer in seeds.values()]
        mean, half_width = mean_and_half_width(values)
        half_width = half_width if len(values) > 1 else None  # one seed has no interval
        cloned = [answer["returns"][f"bc {name.split()[1]}"] for answer in seeds.values()]
        gap = [(v - b) / (optimum - b) for v, b in zip(values, cloned, strict=True)]
        rows[name] = {"mean": mean, "half_width": half_width, "gap_closed": sum(gap) / len(gap), "seeds": values}
    return {"optimum": optimum, "log_mean": [a["log"]["mean"] for a in seeds.values()], "rows": rows}


def show(name: str, result: Answer) -> None:
    log_mean = sum(result["log_mean"]) / len(result["log_mean"])
    table = Table(title=f"{name}: optimum {result['optimum']:.2f}, log {log_mean:.2f}")
    for column in ("", "return (95 %)", "of the way from BC to the optimum"):
        table.add_column(column, justify="left" if not column else "right")
    for row, answer in result["rows"].items():
        interval = "" if answer["half_width"] is None else f" ± {answer['half_width']:.2f}"
        table.add_row(row, f"{answer['mean']:.2f}{interval}", f"{answer['gap_closed']:.0%}")
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="methods and seeds that are trained side by side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="keep the runs here; what is there is not trained again")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    problem = PROBLEMS[args.problem]
    problem = replace(problem, shared=problem.shared | {"device": args.device})
    if any(str(WORDS) in pair for pair in problem.task_kwargs) and not WORDS.is_dir():
        sys.exit("the word lists are not here: put LMRL-Gym's into ../shared/data/wordle (one word a line)")
    answers = earlier(problem, args)
    missing = [seed for seed in args.seeds if str(seed) not in answers]
    for seed, answer in all_seeds(problem, missing, args.methods, args.processes, args.folder):
        answers[str(seed)] = answer
        if args.output:
            write(problem, args, answers)
    show(args.problem, summary(problem, answers))


def settings(problem: Problem, args: argparse.Namespace) -> Answer:
    told = {field.name: getattr(problem, field.name) for field in fields(problem) if field.name != "task_kwargs"}
    return json.loads(json.dumps(told | {"methods": args.methods}))


def earlier(problem: Problem, args: argparse.Namespace) -> dict[str, Answer]:
    """The seeds that the output has already, if they were run with the same settings."""
    if not (args.output and args.output.exists()):
        return {}
    content = json.loads(args.output.read_text())
    if content.get("settings") != settings(problem, args):
        sys.exit(f"{args.output} was made with other settings: remove it")
    return content["seeds"]


def write(problem: Problem, args: argparse.Namespace, answers: dict[str, Answer]) -> None:
    answers = dict(sorted(answers.items(), key=lambda item: int(item[0])))
    command = f"python -m benchmarks.language {' '.join(sys.argv[1:])}"
    content = {"command": command, **machine(), "threads": args.threads, "processes": args.processes}
    content |= {"settings": settings(problem, args), **summary(problem, answers), "seeds": answers}
    write_atomically(args.output, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
