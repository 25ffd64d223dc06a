"""How fast recurrent PPO trains, whole: acting, environments, learning, logging. Against other libraries.

    python -m benchmarks.peers.install             # once
    python -m benchmarks.training throughput --output benchmarks/results/training_throughput.json
    python -m benchmarks.training solve --output benchmarks/results/training_solve.json
    python -m benchmarks.training throughput --device cuda --seconds 5 --num-envs 64 1024 4096 16384
    python -m benchmarks.training solve --device cuda --seeds 3

Both are about CartPole without velocities. `throughput` gives everyone the same work: 128 units of memory, rollouts of
128 steps, 4 epochs of 4 minibatches. Its bound is the time that the memory's own matrix products would take, one
forward to act and 4 epochs of forward and backward, at the speed of a large one in float32, measured right before and
after. `solve` gives everyone the settings that its authors tuned, and counts seconds until the last 20 training
episodes average 475 of 500.

One process runs at a time, ours and theirs in turn, with as many threads each. Importing does not count.

On a GPU there are no peers, and all is measured in one process. What CUDA takes to start, and kernels to be compiled,
does not count: `throughput` leaves the first update out, and `solve` trains for one beforehand (`start_seconds`). The
bound of bfloat16 is there the speed of a product in bfloat16, since tensor cores leave float32's far behind.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

import seqrl
from benchmarks.learning import machine
from benchmarks.peers import ask
from benchmarks.recurrent import peak, wait
from seqrl.algorithms import ppo
from seqrl.data import Rollout
from seqrl.recipes import masked_cartpole

ROLLOUT, HIDDEN, EPOCHS, MINIBATCHES = 128, 128, 4, 4
NUM_ENVS = (8, 64, 256, 1024)
OURS = {"float32": "seqrl", "bfloat16": "seqrl in bfloat16"}
SETTINGS: dict[str, list[list[object]]] = {
    "sb3_contrib": [["--num-envs", num_envs] for num_envs in (8, 64, 128, 256)],
    "sample_factory": [
        ["--num-workers", workers, "--envs-per-worker", envs] for workers in (1, 2) for envs in (8, 16, 32, 64)
    ],
}
"""What each peer's script is asked for throughput: the numbers of environments and workers that it may use."""

FIGURES = ("seconds", "seconds_with_restarts", "steps")
"""What a solution cost."""

Answer = dict[str, Any]


class Enough(Exception):  # noqa: N818 (it is no error)
    """Leaves a training run that has shown what it was run for."""


def train_watched(config: ppo.Config, threads: int, watch: Callable[[float, list[float]], bool]) -> None:
    """`seqrl.train(config)`, until `watch` has seen enough.

    After every rollout, `watch` gets the seconds since training began, set-up included, and the returns of the episodes
    that ended, in their order.
    """
    torch.set_num_threads(threads)
    collect = Rollout.collect

    def watched(*args: Any) -> Any:
        collected = collect(*args)
        wait(config.device)
        if watch(time.perf_counter() - start, collected[1].returns):
            raise Enough
        return collected

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Rollout, "collect", watched),
        suppress(Enough),
    ):
        start = time.perf_counter()
        seqrl.train(dataclasses.replace(config, run_dir=f"{folder}/run"))


def our_throughput(device: str, num_envs: int, precision: str, threads: int, seconds: float) -> Answer:
    """Steps per second from one rollout's end to another's, the first update left out; of a GPU its peak memory too."""
    config = ppo.Config(
        env="seqrl/MaskedCartPole-v0",
        memory="gru",
        hidden_size=HIDDEN,
        num_envs=num_envs,
        num_steps=10**9,
        rollout_length=ROLLOUT,
        num_epochs=EPOCHS,
        num_minibatches=MINIBATCHES,
        precision=precision,
        device=device,
    )
    moments: list[float] = []

    def watch(now: float, returns: list[float]) -> bool:
        moments.append(now)
        return len(moments) > 2 and now - moments[1] >= seconds

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    train_watched(config, threads, watch)
    updates, measured = len(moments) - 2, moments[-1] - moments[1]
    return {
        "num_envs": num_envs,
        "steps_per_second": updates * num_envs * ROLLOUT / measured,
        "updates": updates,
        "seconds": measured,
        **({} if device == "cpu" else {"peak_memory": torch.cuda.max_memory_allocated()}),
    }


