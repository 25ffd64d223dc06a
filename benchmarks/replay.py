"""What it costs to draw a batch of sequences from the replay, by how much is stored. Against TorchRL's slice samplers.

    python -m benchmarks.peers.install torchrl     # once
    python -m benchmarks.replay --output benchmarks/results/replay.json

A batch is 64 sequences of 81 rows, of episodes of 500 steps, in 16 columns; observations are 4 numbers. Two ways to
draw: *prioritised*, where every sequence drawn is then given a new priority, and *uniform*. Ours gives the memory's
state at the sequences' start with the prioritised ones (128 numbers), TorchRL's never does.

A replay in use is written to all the time. *In use*, 320 steps (20 of each environment) are added before each draw,
which is not timed; *at rest*, nothing is added, and what a sampler knows of the steps stored holds for ever. Sizes and
kinds take turns, and the median counts.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.peers import ask
from seqrl.data import Replay
from seqrl.trajectory import AgentInput, Trajectory

NUM_ENVS, EPISODE, CHUNK, ROLLOUT = 16, 500, 1000, 20
SIZES = (10**4, 10**5, 10**6, 10**7)
COMPARED = 10**6
BATCH, LENGTH, OVERLAP, HIDDEN = 64, 80, 40, 128


def add(replay: Replay, num_steps: int) -> None:
    """Write `num_steps` steps of each environment."""
    shape = (num_steps, NUM_ENVS)
    t = torch.arange(replay.rows, replay.rows + num_steps + 1)
    is_first = (t % EPISODE == 0)[:, None].repeat(1, NUM_ENVS)
    false, zeros, value = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape), torch.zeros(is_first.shape)
    inputs = AgentInput(torch.randn(*is_first.shape, 4), is_first.long(), value, is_first)
    states = torch.randn(kept, NUM_ENVS, HIDDEN) if (kept := len(replay.state_rows(num_steps))) else ()
    replay.add(Trajectory(inputs, zeros.long(), zeros, false, false, ~false, zeros, value, states))


def filled(steps: int, prioritised: bool) -> Replay:
    """A replay that holds `steps` steps, if prioritised with the states and with priorities that differ."""
    replay = Replay(
        steps, NUM_ENVS, LENGTH, OVERLAP, stores_states=prioritised, priority_exponent=0.9 if prioritised else 0.0
    )
    while len(replay) < steps or not replay.num_sequences:
        add(replay, CHUNK)
    drawable = replay.tree.leaves.nonzero().view(-1)
    replay.set_priority(drawable, torch.rand(len(drawable)))
    return replay


def measure(repeats: int, in_use: bool) -> dict[str, float]:
    """Median seconds of a batch, by the number of steps stored; and of a uniform one from `COMPARED` steps."""
    replays = {f"{steps:,} steps": filled(steps, True) for steps in SIZES} | {"uniform": filled(COMPARED, False)}
    times: dict[str, list[float]] = {name: [] for name in replays}
    priority = torch.rand(BATCH)
    for turn in range(-5, repeats):
        for name, replay in replays.items():
            if in_use:
                add(replay, ROLLOUT)
            start = time.perf_counter()
            batch = replay.sample(BATCH)
            if replay.priority_exponent:
                replay.set_priority(batch.slot, priority)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(repeats: int) -> dict[str, Any]:
    """Both libraries' seconds, in use and at rest, and by what factor TorchRL's exceed ours for the same draw."""
    modes = {"in use": True, "at rest": False}
    ours = {mode: measure(repeats, in_use) for mode, in_use in modes.items()}
    answer = ask("torchrl", "replay", "--steps", COMPARED, "--repeats", 40, threads=1)
    ratios = {
        mode: {kind: theirs[kind] / ours[mode][_row(kind)] for kind in theirs}
        for mode, theirs in answer["seconds"].items()
    }
    growth = {mode: s[f"{SIZES[-1]:,} steps"] / s[f"{SIZES[0]:,} steps"] for mode, s in ours.items()}
    return {"seconds": ours, "growth": growth, "torchrl": answer, "ratios": ratios}


def _row(kind: str) -> str:
    return "uniform" if kind == "uniform" else f"{COMPARED:,} steps"


def show(result: dict[str, Any]) -> None:
    def cell(mode: str, name: str) -> str:
        return f"{1e3 * result['seconds'][mode][name]:.2f} ms"

    modes = list(result["seconds"])
    table = Table("a batch", *modes)
    for steps in SIZES:
        table.add_row(f"seqrl, prioritised, of {steps:,}", *(cell(mode, f"{steps:,} steps") for mode in modes))
    table.add_row(f"seqrl, uniform, of {COMPARED:,}", *(cell(mode, "uniform") for mode in modes))
    theirs, ratios = result["torchrl"]["seconds"], result["ratios"]
    for kind in theirs[modes[0]]:
        cells = (f"{1e3 * theirs[mode][kind]:.2f} ms: {ratios[mode][kind]:.1f} ×" for mode in modes)
        table.add_row(f"TorchRL, {kind}, of {COMPARED:,}", *cells)
    table.add_row(f"seqrl, {SIZES[-1]:,} over {SIZES[0]:,}", *(f"{result['growth'][mode]:.2f} ×" for mode in modes))
    Console().print(table)
    if problem := result["torchrl"].get("problem"):
        print(f"TorchRL, prioritised, does not run here: {problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = compare(args.repeats)
    show(result)
    if args.output:
        command = f"python -m benchmarks.replay {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"command": command, **machine(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
