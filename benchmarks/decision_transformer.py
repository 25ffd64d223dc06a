"""How fast Decision Transformer learns from logged episodes, and acts, against CORL's, Hugging Face's and d3rlpy's.

    python -m benchmarks.peers.install corl hugging_face_dt d3rlpy       # once
    python -m benchmarks.decision_transformer speed --output benchmarks/results/decision_transformer_speed.json
    python -m benchmarks.decision_transformer windows --output benchmarks/results/decision_transformer_windows.json

`speed` is about HalfCheetah's shapes: 17 numbers observed, 6 in an action, 200 episodes of 1,000 random steps; batches
of 64 windows of 20 steps, three layers of one head, 128 wide. An update is a batch drawn, forward, backward, clipping
and the optimiser; ours by `EpisodeDataset.windows`, `decision_transformer.loss` (the squared error, as theirs) and
`Learner`. Ours has no dropout: the peers are measured without it, and with the 0.1 that they have by default as well.
Ours acts by `evaluate` in an environment that costs nothing. "reencode" reads the last 20 steps at every step, as all
peers do; "cache" keeps keys and values. CORL and d3rlpy act in one environment by their own functions; how CORL's model
and Hugging Face's act in 64 is written in their scripts, and d3rlpy's cannot.

Everyone has a process of its own, in turn, for `--rounds`, and the quickest counts: of each round its quickest five
updates in a row. With one thread it is processor time that counts, with more the time on the wall. The bound is what
CORL's matrix products would take at the speed of the largest of them, alone: three tokens a step, all of them through
all layers.

`windows` is what it costs to draw such a batch, by how many steps are stored: sizes take turns, and the median counts.
*Just opened*, the system has the files in memory and this process has hardly read them, so that many draws fault pages
in; *warmed*, `EpisodeDataset.warm` has mapped them, as it does where training begins; *in use*, it has read every page
once.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.peers import ask
from benchmarks.training import alone
from seqrl.algorithms import decision_transformer
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.evaluate import evaluate
from seqrl.learner import Learner
from seqrl.malloc import keep_freed_memory
from seqrl.trajectory import TimeStep

OBSERVATIONS, ACTIONS = gym.spaces.Box(-np.inf, np.inf, (17,)), gym.spaces.Box(-1, 1, (6,))
BATCH, K, LENGTH = 64, 20, 1000
CONFIG = decision_transformer.Config(batch_size=BATCH, context_length=K, action_loss="squared_error")
SIZES = (10**4, 10**5, 10**6, 10**7)
PEERS = ("corl", "hugging_face_dt", "d3rlpy")

Answer = dict[str, Any]


def now() -> float:
    """Processor time where there is one thread, which other work on the machine does not lengthen."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def quickest(moments: list[float], block: int) -> float:
    """The least time between two moments, of a block of `block` of them: what else goes on only ever adds."""
    return min(end - begin for begin, end in zip(moments, moments[block:], strict=False)) / block


