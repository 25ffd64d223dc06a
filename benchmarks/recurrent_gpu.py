"""How fast the reset-aware GRU and LSTM are on a GPU, against cuDNN's without resets and a loop of cells with them.

    python -m benchmarks.recurrent_gpu --output benchmarks/results/recurrent_gpu.json

Forward and backward over T steps, in turn, by CUDA events; the median of `--repeats` turns counts. Each pair is
compared in the same type of products: float32, TF32 (float32 numbers whose products have 10 bits) and bfloat16
(autocast). cuDNN's modules know no resets: they are the speed that resets would cost nothing at. *By episodes* is cuDNN
with resets: every row is cut where an episode begins, and the pieces go in as one packed batch. The loop of cells is
what one writes without a kernel. Both take what PyTorch has by default: TF32 in cuDNN, float32 elsewhere.

Shares of what the card can do: of its largest matrix product in that type (all products of forward and backward), and
of the bandwidth of a copy (each tensor that passes between kernels, once for each time that it is written or read).
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
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
PRECISIONS = ("float32", "TF32", "bfloat16")
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


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Everyone's products in `precision`, cuDNN's too."""
    matmul, rnn = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = matmul.fp32_precision, rnn.fp32_precision
    matmul.fp32_precision = rnn.fp32_precision = "tf32" if precision == "TF32" else "ieee"
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
        yield
    matmul.fp32_precision, rnn.fp32_precision = before


def measure(kind: str, batch_size: int, hidden_size: int, resets: float, repeats: int) -> dict[str, Any]:
    """Milliseconds of forward and backward for each way."""
    ours, module, cell = (make(hidden_size, hidden_size).cuda() for make in KINDS[kind])
    assert triton_serves(ours.weight_hh), "the Triton kernels do not serve here"
    x = torch.randn(T, batch_size, hidden_size, device="cuda", requires_grad=True)
    weight = torch.randn(T, batch_size, hidden_size, device="cuda")
    is_first = torch.rand(T, batch_size, device="cuda") < resets
    h = torch.zeros(batch_size, hidden_size, device="cuda")
    states = (h, h) if kind == "lstm" else (h,)
    state = ours.initial_state(batch_size)

    def call(forward: Callable[[], Tensor], precision: str = "") -> Callable[[], None]:
        def forward_and_backward() -> None:
            with products(precision) if precision else contextlib.nullcontext():
                (forward() * weight).sum().backward()

        return forward_and_backward

    calls: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        calls[f"seqrl, {precision}"] = call(lambda: ours.unroll(x, state, is_first)[0], precision)
        calls[f"cuDNN without resets, {precision}"] = call(lambda: module(x)[0], precision)
    calls["cuDNN by episodes"] = call(lambda: by_episodes(module, x, states, is_first))
    calls["loop of cells"] = call(lambda: looped(cell, x, states if kind == "lstm" else h, is_first))
    ms = milliseconds(calls, repeats)
    return {"kind": kind, "batch_size": batch_size, "hidden_size": hidden_size, "resets": resets, "ms": ms}


def limits() -> dict[str, float]:
    """The card's floating-point operations per second by type of products, and bytes per second of a copy."""
    found = {}
    for precision in PRECISIONS:
        a = torch.randn(8192, 8192, device="cuda")
        a = a.bfloat16() if precision == "bfloat16" else a
        with products(precision):
            found[precision] = 2 * 8192**3 / milliseconds({"": lambda a=a: a @ a}, 5)[""] * 1e3
    a = torch.empty(2**28, device="cuda")
    b = torch.empty_like(a)
    found["bandwidth"] = 2 * a.nbytes / milliseconds({"": lambda: b.copy_(a)}, 5)[""] * 1e3
    return found


def add_shares(row: dict[str, Any], limit: dict[str, float]) -> None:
    """Of the card's arithmetic and bandwidth, for each type of products of ours."""
    gates, rows, H = 3 if row["kind"] == "gru" else 4, T * row["batch_size"], row["hidden_size"]
    operations = 3 * 2 * rows * gates * H * 2 * H  # forward, and the gradients of both factors
    row["shares"] = {}
    for precision in PRECISIONS:
        seconds, size = row["ms"][f"seqrl, {precision}"] / 1e3, 2 if precision == "bfloat16" else 4
        # Sums and gates are written and read twice, the fourth of the GRU (or c), y and dy once each in float32; x, h
        # and the four gradients in the type of the products: x and h for forward and for the weights' gradients.
        numbers = (4 * gates + 2 + 3) * 4 + (2 + 3 + 4 * 4 + 1) * size
        moved = rows * H * numbers
        row["shares"][precision] = {
            "arithmetic": operations / seconds / limit[precision],
            "bandwidth": moved / seconds / limit["bandwidth"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 256, 1024])
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--resets", type=float, nargs="+", default=[0.05])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here: python -m benchmarks.recurrent measures the CPU")
    limit = limits()
    settings = itertools.product(KINDS, args.hidden_sizes, args.batch_sizes, args.resets)
    rows = [measure(kind, b, h, resets, args.repeats) for kind, h, b, resets in settings]
    table = Table(
        "", "units", "batch", "resets", "products", "seqrl, ms", "cuDNN without resets, ms", "ratio", "limits"
    )
    for row in rows:
        add_shares(row, limit)
        for precision in PRECISIONS:
            ours, theirs = row["ms"][f"seqrl, {precision}"], row["ms"][f"cuDNN without resets, {precision}"]
            shares = "{arithmetic:.1%} of products, {bandwidth:.0%} of bandwidth".format(**row["shares"][precision])
            sizes = (row["kind"], str(row["hidden_size"]), str(row["batch_size"]), f"{row['resets']:.0%}", precision)
            table.add_row(*sizes, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.2f}", shares)
        others = ", ".join(f"{name} {row['ms'][name]:.1f}" for name in ("cuDNN by episodes", "loop of cells"))
        table.add_row(*[""] * 4, "", "", "", "", others, end_section=True)
    Console(width=150).print(table)
    if args.output:
        about = {"command": f"python -m benchmarks.recurrent_gpu {' '.join(sys.argv[1:])}".strip(), **machine("cuda")}
        args.output.write_text(json.dumps({**about, "T": T, "limits": limit, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
