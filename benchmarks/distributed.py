"""How fast IMPALA trains with actors apart from the learner: frames acted and learnt from. Against other libraries.

    python -m benchmarks.peers.install sample_factory rllib             # once
    python -m benchmarks.distributed throughput --output benchmarks/results/distributed_throughput.json
    python -m benchmarks.distributed idle --output benchmarks/results/learner_idle.json        # ours alone

Everyone has CartPole without velocities, 128 units of memory, and learns from each frame once. The peers step
Gymnasium's CartPole, which is what they offer; ours is the same physics as one batch of tensors. To tell what that
brings, one of our settings has Gymnasium's too. A frame counts when the learner has learnt from it: neither the row
that shows how an episode ended, nor what pads a batch, nor what was dropped on the way is one.

`idle` asks how long the learner waits, by the number of actors: the share of the clock that it spends in `receive`.
Where cores are short, a learner that was ready but not let run counts as busy.

What comes first is left out: the start of the processes, and as many updates as fill the queues. One process tree runs
at a time, ours and theirs in turn, all on the same cores.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

import seqrl
from benchmarks.learning import machine
from benchmarks.peers import ask
from benchmarks.training import Answer, Enough, alone
from seqrl.algorithms import impala
from seqrl.run import Run

HIDDEN, ROLLOUT = 128, 128
WARM_UP = 2.0
"""Seconds of training, from the first update on, that do not count; nor do the first 4 updates."""

OURS: list[dict[str, Any]] = [
    {"engine": "async", "num_actors": 2, "num_envs": 32},
    {"engine": "async", "num_actors": 1, "num_envs": 256},
    {"engine": "sync", "num_actors": 1, "num_envs": 1024},
    {"engine": "async", "num_actors": 2, "num_envs": 128, "env": "CartPole-v1", "hide": (1, 3)},
]
"""Our engines, numbers of actors, and environments of each: as many as the issue names, and the quickest."""

IDLE: list[dict[str, Any]] = [{"engine": "async", "num_actors": number, "num_envs": 32} for number in (1, 2, 4)]
"""Actors enough to keep the learner busy, and too few."""

PEERS: dict[str, list[object]] = {
    "sample_factory": ["--epochs", 1, "--minibatches", 1],
    "rllib": ["--sampler-timeout", 0.05, "--batch-size", 500],
}
"""What each peer's script is asked for, besides the number of environments: what was quickest with 2 workers of 32."""


@dataclass
class Watch:
    """Sees every update of a training run, and ends it when `seconds` have been measured."""

    seconds: float
    begun: float | None = None
    """When the measured window began."""
    first: float | None = None
    updates: int = 0
    frames: int = 0
    now: float = 0.0
    learner: float = 0.0
    """Seconds that the learner did not wait."""
    actors: float = 0.0
    """Seconds that an actor acted, mean over actors."""
    lag: float = 0.0
    depth: float = 0.0
    pending: int = 0

    def learnt(self, frames: int) -> None:
        self.pending += frames

    def logged(self, metrics: dict[str, float]) -> None:
        """After an update, with what the run logs of it."""
        before, self.now = self.now, time.perf_counter()
        if self.first is None:
            self.first = self.now
        if self.begun is not None:
            elapsed = self.now - before
            self.learner += metrics["learner_utilisation"] * elapsed
            self.actors += metrics["actor_utilisation"] * elapsed
            self.lag += metrics["policy_lag"]
            self.depth += metrics["queue_depth"]
            self.frames += self.pending
        self.pending, self.updates = 0, self.updates + 1
        if self.begun is None and self.updates >= 4 and self.now - self.first >= WARM_UP:
            self.begun, self.updates = self.now, 0
        elif self.begun is not None and self.now - self.begun >= self.seconds:
            raise Enough

    def answer(self) -> Answer:
        assert self.begun is not None
        seconds = self.now - self.begun
        return {
            "frames_per_second": self.frames / seconds,
            "learner_utilisation": self.learner / seconds,
            "actor_utilisation": self.actors / seconds,
            "policy_lag": self.lag / self.updates,
            "queue_depth": self.depth / self.updates,
            "updates": self.updates,
            "seconds": seconds,
        }


