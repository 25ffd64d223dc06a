"""How fast the reset-aware GRU and LSTM are, against PyTorch's own without resets, and TorchRL's with them.

    python -m benchmarks.peers.install torchrl     # once
    python -m benchmarks.recurrent --output benchmarks/results/recurrent.json

Ours and PyTorch's take turns, forward and backward on the CPU; the quickest of `--repeats` turns counts, since what
else runs on a machine only ever adds. `share_of_bound` holds our speed against what the same machine's large matrix
products in float32 allow, in bfloat16 too. TorchRL runs in a process of its own beside PyTorch's modules, by which its
times are scaled.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.learning import machine
from benchmarks.peers import ask, python
from seqrl.memory import GRU, LSTM

T, H = 128, 128
KINDS = {"gru": (GRU, nn.GRU, 3), "lstm": (LSTM, nn.LSTM, 4)}


def quickest(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Each call's least time in seconds, all taking turns, after two turns that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def wait(device: str) -> None:
    """Until `device` has done what was asked of it: a GPU runs behind the program, whose clock would stop too early."""
    if device != "cpu":
        torch.cuda.synchronize()


def peak(repeats: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """The speed of a large matrix product, in floating-point operations per second; float32 is without TF32."""
    size = 2048 if device == "cpu" else 8192  # less does not fill a GPU
    if device != "cpu":
        torch.set_float32_matmul_precision("highest")
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        a @ b
        wait(device)

    return 2 * size**3 / quickest({"product": product}, repeats)["product"]


def training(kind: str, batch_size: int, repeats: int, resets: tuple[float, ...]) -> dict[str, float]:
    """Seconds for forward and backward over T steps: ours for each share of resets and in bfloat16, and PyTorch's."""
    ours, theirs, _ = KINDS[kind]
    memory, module = ours(H, H), theirs(H, H)
    x = torch.randn(T, batch_size, H, requires_grad=True)
    weight = torch.randn(T, batch_size, H)
    state = memory.initial_state(batch_size)

    def run(share: float, bfloat16: bool = False) -> Callable[[], Any]:
        is_first = torch.rand(T, batch_size) < share

        def call() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                y, _ = memory.unroll(x, state, is_first)
            return torch.autograd.grad(y, [x, *memory.parameters()], weight)

        return call

    calls = {f"resets {share:.0%}": run(share) for share in resets}
    calls["bfloat16"] = run(0.05, bfloat16=True)
    calls["torch"] = lambda: torch.autograd.grad(module(x)[0], [x, *module.parameters()], weight)
    return quickest(calls, repeats)


def acting(kind: str, repeats: int) -> dict[str, float]:
    """Seconds for one step of 64 environments with 64 units and no gradient."""
    ours, theirs, _ = KINDS[kind]
    memory, module = ours(64, 64), theirs(64, 64)
    x, state, is_first = torch.randn(1, 64, 64), memory.initial_state(64), torch.rand(1, 64) < 0.05
    torch_state = tuple(s[None] for s in state) if isinstance(state, tuple) else state[None]
    with torch.no_grad():
        calls = {"ours": lambda: memory.unroll(x, state, is_first), "torch": lambda: module(x, torch_state)}
        return quickest(calls, 50 * repeats)


def measure(kind: str, batch_size: int, repeats: int, speed: float, torchrl: dict[str, float]) -> dict[str, Any]:
    """One row of the table. `speed` is the machine's peak, and `torchrl` what its process measured, if there is one."""
    seconds = training(kind, batch_size, repeats, resets=(0.0, 0.05, 0.5))
    num_gates = KINDS[kind][2]
    bound = 3 * 2 * T * batch_size * num_gates * H * (H + H) / speed  # forward, and twice that backward
    row: dict[str, Any] = {
        "kind": kind,
        "batch_size": batch_size,
        "bound_seconds": bound,
        "seconds": seconds,
        "speed_over_torch": seconds["torch"] / seconds["resets 5%"],
        "cost_of_resets": seconds["resets 50%"] / seconds["resets 0%"],
        "share_of_bound": bound / seconds["resets 5%"],
        "share_of_bound_in_bfloat16": bound / seconds["bfloat16"],
    }
    scale = row["speed_over_torch"] / torchrl["torch"] if torchrl else 0
    row["speed_over_torchrl"] = {name: scale * value for name, value in torchrl.items() if name != "torch"}
    return row


def ask_torchrl(batch_size: int, threads: int) -> dict[str, dict[str, float]]:
    """Seconds by kind and backend; nothing where TorchRL is not installed."""
    if not python("torchrl").exists():
        return {}
    arguments = ("--batch-size", batch_size, "--resets", 0.05, "--repeats", 3)
    return ask("torchrl", "recurrent", *arguments, threads=threads)["seconds"]


def show(rows: list[dict[str, Any]]) -> None:
    peers = list(rows[0]["speed_over_torchrl"])
    table = Table(
        "", "B", *(f"{name}, ms" for name in rows[0]["seconds"]), "× torch", *(f"× TorchRL {p}" for p in peers)
    )
    for column in ("50% / 0%", "of bound", "bf16"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["kind"],
            str(row["batch_size"]),
            *(f"{1e3 * value:.1f}" for value in row["seconds"].values()),
            f"{row['speed_over_torch']:.2f}",
            *(f"{row['speed_over_torchrl'][peer]:.1f}" for peer in peers),
            *(f"{row[name]:.2f}" for name in ("cost_of_resets", "share_of_bound", "share_of_bound_in_bfloat16")),
        )
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    speed = peak(args.repeats)
    print(f"{args.threads} threads, peak {speed / 1e9:.0f} GFLOP/s, T {T}, H {H}; forward and backward", flush=True)
    theirs = {size: ask_torchrl(size, args.threads) for size in args.batch_sizes}
    rows = [
        measure(kind, size, args.repeats, speed, theirs[size].get(kind, {}))
        for kind in KINDS
        for size in args.batch_sizes
    ]
    show(rows)
    acts = {kind: acting(kind, args.repeats) for kind in KINDS}
    for kind, seconds in acts.items():
        times = ", ".join(f"{name} {1e6 * value:.0f} µs" for name, value in seconds.items())
        print(f"{kind} acting, B 64, H 64: {times}")
    if args.output:
        result = {"command": f"python -m benchmarks.recurrent {' '.join(sys.argv[1:])}", **machine()}
        result |= {"threads": args.threads, "T": T, "H": H, "peak_gflops": speed / 1e9}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({**result, "training": rows, "acting": acts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