def our_solution(device: str, seed: int, threads: int) -> Answer:
    """Seconds and steps of our recipe until the last 20 episodes average 475; a rollout counts when it is complete.

    With λ = 0.9 it learns sooner; with the recipe's 0.95 more seeds keep what they have to the end (docs/log.md).
    """
    config = dataclasses.replace(masked_cartpole(), gae_lambda=0.9, seed=seed, device=device)
    start_seconds = {} if device == "cpu" else {"start_seconds": warm_up(config, threads)}
    last: deque[float] = deque(maxlen=20)
    rollouts, seconds, solved = 0, 0.0, False

    def watch(now: float, returns: list[float]) -> bool:
        nonlocal rollouts, seconds, solved
        rollouts, seconds = rollouts + 1, now
        for value in returns:
            last.append(value)
            solved = solved or (len(last) == 20 and statistics.mean(last) >= 475)
        return solved

    train_watched(config, threads, watch)
    steps = rollouts * config.num_envs * config.rollout_length
    return {"seed": seed, "solved": solved, "seconds": seconds, "steps": steps, **start_seconds}


def warm_up(config: ppo.Config, threads: int) -> float:
    """Train for one update, so that a GPU has started and its kernels are compiled. Returns the seconds it took."""
    start = time.perf_counter()
    train_watched(dataclasses.replace(config, num_steps=1), threads, lambda now, returns: False)
    return time.perf_counter() - start


def our_peak(device: str, dtype: str, threads: int) -> float:
    torch.set_num_threads(threads)
    return peak(10, device, getattr(torch, dtype))


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process, as the peers have one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def measure(function: Callable[..., Any], device: str, *args: Any) -> Any:
    """`function(device, *args)`: on a CPU `alone`; on a GPU in this process, since CUDA takes seconds to start."""
    return alone(function, device, *args) if device == "cpu" else function(device, *args)


def throughput(peers: list[str], num_envs: Sequence[int], device: str, threads: int, seconds: float) -> Answer:
    """Everyone's steps per second, as shares of the bound, and ours over each peer's."""
    operations = (1 + 3 * EPOCHS) * 2 * (HIDDEN + HIDDEN) * 3 * HIDDEN  # a GRU's; backward costs two forwards
    bounded_by = {"float32": "float32", "bfloat16": "float32" if device == "cpu" else "bfloat16"}
    peaks = {dtype: [measure(our_peak, device, dtype, threads)] for dtype in dict.fromkeys(bounded_by.values())}
    rows: list[Answer] = []

    def note(name: str, answer: Answer, precision: str = "float32") -> None:
        dtype = bounded_by[precision]
        peaks[dtype].append(measure(our_peak, device, dtype, threads))  # other work on the machine comes and goes
        bound = max(peaks[dtype][-2:]) / operations
        rows.append({"name": name, **answer, "share_of_bound": answer["steps_per_second"] / bound})
        print(f"{name} {answer['num_envs']} environments: {answer['steps_per_second']:,.0f} steps/s", flush=True)

    for precision, name in OURS.items():
        for count in num_envs:
            note(name, measure(our_throughput, device, count, precision, threads, seconds), precision)
    for peer in peers:
        for arguments in SETTINGS[peer]:
            note(peer, ask(peer, "throughput", *arguments, "--seconds", seconds, threads=threads))

    def best(name: str, num_envs: int | None = None) -> float:
        speeds = (
            row["steps_per_second"] for row in rows if row["name"] == name and num_envs in (None, row["num_envs"])
        )
        return max(speeds)

    return {
        "peak_gflops": [speed / 1e9 for speed in peaks["float32"]],
        **({} if device == "cpu" else {"peak_gflops_in_bfloat16": [speed / 1e9 for speed in peaks["bfloat16"]]}),
        "operations_per_step": operations,
        "rows": rows,
        "ratios": {
            ours: {
                peer: {"at_64_environments": best(ours, 64) / best(peer, 64), "best": best(ours) / best(peer)}
                for peer in peers
            }
            for ours in OURS.values()
        },
    }


def show_throughput(result: Answer) -> None:
    on_gpu = "peak_memory" in result["rows"][0]
    table = Table("library", "environments", "workers", "steps/s", "share of bound", *["GPU memory"] * on_gpu)
    for row in result["rows"]:
        workers = row.get("num_workers", "–")
        figures = [f"{row['steps_per_second']:,.0f}", f"{row['share_of_bound']:.2%}"]
        if on_gpu:
            figures.append(f"{row['peak_memory'] / 2**20:,.0f} MiB")
        table.add_row(row["name"], str(row["num_envs"]), str(workers), *figures)
    Console().print(table)
    for name, speeds in result.items():
        if name.startswith("peak_gflops"):
            print(f"{name.replace('_', ' ')} from {min(speeds):,.0f} to {max(speeds):,.0f}")
    for ours, ratios in result["ratios"].items():
        for peer, ratio in ratios.items():
            print(
                f"{ours} over {peer}: {ratio['at_64_environments']:.1f} × at 64 environments, "
                f"{ratio['best']:.1f} × with each at its best"
            )