def log_episodes(folder: Path, num_steps: int) -> EpisodeDataset:
    """A dataset of `num_steps` random steps, in episodes of `LENGTH`."""
    random = np.random.default_rng(0)
    with EpisodeWriter(folder, OBSERVATIONS, ACTIONS, about={"source": "random numbers"}) as writer:
        for _ in range(num_steps // LENGTH):
            observation = random.standard_normal((LENGTH + 1, 17), np.float32)
            action = 2 * random.random((LENGTH, 6), np.float32) - 1
            writer.add(Episode(observation, action, random.random(LENGTH, np.float32), False, True))
    return EpisodeDataset.open(folder)


class Environments:
    """Nothing but shapes, and the moments of its steps, which take next to nothing; episodes as long as the log's."""

    def __init__(self, num_envs: int, seconds: float):
        self.num_envs, self.seconds = num_envs, seconds
        self.observation = torch.randn(10, num_envs, 17)
        self.reward = torch.full((num_envs,), 0.5)
        self.true, self.false = torch.ones(num_envs, dtype=torch.bool), torch.zeros(num_envs, dtype=torch.bool)
        self.moments: list[float] = []

    def reset(self, seed: int) -> TimeStep:
        return TimeStep(self.observation[0], 0 * self.reward, self.false, self.false, self.true, self.true)

    def step(self, action: torch.Tensor) -> TimeStep:
        self.moments.append(now())
        over = len(self.moments) == LENGTH or self.moments[-1] - self.moments[0] >= self.seconds
        ended = self.true if over and len(self.moments) > 2 * K else self.false
        observation = self.observation[len(self.moments) % 10]
        return TimeStep(observation, self.reward, self.false, ended, self.false, self.true)


def our_updates(dataset: EpisodeDataset, agent: Any, seconds: float, without_data: bool = False) -> float:
    """Updates a second, by the quickest five in a row; the first five do not count."""
    learner = Learner(agent, CONFIG.learning_rate, CONFIG.max_grad_norm)
    generator, moments = torch.Generator().manual_seed(0), []
    windows = dataset.windows(BATCH, K, generator)
    while len(moments) < 10 or moments[-1] - moments[4] < seconds:
        if not without_data:
            windows = dataset.windows(BATCH, K, generator)
        loss, _ = decision_transformer.loss(agent, windows, CONFIG)
        learner.update(loss)
        moments.append(now())
    return 1 / quickest(moments[4:], 5)


def our_actions(agent: Any, num_envs: int, seconds: float) -> float:
    """Actions a second, by the quickest 20 steps in a row, once there are whole windows."""
    environments = Environments(num_envs, seconds)
    evaluate(agent, environments, num_envs)  # type: ignore[arg-type]
    return num_envs / quickest(environments.moments[K:], 20)


def our_speeds(threads: int, seconds: float) -> Answer:
    torch.set_num_threads(threads)
    keep_freed_memory()
    acting: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = log_episodes(Path(folder) / "log", 200 * LENGTH)
        agent = decision_transformer.build(CONFIG, OBSERVATIONS, ACTIONS)
        decision_transformer.describe(agent, dataset)
        updates = {
            "whole": our_updates(dataset, agent, seconds),
            "without data": our_updates(dataset, agent, seconds, without_data=True),
        }
        agent = decision_transformer.build(CONFIG, OBSERVATIONS, ACTIONS)
        for num_envs in (1, 64):
            acting[str(num_envs)] = our_actions(agent, num_envs, seconds)
        agent = decision_transformer.build(
            decision_transformer.Config(context="cache", batch_size=BATCH, context_length=K), OBSERVATIONS, ACTIONS
        )
        for num_envs in (1, 64):
            acting[f"{num_envs}, cache"] = our_actions(agent, num_envs, seconds)
    return {"updates": updates, "actions": acting}


def product_speed(threads: int) -> float:
    """Floating-point operations a second of the model's widest product for a batch, in float32."""
    torch.set_num_threads(threads)
    x, weight, moments = torch.randn(3 * BATCH * K, 128), torch.randn(128, 512), [now()]
    for _ in range(100):
        x @ weight
        moments.append(now())
    return 2 * x.numel() * 512 / quickest(moments, 5)


def speed(peers: list[str], threads: int, rounds: int, seconds: float) -> Answer:
    """Everyone's updates and actions a second, the best of `rounds`; and ours over each peer's."""
    rows: dict[str, Answer] = {}
    versions: Answer = {}
    products = []
    for turn in range(rounds):
        products.append(alone(product_speed, threads))
        for name in ("seqrl", *peers):
            if name == "seqrl":
                answer = alone(our_speeds, threads, seconds)
            else:
                answer = ask(name, "decision_transformer", "--seconds", seconds, threads=threads)
                versions[name] = answer["versions"]
            best = rows.setdefault(name, {"updates": {}, "actions": {}})
            for kind, rates in best.items():
                rates |= {key: max(value, rates.get(key, 0)) for key, value in answer[kind].items()}
            print(f"round {turn}, {name}: {answer['updates']}, {answer['actions']}", flush=True)
    result: Answer = {"rows": rows, "versions": versions, "product_gflops": max(products) / 1e9}
    if "corl" in peers:
        operations = ask("corl", "count", threads=threads)["update"]
        result |= {"operations_per_update": operations, "bound_updates_per_second": max(products) / operations}
    result["ratios"] = {peer: ratios(rows["seqrl"], rows[peer]) for peer in peers}
    return result


def ratios(ours: Answer, theirs: Answer) -> dict[str, float]:
    """Our updates over each of theirs; our actions in 64 environments over each of theirs."""
    result = {
        f"updates, theirs {name}": ours["updates"]["whole"] / v
        for name, v in theirs["updates"].items()
        if name != "without data"
    }
    result["updates, both without data"] = ours["updates"]["without data"] / theirs["updates"]["without data"]
    for key, value in theirs["actions"].items():
        for name in ("64", "64, cache"):
            result[f"actions in {name}, theirs in {key}"] = ours["actions"][name] / value
    return result


def show_speed(result: Answer) -> None:
    for kind in ("updates", "actions"):
        columns = list(dict.fromkeys(key for row in result["rows"].values() for key in row[kind]))
        table = Table(f"{kind} a second", *columns)
        for name, row in result["rows"].items():
            table.add_row(name, *(f"{row[kind][key]:,.4g}" if key in row[kind] else "–" for key in columns))
        Console(width=110).print(table)
    if "bound_updates_per_second" in result:
        share = result["rows"]["seqrl"]["updates"]["whole"] / result["bound_updates_per_second"]
        print(
            f"{result['operations_per_update'] / 1e9:.1f} GFLOP an update at {result['product_gflops']:.0f} GFLOP/s: "
            f"{result['bound_updates_per_second']:.1f} updates/s, of which ours are {share:.0%}"
        )
    table = Table("seqrl over", *result["ratios"])
    for name in dict.fromkeys(name for values in result["ratios"].values() for name in values):
        found = [values.get(name) for values in result["ratios"].values()]
        table.add_row(name, *("–" if value is None else f"{value:.2f}" for value in found))
    Console(width=110).print(table)


def windows(sizes: list[int], threads: int, repeats: int) -> Answer:
    """Median seconds to draw a batch by the number of steps stored, and the slowest over the quickest."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    result: Answer = {}
    with tempfile.TemporaryDirectory() as folder:
        datasets = {size: log_episodes(Path(folder) / str(size), size) for size in sizes}
        for mode, prepare in (("just opened", None), ("warmed", EpisodeDataset.warm), ("in use", touch)):
            for dataset in datasets.values() if prepare else ():
                prepare(dataset)
            times: dict[int, list[float]] = {size: [] for size in sizes}
            for turn in range(-20, repeats):
                for size, dataset in datasets.items():
                    start = now()
                    dataset.windows(BATCH, K, generator)
                    if turn >= 0:
                        times[size].append(now() - start)
            seconds = {str(size): statistics.median(values) for size, values in times.items()}
            result[mode] = {"seconds": seconds, "growth": max(seconds.values()) / min(seconds.values())}
    return result


def touch(dataset: EpisodeDataset) -> None:
    """Read a number of every page of the files, as training does sooner or later."""
    for array in (dataset.observation, dataset.action):
        array[:: max(4096 // array.strides[0], 1)].sum()


def show_windows(result: Answer) -> None:
    table = Table("µs a batch, steps stored", *(f"{int(size):,}" for size in result["in use"]["seconds"]), "growth")
    for mode, answer in result.items():
        figures = (f"{1e6 * seconds:.0f}" for seconds in answer["seconds"].values())
        table.add_row(mode, *figures, f"{answer['growth']:.2f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["speed", "windows"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="speed: what each measurement of a round lasts")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="windows: how many steps are stored")
    parser.add_argument("--repeats", type=int, default=300, help="windows: draws of each size")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    if args.question == "speed":
        result = speed(args.peers, args.threads, args.rounds, args.seconds)
        show_speed(result)
    else:
        result = windows(args.sizes, args.threads, args.repeats)
        show_windows(result)
    if args.output:
        command = f"python -m benchmarks.decision_transformer {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": command, **machine(), "threads": args.threads, **result}, indent=2)
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
