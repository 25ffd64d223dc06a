"""How far back each memory learns to look, and what looking back costs.

    python -m benchmarks.memory_length recall --output benchmarks/results/memory_length_recall.json
    python -m benchmarks.memory_length recall --memories gru linear --lengths 1000 2000 --seeds 0 1
    python -m benchmarks.memory_length recall --memories gru lstm linear --lengths 100 --rollout-lengths 16 64 204
    python -m benchmarks.memory_length cost --output benchmarks/results/memory_length_cost.json
    python -m benchmarks.memory_length cost --device cuda
    python -m benchmarks.memory_length recall --device cuda --memories gru linear --lengths 1000 --seeds 0

`recall` trains on the passive T-maze, where the only thing to remember is the first observation and the only moment to
use it comes `length` steps later. A cell of its table is a memory at a length. Training ends when the mean return of
the last 100 training episodes reaches 0.95, at the end of a rollout, or with the budget; then the likeliest actions
are evaluated over 100 episodes that training did not see. 1 is optimal, and ½ is the best without memory. `settings`
are the same for all memories and depend on the length alone. `--rollout-lengths` asks what happens where gradients end
before they reach the cue: the state is carried from rollout to rollout, so that a memory may have kept it all the same.

`cost` times forward and backward over T steps, and one step of acting after episodes of various ages. Seconds grow as
T^p: linear cost is p = 1. Memory is how far a fresh process's peak (`ru_maxrss`) rises in its first forward and
backward; the inputs are there before, and do not count.

One process runs at a time. `seconds` are those of a clock; `cpu_seconds` leave out what other processes took.

On a GPU all is measured in one process, which waits for the device before it reads the clock. What CUDA takes to start,
and kernels to be compiled, does not count. Memory is what PyTorch has allocated on the device, and there are no
`cpu_seconds`.
"""

import argparse
import dataclasses
import itertools
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

import seqrl
from benchmarks.learning import machine
from benchmarks.recurrent import quickest, wait
from benchmarks.training import Answer, Enough, measure, warm_up
from seqrl.algorithms import ppo
from seqrl.config import make_environment
from seqrl.data import Rollout
from seqrl.evaluate import evaluate
from seqrl.malloc import keep_freed_memory
from seqrl.memory import Memory, make_memory

MEMORIES = ("gru", "lstm", "linear", "transformer")

LENGTHS = (100, 300, 1000, 2000)
SOLVED, EPISODES = 0.95, 100
"""A maze is solved when this is the mean return of so many episodes of training in a row."""

BATCH, HIDDEN = 16, 128
UNROLLS = (128, 256, 512, 1024, 2048, 4096)
FIT_FROM = 512
"""Shorter unrolls are left out of the fit: what an unroll costs whatever its length shows in them."""
AGES = (1, 100, 1000, 10_000)
"""Steps that an episode has lasted when an acting step is timed."""


def settings(memory: str, length: int, seed: int, rollout_length: int = 0) -> ppo.Config:
    """Recurrent PPO for a corridor of `length`, whatever the memory.

    By default gradients reach from the junction back to the cue within one rollout. A perfect episode lasts
    `length` + 2 rows, and rollouts begin anywhere in it: one that is twice as long always holds a whole episode.

    The junction, one row in `length`, makes nearly all of the advantages' deviation, by which they are divided: it
    falls as 1 / √length. A step to a wrong side costs 1 / length, hence 1 / √length once divided; were the entropy's
    weight not to fall alike, walking straight would not be learnt.

    GRU and LSTM start with units that forget over up to twice the length: with up to the length itself, a run at 1,000
    took 5.8 M steps and not 4.0 M (docs/log.md).
    """
    return ppo.Config(
        env="seqrl/TMaze-v0",
        env_kwargs=(f"length={length}",),
        memory=memory,
        seed=seed,
        num_steps=budget(length),
        num_envs=64,
        rollout_length=rollout_length or 2 * (length + 2),
        learning_rate_schedule="constant",  # the budget must not change what happens before it is spent
        num_epochs=4,
        num_minibatches=8,
        entropy_weight=0.1 / math.sqrt(length),
        memory_horizon=2 * length,
        checkpoint_every=10**6,
    )


def budget(length: int) -> int:
    """Steps that a run may take: those of 10,000 perfect episodes."""
    return 10_000 * (length + 2)


