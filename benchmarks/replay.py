"""What it costs to draw a batch of sequences from the replay, by how much is stored. Against TorchRL's SliceSampler.

    python -m benchmarks.peers.install torchrl     # once
    python -m benchmarks.replay --output benchmarks/results/replay.json

A batch is 64 sequences of 81 rows, of episodes of 500 steps, in 16 columns; observations are 4 numbers. Ours are drawn
in proportion to priorities, with the memory's state at their start (128 numbers), and a new priority is given to every
sequence drawn; TorchRL's are drawn uniformly and have no state. Sizes take turns, and the median counts, since
at the larger ones it depends on the draw what is in the processor's cache.
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

NUM_ENVS, EPISODE, CHUNK = 16, 500, 1000
SIZES = (10**4, 10**5, 10**6, 10**7)
BATCH, LENGTH, OVERLAP, HIDDEN = 64, 80, 40, 128


def filled(steps: int) -> Replay:
    """A replay that holds `steps` steps, with priorities that differ."""
    replay = Replay(steps, NUM_ENVS, LENGTH, OVERLAP)
    shape = (CHUNK, NUM_ENVS)
    false, zeros = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    while len(replay) < steps or not replay.num_sequences:
        is_first = (torch.arange(replay.rows, replay.rows + CHUNK + 1) % EPISODE == 0)[:, None].repeat(1, NUM_ENVS)
        inputs = AgentInput(
            torch.randn(CHUNK + 1, NUM_ENVS, 4), is_first.long(), torch.zeros(CHUNK + 1, NUM_ENVS), is_first
        )
        states = torch.randn(len(replay.state_rows(CHUNK)), NUM_ENVS, HIDDEN)
        value = torch.zeros(CHUNK + 1, NUM_ENVS)
        replay.add(Trajectory(inputs, zeros.long(), zeros, false, false, ~false, zeros, value, states))
    drawable = replay.tree.leaves.nonzero().view(-1)
    replay.set_priority(drawable, torch.rand(len(drawable)))
    return replay


def measure(repeats: int) -> dict[str, float]:
    """Median seconds of drawing a batch and giving it new priorities, by the number of steps stored."""
    replays = {str(steps): filled(steps) for steps in SIZES}
    times: dict[str, list[float]] = {name: [] for name in replays}
    priority = torch.rand(BATCH)
    for turn in range(-5, repeats):
        for name, replay in replays.items():
            start = time.perf_counter()
            batch = replay.sample(BATCH)
            replay.set_priority(batch.slot, priority)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ours = measure(args.repeats)
    answer = ask("torchrl", "replay", "--steps", 10**6, "--repeats", 20, threads=1)
    theirs = answer["seconds"]
    table = Table("", "steps stored", "a batch")
    for steps, seconds in ours.items():
        table.add_row("seqrl", f"{int(steps):,}", f"{1e3 * seconds:.2f} ms")
    for name, seconds in theirs.items():
        table.add_row(f"TorchRL, {name}", f"{10**6:,}", f"{1e3 * seconds:.2f} ms")
    Console().print(table)
    growth = ours[str(SIZES[-1])] / ours[str(SIZES[0])]
    ratios = {name: seconds / ours[str(10**6)] for name, seconds in theirs.items()}
    print(f"{SIZES[-1]:,} steps over {SIZES[0]:,}: {growth:.2f} ×")
    print("TorchRL over seqrl: " + ", ".join(f"{ratio:.1f} × with {name}" for name, ratio in ratios.items()))
    if args.output:
        command = f"python -m benchmarks.replay {' '.join(sys.argv[1:])}"
        result: dict[str, Any] = {"seconds": ours, "growth": growth, "torchrl": answer, "ratios": ratios}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"command": command, **machine(), **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
