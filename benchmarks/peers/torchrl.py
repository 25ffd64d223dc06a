"""TorchRL's GRUModule and LSTMModule with resets, against PyTorch's own without; and its replay of slices.

    python -P torchrl.py recurrent --batch-size 64 --resets 0.05 --threads 2
    python -P torchrl.py replay --steps 1000000 --threads 1

`pad` cuts each row into its episodes, pads them to the longest, and gives them to nn.GRU or nn.LSTM; `scan` loops over
time. Both read and write TensorDicts, whose making counts as little as anything else that every call has to do.
All calls of a kind take turns, and the least time of each counts.

`replay` draws batches of 64 slices of 81 steps from episodes of 500, uniformly (`SliceSampler`) and by priority
(`PrioritizedSliceSampler`). *In use*, 320 steps are added before each draw, which is not timed; the samplers then find
the episodes' ends anew. *At rest*, nothing is added, and they keep what they found.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, PrioritizedSliceSampler, SliceSampler, TensorDictReplayBuffer
from torchrl.modules import GRUModule, LSTMModule

T, H = 128, 128
KINDS = {"gru": (GRUModule, nn.GRU, ["h"]), "lstm": (LSTMModule, nn.LSTM, ["h", "c"])}
EPISODE, SLICES, SLICE, WRITTEN = 500, 64, 81, 320
BACKENDS = ("pad", "scan")


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


def training(kind: str, batch_size: int, resets: float, repeats: int) -> dict[str, float]:
    """Seconds for forward and backward over T steps, by backend, and by PyTorch's own module."""
    wrapper, plain, states = KINDS[kind]
    x = torch.randn(batch_size, T, H, requires_grad=True)
    weight = torch.randn(batch_size, T, H)
    is_init = torch.rand(batch_size, T, 1) < resets
    outputs: dict[str, torch.Tensor] = {}

    def run(name: str, module: nn.Module, unroll: Callable[[nn.Module], torch.Tensor]) -> Callable[[], None]:
        def call() -> None:
            outputs[name] = unroll(module)
            torch.autograd.grad(outputs[name], [x, *module.parameters()], weight)

        return call

    def unroll_wrapped(module: nn.Module) -> torch.Tensor:
        return module(TensorDict({"x": x, "is_init": is_init}, [batch_size, T]))["y"]

    reference = plain(H, H, batch_first=True)
    calls = {"torch": run("torch", reference, lambda module: module(x)[0])}
    for backend in BACKENDS:
        module = wrapper(
            H,
            H,
            in_keys=["x", *states],
            out_keys=["y", *(("next", state) for state in states)],
            recurrent_backend=backend,
            default_recurrent_mode=True,
        )
        getattr(module, kind).load_state_dict(reference.state_dict())
        calls[backend] = run(backend, module, unroll_wrapped)
    seconds = quickest(calls, repeats)
    torch.testing.assert_close(outputs["pad"], outputs["scan"], rtol=1e-4, atol=1e-5)
    return seconds


def episodes(first: int, steps: int) -> TensorDict:
    """`steps` steps from the `first` on, of episodes of `EPISODE`: no more leaves than a learner from slices needs."""
    flag = torch.zeros(steps, 1, dtype=torch.bool)
    done = (torch.arange(first, first + steps) % EPISODE == EPISODE - 1)[:, None]
    caused = {"reward": torch.zeros(steps, 1), "terminated": flag, "truncated": flag, "done": done}
    acted = {"observation": torch.randn(steps, 4), "action": torch.zeros(steps, dtype=torch.int64)}
    return TensorDict({**acted, "next": TensorDict(caused, [steps])}, [steps])


def buffer(kind: str, steps: int) -> TensorDictReplayBuffer:
    """A buffer of `steps` steps, with the options that draw in the least time: ends by flag, kept while they hold."""
    options: dict[str, Any] = {"slice_len": SLICE, "end_key": ("next", "done"), "cache_values": True}
    options |= {"truncated_key": None, "init_key": None}
    if kind == "uniform":
        sampler = SliceSampler(**options)
    else:
        sampler = PrioritizedSliceSampler(steps, alpha=0.9, beta=0.0, **options)
    made = TensorDictReplayBuffer(storage=LazyTensorStorage(steps), sampler=sampler, batch_size=SLICES * SLICE)
    made.extend(episodes(0, steps))
    if kind == "prioritised":
        made.update_priority(torch.arange(steps), torch.rand(steps))
    return made


def draw(made: TensorDictReplayBuffer, kind: str, priority: torch.Tensor) -> None:
    """A batch; if prioritised, each slice's first step is then given a new priority."""
    batch = made.sample()
    if kind == "prioritised":
        made.update_priority(batch["index"].view(SLICES, SLICE)[:, 0], priority)


def replay(steps: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a batch, by mode and kind; a prioritised sampler's `problem`, if it does not run here."""
    kinds, answer = ["uniform", "prioritised"], {}
    try:
        buffer("prioritised", SLICE)
    except RuntimeError as error:  # its compiled part does not fit this PyTorch
        kinds, answer = ["uniform"], {"problem": str(error)}
    priority = torch.rand(SLICES)
    seconds: dict[str, dict[str, float]] = {"in use": {}, "at rest": {}}
    for kind in kinds:
        made, written = buffer(kind, steps), steps
        for mode, result in seconds.items():
            times = []
            for turn in range(-3, repeats):
                if mode == "in use":
                    made.extend(episodes(written, WRITTEN))
                    written += WRITTEN
                start = time.perf_counter()
                draw(made, kind, priority)
                if turn >= 0:
                    times.append(time.perf_counter() - start)
            result[kind] = statistics.median(times)
    return {"seconds": seconds, **answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["recurrent", "replay"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--resets", type=float, default=0.05, help="share of steps that begin an episode")
    parser.add_argument("--steps", type=int, default=10**6, help="replay: how many are stored")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    versions = {name: version(name) for name in ("torchrl", "tensordict", "torch")}
    if args.question == "replay":
        print(json.dumps({"steps": args.steps, **replay(args.steps, args.repeats), "versions": versions}))
        return
    answer = {kind: training(kind, args.batch_size, args.resets, args.repeats) for kind in KINDS}
    print(json.dumps({"batch_size": args.batch_size, "resets": args.resets, "seconds": answer, "versions": versions}))


if __name__ == "__main__":
    main()