def recall(device: str, memory: str, length: int, rollout_length: int, seed: int, threads: int) -> Answer:
    """One run: whether and when it solved the maze, and how its agent does in evaluation."""
    torch.set_num_threads(threads)
    config = dataclasses.replace(settings(memory, length, seed, rollout_length), device=device)
    if device != "cpu":
        warm_up(dataclasses.replace(settings(memory, 10, seed), device=device), threads)
    start, cpu_start = time.perf_counter(), time.process_time()
    progress = train_until_solved(config)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    with closing(make_environment(config, EPISODES)) as environment:
        evaluation = evaluate(progress.agent, environment, EPISODES, seed=10_000 + seed)
    return {
        "memory": memory,
        "length": length,
        "rollout_length": config.rollout_length,
        "seed": seed,
        "solved": progress.solved,
        "success": evaluation.mean,
        "half_width": evaluation.half_width,
        "steps": progress.rollouts * config.num_envs * config.rollout_length,
        "seconds": seconds,
        **({"cpu_seconds": cpu_seconds} if device == "cpu" else {}),
    }


class Progress:
    """What training has shown so far."""

    def __init__(self) -> None:
        self.rollouts = 0
        self.last: deque[float] = deque(maxlen=EPISODES)

    def see(self, rollout: Rollout, returns: list[float]) -> None:
        self.agent, self.rollouts = rollout.agent, self.rollouts + 1
        self.last.extend(returns)

    @property
    def solved(self) -> bool:
        return len(self.last) == EPISODES and statistics.mean(self.last) >= SOLVED


def train_until_solved(config: ppo.Config) -> Progress:
    """`seqrl.train(config)`, but no further than to the end of the rollout that shows that the maze is solved."""
    progress = Progress()
    collect = Rollout.collect

    def watched(rollout: Rollout, *args: Any) -> Any:
        collected = collect(rollout, *args)
        progress.see(rollout, collected[1].returns)
        if progress.solved:
            raise Enough
        return collected

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Rollout, "collect", watched),
        suppress(Enough),
    ):
        seqrl.train(dataclasses.replace(config, run_dir=f"{folder}/run"))
    return progress


def show_recall(runs: list[Answer]) -> None:
    """A row for each memory, a column for each length and rollout: seeds that solved it, median steps and seconds."""
    columns = sorted({(run["length"], run["rollout_length"]) for run in runs})
    table = Table("memory", *(f"length {length:,}, rollouts of {rollout:,}" for length, rollout in columns))
    for memory in dict.fromkeys(run["memory"] for run in runs):
        of_memory = [run for run in runs if run["memory"] == memory]
        cells = ([run for run in of_memory if (run["length"], run["rollout_length"]) == column] for column in columns)
        table.add_row(memory, *map(cell, cells))
    Console().print(table)


def cell(runs: list[Answer]) -> str:
    """What the seeds of one memory at one length say, in CPU seconds where they are known."""
    if not runs:
        return "–"
    solved = [run for run in runs if run["solved"]]
    shown = solved or runs
    kind = "cpu_seconds" if "cpu_seconds" in runs[0] else "seconds"
    steps, seconds = (statistics.median(run[figure] for run in shown) for figure in ("steps", kind))
    success = statistics.mean(run["success"] for run in runs)
    outcome = f"{len(solved)} of {len(runs)} solved in" if solved else "not solved in"
    return f"{success:.2f}: {outcome} {steps / 1e6:.2f} M steps, {seconds:,.0f} s"