def solve(peers: list[str], device: str, threads: int, num_seeds: int, num_peer_seeds: int, limit: float) -> Answer:
    """Everyone's seconds to the solution, over seeds."""
    runs: dict[str, list[Answer]] = {}

    def note(name: str, run: Answer) -> None:
        runs.setdefault(name, []).append(run)
        outcome = "solved" if run["solved"] else "NOT SOLVED"
        print(f"{name} seed {run['seed']}: {outcome}, {run['seconds']:.1f} s, {run['steps']:,} steps", flush=True)

    for seed in range(num_seeds):
        note("seqrl", measure(our_solution, device, seed, threads))
    for peer in peers:
        for seed in range(num_peer_seeds):
            note(peer, ask(peer, "solve", "--seed", seed, "--limit-seconds", limit, threads=threads))
    summaries = {name: summarize(answers) for name, answers in runs.items()}
    ours = summaries["seqrl"]
    ratios = {
        peer: {
            figure: summaries[peer][figure] / ours[figure]
            for figure in FIGURES
            if figure in ours and figure in summaries[peer]
        }
        for peer in peers
    }
    return {"runs": runs, "summaries": summaries, "ratios": ratios}


def summarize(runs: list[Answer]) -> Answer:
    """Medians of the solved runs; and seconds a solution costs who starts again whenever a run fails."""
    solved = [run for run in runs if run["solved"]]
    summary: Answer = {"solved": len(solved), "of": len(runs)}
    if solved:
        summary["seconds"] = statistics.median(run["seconds"] for run in solved)
        summary["seconds_with_restarts"] = sum(run["seconds"] for run in runs) / len(solved)
        summary["steps"] = statistics.median(run["steps"] for run in solved)
    return summary


def show_solve(result: Answer) -> None:
    table = Table("library", "solved", "seconds", "seconds with restarts", "steps")
    for name, row in result["summaries"].items():
        figures = [f"{row[figure]:,.1f}" for figure in FIGURES if figure in row]
        table.add_row(name, f"{row['solved']} of {row['of']}", *figures)
    Console().print(table)
    for peer, ratio in result["ratios"].items():
        times = [f"{value:.1f} × in {figure.replace('_', ' ')}" for figure, value in ratio.items()]
        print(f"{peer} over seqrl: {', '.join(times)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["throughput", "solve"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=SETTINGS, help="by default all that can answer; on a GPU none")
    parser.add_argument("--num-envs", type=int, nargs="+", default=NUM_ENVS, help="throughput: our environments")
    parser.add_argument("--seconds", type=float, default=20, help="throughput: what each measurement lasts at least")
    parser.add_argument("--seeds", type=int, default=5, help="solve: our number of seeds")
    parser.add_argument("--peer-seeds", type=int, default=3, help="solve: the peers' number of seeds")
    parser.add_argument("--limit-seconds", type=float, default=1800, help="solve: when a peer's run is given up")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()

    if args.device != "cpu":
        if args.peers:  # their scripts know no other device than the CPU, which is nothing to compare a GPU with
            parser.error("the peers are measured on the CPU alone: leave --peers out with --device cuda")
        if not torch.cuda.is_available():
            parser.error("--device cuda: PyTorch finds no CUDA device here")
        args.peers = []
    if args.question == "throughput":
        peers = list(SETTINGS) if args.peers is None else args.peers
        if peers and 64 not in args.num_envs:
            parser.error("the peers are compared at 64 environments too: add 64 to --num-envs, or leave the peers out")
        result = throughput(peers, args.num_envs, args.device, args.threads, args.seconds)
        show_throughput(result)
    else:
        peers = ["sb3_contrib"] if args.peers is None else args.peers
        if "sample_factory" in peers:
            parser.error("sample_factory has no tuned settings for this problem: leave it out of solve")
        result = solve(peers, args.device, args.threads, args.seeds, args.peer_seeds, args.limit_seconds)
        show_solve(result)
    if args.output:
        command = f"python -m benchmarks.training {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": command, **machine(args.device), "threads": args.threads, **result}, indent=2)
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
