"""How frames per second grow with the number of Ray actors, where the environment is slow.

    python -m benchmarks.scaling --output benchmarks/results/scaling.json

Masked CartPole, 8 environments an actor, each step of which sleeps 50 ms as a slow simulator waits; GRU of 64, rollouts
of 32. The learner takes what comes, and publishes weights after each trajectory, but does not learn: what is measured
is what acting apart costs. Linear is a multiple of the frames per second of one actor.
"""

import argparse
import functools
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.training import alone
from seqrl.algorithms import impala
from seqrl.config import make_environment
from seqrl.distributed import Actor, RayEngine

SLEEP = 0.05
CONFIG = impala.Config(env="seqrl/MaskedCartPole-v0", num_envs=8, rollout_length=32, hidden_size=64, run_dir="unused")


def make_slow_actor(index: int, start: int) -> Actor:
    actor = impala.make_actor(CONFIG, index, start)
    environment: Any = actor.rollout.environment
    environment.step = functools.partial(_slow, environment.step)
    return actor


def _slow(step: Any, action: Any) -> Any:
    time.sleep(SLEEP)
    return step(action)


def measure(num_actors: int, seconds: float) -> dict[str, Any]:
    """Frames per second of `num_actors`, after each has sent two trajectories."""
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # where Ray's workers find this module
    with closing(make_environment(CONFIG, 1)) as environment:
        agent = impala.build(CONFIG, environment.single_observation_space, environment.single_action_space)
    with closing(RayEngine(make_slow_actor, num_actors)) as engine:
        engine.publish(agent.state_dict(), 0)
        sent, version = [0] * num_actors, 0
        while min(sent) < 2:
            sent[engine.receive().actor] += 1
        engine.metrics()
        frames, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            frames += engine.receive().trajectory.reward.numel()
            version += 1
            engine.publish(agent.state_dict(), version)
        elapsed = time.perf_counter() - start
        return {"actors": num_actors, "frames_per_second": frames / elapsed, **engine.metrics()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=30, help="what each measurement lasts at least")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()

    rows = [alone(measure, number, args.seconds) for number in args.actors]
    table = Table("Ray actors", "frames/s", "of linear", "actors busy")
    for row in rows:
        row["of_linear"] = row["frames_per_second"] / rows[0]["frames_per_second"] * rows[0]["actors"] / row["actors"]
        figures = f"{row['frames_per_second']:,.0f}", f"{row['of_linear']:.0%}", f"{row['actor_utilisation']:.0%}"
        table.add_row(str(row["actors"]), *figures)
    Console().print(table)
    if args.output:
        command = f"python -m benchmarks.scaling {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": command, **machine(), "sleep": SLEEP, "rows": rows}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    from benchmarks import scaling  # by its own name, which Ray's workers know

    scaling.main()