def cost(device: str, memory: str, threads: int) -> Answer:
    """Seconds that `memory` takes to train and to act."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as training does
    module = make_memory(memory, HIDDEN, HIDDEN).to(device)
    seconds = quickest({str(T): training_call(device, module, T) for T in UNROLLS}, repeats=5)
    return {
        "memory": memory,
        "seconds": seconds,
        "exponent": exponent([seconds[str(T)] for T in UNROLLS]),
        "acting_seconds": acting(device, module),
    }


def training_call(device: str, memory: Memory, T: int) -> Callable[[], None]:
    """Forward and backward over T steps of one episode."""
    x = torch.randn(T, BATCH, HIDDEN, device=device, requires_grad=True)
    weight = torch.randn(T, BATCH, HIDDEN, device=device)
    state, is_first = memory.initial_state(BATCH), torch.zeros(T, BATCH, dtype=torch.bool, device=device)
    inputs = [x, *memory.parameters()]

    def call() -> None:
        torch.autograd.grad(memory.unroll(x, state, is_first)[0], inputs, weight)
        wait(device)

    return call


def peak_growth(device: str, memory: str, T: int, threads: int) -> int:
    """Bytes by which the first forward and backward over T steps raise the peak; of a CPU ask it in a fresh process."""
    torch.set_num_threads(threads)
    module = make_memory(memory, HIDDEN, HIDDEN).to(device)
    call = training_call(device, module, T)
    training_call(device, module, 16)()  # what the first call of all loads does not count
    if device == "cpu":
        before = peak_kibibytes()
        call()
        return 1024 * (peak_kibibytes() - before)
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - allocated


def peak_kibibytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB on Linux


def exponent(seconds: list[float]) -> float:
    """The p of seconds ~ T^p, by least squares on logarithms, over the UNROLLS from FIT_FROM."""
    points = [(math.log(T), math.log(t)) for T, t in zip(UNROLLS, seconds, strict=True) if T >= FIT_FROM]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def acting(device: str, memory: Memory) -> dict[str, float]:
    """Seconds of one step without a gradient, after episodes that have lasted for each of AGES."""
    x, is_first = torch.randn(1, BATCH, HIDDEN, device=device), torch.zeros(1, BATCH, dtype=torch.bool, device=device)

    def call(age: int) -> Callable[[], None]:
        state = memory.initial_state(BATCH)
        for _ in range(age):
            _, state = memory.unroll(x, state, is_first)

        def step() -> None:
            memory.unroll(x, state, is_first)
            wait(device)

        return step

    with torch.no_grad():
        return quickest({str(age): call(age) for age in AGES}, repeats=300)


def show_cost(rows: list[Answer]) -> None:
    """A column for each memory: training for each T, the exponent of time, and acting at each age."""
    table = Table("", *(row["memory"] for row in rows))
    for T in map(str, UNROLLS):
        cells = (f"{1e3 * row['seconds'][T]:,.1f} ms, {row['peak_growth'][T] / 2**20:,.0f} MiB" for row in rows)
        table.add_row(f"train on {T}", *cells)
    table.add_row("exponent", *(f"{row['exponent']:.2f}" for row in rows))
    for age in map(str, AGES):
        table.add_row(f"act after {age}", *(f"{1e6 * row['acting_seconds'][age]:,.0f} µs" for row in rows))
    Console().print(table)


def write(path: Path | None, device: str, threads: int, result: Answer) -> None:
    """Keep `result` in a JSON file, with what it was measured on."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        command = f"python -m benchmarks.memory_length {' '.join(sys.argv[1:])}"
        about = {"command": command, **machine(device), "threads": threads}
        path.write_text(json.dumps({**about, **result}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["recall", "cost"])
    parser.add_argument("--memories", nargs="+", choices=MEMORIES, default=MEMORIES)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="recall: lengths of the corridor")
    parser.add_argument("--rollout-lengths", type=int, nargs="+", default=[0], help="recall: 0 for twice an episode")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="recall: a run for each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")

    if args.question == "recall":
        runs: list[Answer] = []
        for asked in itertools.product(args.memories, args.lengths, args.rollout_lengths, args.seeds):
            runs.append(run := measure(recall, args.device, *asked, args.threads))
            where = f"{run['memory']} at {run['length']:,}, rollouts of {run['rollout_length']:,}, seed {run['seed']}"
            print(f"{where}: {cell([run])}", flush=True)
            # After every run, since all of them take hours.
            write(args.output, args.device, args.threads, {"runs": runs})
        show_recall(runs)
    else:
        rows = [measure(cost, args.device, memory, args.threads) for memory in args.memories]
        for row in rows:
            where = args.device, row["memory"]
            row["peak_growth"] = {str(T): measure(peak_growth, *where, T, args.threads) for T in UNROLLS}
        show_cost(rows)
        sizes = {"batch_size": BATCH, "hidden_size": HIDDEN, "exponent_from": FIT_FROM}
        write(args.output, args.device, args.threads, {**sizes, "rows": rows})


if __name__ == "__main__":
    main()
