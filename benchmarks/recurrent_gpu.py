"""How fast the reset-aware GRU and LSTM are on a GPU, against cuDNN's without resets and a loop of cells with them.

    python -m benchmarks.recurrent_gpu --output benchmarks/results/recurrent_gpu.json

Forward and backward over T steps, in turn, by CUDA events; the median of `--repeats` turns counts. cuDNN's modules know
no resets: they are the speed that resets would cost nothing at. The loop of cells is what one writes without a kernel.
*By episodes* is cuDNN with resets: every row is cut where an episode begins, and the pieces go in as one packed batch.
cuDNN takes products in TF32 as PyTorch lets it by default (`torch.backends.cudnn.allow_tf32`), seqrl in float32.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.learning import machine
from seqrl.memory import GRU, LSTM
from seqrl.memory.kernels.triton_dispatch import triton_serves

T = 128
KINDS: dict[str, tuple[Any, Any, Any]] = {"gru": (GRU, nn.GRU, nn.GRUCell), "lstm": (LSTM, nn.LSTM, nn.LSTMCell)}


def milliseconds(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Each call's median time, all taking turns, after three turns that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-3, repeats):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if turn >= 0:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(each) for name, each in times.items()}


def looped(cell: nn.Module, x: Tensor, state: Any, is_first: Tensor) -> Tensor:
    """y [T, B, H] by a cell a step, whose state is multiplied by 0 where an episode begins."""
    outputs = []
    for row, first in zip(x, is_first, strict=True):
        keep = (~first).float()[:, None]
        state = tuple(s * keep for s in state) if isinstance(state, tuple) else state * keep
        state = cell(row, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs)


def by_episodes(module: nn.Module, x: Tensor, state: tuple[Tensor, ...], is_first: Tensor) -> Tensor:
    """y [T, B, H] by cuDNN on the episodes of `is_first` [T, B], longest first, as one packed batch.

    `state` [B, H], once or twice, is what goes on into the pieces at t = 0; all others begin with zeros.
    """
    num_steps, num_rows = is_first.shape
    begins = is_first.t().clone()  # [B, T]: a row's pieces follow each other
    begins[:, 0] = True
    starts = begins.flatten().nonzero().view(-1)
    lengths = torch.diff(starts, append=starts.new_tensor([begins.numel()]))
    lengths, order = lengths.sort(descending=True, stable=True)
    starts = starts[order]
    t = torch.arange(int(lengths[0]), device=x.device)[:, None]
    present = t < lengths  # [longest, pieces]
    place = (starts + t)[present]  # of each packed row in [B, T]
    place = place % num_steps * num_rows + place // num_steps  # and in [T, B]
    row, goes_on = starts // num_steps, (starts % num_steps == 0)[:, None]
    goes_on = goes_on & ~is_first[0, row, None]
    hx = [torch.where(goes_on, s[row], 0.0)[None] for s in state]
    weights = [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]
    function = torch.lstm if len(state) == 2 else torch.gru
    packed, batch_sizes = x.flatten(0, 1)[place], present.sum(1).cpu()
    y = function(packed, batch_sizes, hx if len(state) == 2 else hx[0], weights, True, 1, 0.0, True, False)[0]
    return torch.empty_like(y).index_copy(0, place, y).view(num_steps, num_rows, -1)


def measure(kind: str, batch_size: int, hidden_size: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of forward and backward for each way."""
    ours, module, cell = (make(hidden_size, hidden_size).cuda() for make in KINDS[kind])
    assert triton_serves(ours.weight_hh), "the Triton kernels do not serve here"
    x = torch.randn(T, batch_size, hidden_size, device="cuda", requires_grad=True)
    weight = torch.randn(T, batch_size, hidden_size, device="cuda")
    is_first = torch.rand(T, batch_size, device="cuda") < 0.05
    h = torch.zeros(batch_size, hidden_size, device="cuda")
    state = ours.initial_state(batch_size)

    def ours_in(dtype: torch.dtype) -> None:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            y, _ = ours.unroll(x, state, is_first)
        (y.float() * weight).sum().backward()

    calls: dict[str, Callable[[], Any]] = {
        "seqrl": lambda: ours_in(torch.float32),
        "seqrl bfloat16": lambda: ours_in(torch.bfloat16),
        "cuDNN, no resets": lambda: (module(x)[0] * weight).sum().backward(),
        "cuDNN by episodes": lambda: (
            (by_episodes(module, x, (h, h) if kind == "lstm" else (h,), is_first) * weight).sum().backward()
        ),
        "loop of cells": lambda: (looped(cell, x, (h, h) if kind == "lstm" else h, is_first) * weight).sum().backward(),
    }
    return {"kind": kind, "batch_size": batch_size, "hidden_size": hidden_size, "ms": milliseconds(calls, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 256, 1024])
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here: python -m benchmarks.recurrent measures the CPU")
    rows = [measure(k, b, h, args.repeats) for k in KINDS for h in args.hidden_sizes for b in args.batch_sizes]
    peers = [name for name in rows[0]["ms"] if not name.startswith("seqrl")]
    table = Table("", "units", "batch", *rows[0]["ms"], *(f"{name} / seqrl" for name in peers))
    for row in rows:
        ms = row["ms"]
        ratios = (f"{ms[name] / ms['seqrl']:.2f}" for name in peers)
        table.add_row(
            row["kind"], str(row["hidden_size"]), str(row["batch_size"]), *(f"{v:.2f}" for v in ms.values()), *ratios
        )
    Console(width=120).print(table)
    if args.output:
        about = {"command": f"python -m benchmarks.recurrent_gpu {' '.join(sys.argv[1:])}".strip(), **machine("cuda")}
        args.output.write_text(json.dumps({**about, "T": T, "resets": 0.05, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
