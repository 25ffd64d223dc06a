"""How fast the reset-aware GRU and LSTM are, against PyTorch's own without resets.

    python -m benchmarks.recurrent --threads 2 --output benchmarks/results/recurrent.json

Ours and theirs take turns, forward and backward, float32 on the CPU; the quickest of `--repeats` turns counts, since
what else runs on a machine only ever adds. `share_of_peak` holds our speed against the same machine's matrix products.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

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


def peak(repeats: int) -> float:
    """The float32 speed of a large matrix product, in floating-point operations per second."""
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / quickest({"product": lambda: a @ b}, repeats)["product"]


def training(kind: str, batch_size: int, repeats: int, resets: tuple[float, ...]) -> dict[str, float]:
    """Seconds for forward and backward over T steps: ours for each share of resets, and PyTorch's."""
    ours, theirs, _ = KINDS[kind]
    memory, module = ours(H, H), theirs(H, H)
    x = torch.randn(T, batch_size, H, requires_grad=True)
    weight = torch.randn(T, batch_size, H)
    state = memory.initial_state(batch_size)

    def run(share: float) -> Callable[[], Any]:
        is_first = torch.rand(T, batch_size) < share
        inputs = [x, *memory.parameters()]
        return lambda: torch.autograd.grad(memory.unroll(x, state, is_first)[0], inputs, weight)

    calls = {f"resets {share:.0%}": run(share) for share in resets}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    speed = peak(args.repeats)
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": args.threads,
        "T": T,
        "H": H,
        "peak_gflops": speed / 1e9,
        "training": [],
        "acting": [],
    }
    print(f"{args.threads} threads, peak {speed / 1e9:.0f} GFLOP/s, T {T}, H {H}; milliseconds, forward and backward")
    for kind, (_, _, num_gates) in KINDS.items():
        for batch_size in args.batch_sizes:
            seconds = training(kind, batch_size, args.repeats, resets=(0.0, 0.05, 0.5))
            operations = 3 * 2 * T * batch_size * num_gates * H * (H + H)  # forward, and twice that backward
            row = {
                "kind": kind,
                "batch_size": batch_size,
                "seconds": seconds,
                "speed_over_torch": seconds["torch"] / seconds["resets 5%"],
                "cost_of_resets": seconds["resets 50%"] / seconds["resets 0%"],
                "share_of_peak": operations / seconds["resets 5%"] / speed,
            }
            result["training"].append(row)
            times = "  ".join(f"{name} {1e3 * value:6.1f}" for name, value in seconds.items())
            print(
                f"{kind:4} B {batch_size:3}  {times}  speed over torch {row['speed_over_torch']:.2f}  "
                f"share of peak {row['share_of_peak']:.2f}"
            )
        seconds = acting(kind, args.repeats)
        result["acting"].append({"kind": kind, "seconds": seconds})
        print(
            f"{kind:4} acting, B 64, H 64: ours {1e6 * seconds['ours']:.0f} µs, torch {1e6 * seconds['torch']:.0f} µs"
        )
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