def ours(setting: dict[str, Any], cores: int, seconds: float) -> Answer:
    """Frames per second of `impala.train`, with what its engine says of learner and actors.

    Under engine async the learner has one thread: with two, it and an actor shared two cores 20 % more slowly.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    threads = cores if setting["engine"] == "sync" else 1
    torch.set_num_threads(threads)
    settings: dict[str, Any] = {"env": "seqrl/MaskedCartPole-v0", "rollout_length": ROLLOUT, "batch_size": 1, **setting}
    config = impala.Config(**settings, memory="gru", hidden_size=HIDDEN, num_steps=10**9)
    watch, learn, log = Watch(seconds), impala.learn, Run.log

    def watched_learn(*args: Any) -> Any:
        metrics = learn(*args)
        fresh = next(arg for arg in args if isinstance(arg, list))
        watch.learnt(sum(int(shipment.trajectory.mask.sum()) for shipment in fresh))
        return metrics

    def watched_log(run: Run, step: int, metrics: dict[str, float]) -> None:
        log(run, step, metrics)
        watch.logged(metrics)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(impala, "learn", watched_learn),
        mock.patch.object(Run, "log", watched_log),
        suppress(Enough),
    ):
        seqrl.train(replace(config, run_dir=f"{folder}/run"))
    names = ("env", "engine", "num_actors", "num_envs", "rollout_length", "batch_size", "queue_size")
    return {**{name: getattr(config, name) for name in names}, "learner_threads": threads, **watch.answer()}


def throughput(
    settings: list[dict[str, Any]], peers: list[str], splits: list[int], cores: int, seconds: float
) -> Answer:
    """Everyone's frames per second, and each of ours over each peer's best."""
    rows: list[Answer] = []

    def note(name: str, answer: Answer) -> None:
        rows.append({"name": name, **answer})
        print(f"{name}, {shape(answer)}: {answer['frames_per_second']:,.0f} frames/s", flush=True)

    for envs in splits:
        for peer in peers:
            words = ["--num-workers", 2, "--envs-per-worker", envs, *PEERS[peer], "--seconds", seconds]
            answer = ask(peer, "throughput", *words, threads=cores)
            note(peer, {"frames_per_second": answer.pop("steps_per_second"), **answer})
    for setting in settings:
        note("seqrl on Gymnasium" if "env" in setting else "seqrl", alone(ours, setting, cores, seconds))
    best = {
        peer: max((row["frames_per_second"] for row in rows if row["name"] == peer), default=math.nan) for peer in peers
    }
    for row in rows:
        if row["name"] not in peers:
            row["ratios"] = {peer: row["frames_per_second"] / best[peer] for peer in peers}
            row["learner_idle"] = 1 - row["learner_utilisation"]
    return {"rows": rows}


def shape(row: Answer) -> str:
    """How the environments of a row are split."""
    if "engine" in row:
        return f"{row['engine']}, {row['num_actors']} × {row['num_envs']}"
    return f"{row['num_workers']} × {row['envs_per_worker']}"


def show(result: Answer, peers: list[str]) -> None:
    table = Table(
        "library", "actors × environments", "frames/s", "learner", "actors", "lag", *(f"over {peer}" for peer in peers)
    )
    for row in result["rows"]:
        shares = [f"{row[key]:.0%}" if key in row else "–" for key in ("learner_utilisation", "actor_utilisation")]
        lag = f"{row['policy_lag']:.1f}" if "policy_lag" in row else "–"
        ratios = [f"{row['ratios'][peer]:.1f} ×" if "ratios" in row else "–" for peer in peers]
        table.add_row(row["name"], shape(row), f"{row['frames_per_second']:,.0f}", *shares, lag, *ratios)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["throughput", "idle"])
    parser.add_argument("--threads", type=int, default=2, help="cores that each tree of processes may use")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--peer-envs", nargs="+", type=int, default=[32, 64, 128], help="environments of each of the peers' 2 workers"
    )
    parser.add_argument("--seconds", type=float, default=10, help="what each measurement lasts at least")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()
    settings, peers = (OURS, args.peers) if args.question == "throughput" else (IDLE, [])
    result = throughput(settings, peers, args.peer_envs, args.threads, args.seconds)
    show(result, peers)
    if args.output:
        command = f"python -m benchmarks.distributed {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": command, **machine(), "cores_used": args.threads, **result}, indent=2)
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
