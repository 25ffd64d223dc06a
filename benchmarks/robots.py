"""Robots without velocities: what does a memory bring, and how much of what velocities told does it give back?

    python -m benchmarks.peers.install sb3_contrib
    python -m benchmarks.robots --runs runs/robots --output benchmarks/results/robots.json
    python -m benchmarks.robots HalfCheetah-v5 --num-seeds 5 --num-steps 1e6 --peer-seeds 0 --runs … --output …
    python -m benchmarks.robots Hopper-v5 --algorithm recurrent_sac --memories gru --num-steps 1e5 --peer-seeds 0 …

MuJoCo's robots of Gymnasium, of which the positions are shown and the velocities are not, by PPO with the settings of
the recipe `robot`, or by recurrent SAC with those of `robot_sac`; beside them sb3-contrib's RecurrentPPO with the
settings that RL Zoo tuned for PyBullet's robots, and with `--seen`, without memory, what is reached with everything to
see. How fast a robot gets on is in its reward and in no position that is shown: `--previous-reward` lets agents read
it; with `--privileged-critic`, values see velocities while training, and the policy does not. Each is given the same
steps, and then plays 100 episodes by its likeliest actions. Runs that are done under `--runs` are kept, so an
interrupted benchmark goes on.
"""

import argparse
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.peers import ask
from seqrl.comparison.advice import advice
from seqrl.comparison.online import Config, compare
from seqrl.comparison.report import Comparison
from seqrl.recipes import settings_for
from seqrl.reports.common import mean_and_interval

VELOCITIES = {
    "InvertedPendulum-v5": range(2, 4),
    "Hopper-v5": range(5, 11),
    "HalfCheetah-v5": range(8, 17),
    "Walker2d-v5": range(8, 17),
}
"""The entries of a robot's observation that are velocities."""
MEMORIES = ("none", "frame_stack", "gru")
SEEN = "everything to see"
ROWS_ALONE = ("none", "frame_stack")
"""What needs no gradients through time learns best from rows that are drawn one by one."""


def compared(robot: str, memories: list[str], hidden: bool, options: argparse.Namespace) -> Comparison:
    """What each of `memories` reaches, with velocities or without."""
    seen = "" if hidden else "-seen"
    told = "-told" * options.previous_reward + "-privileged" * options.privileged_critic
    by_ppo, privileged = options.algorithm == "ppo", options.privileged_critic and hidden
    settings = dataclasses.replace(
        settings_for(robot),
        hide=tuple(VELOCITIES[robot]) if hidden else (),
        num_steps=int(options.num_steps),
        previous_reward=options.previous_reward,
        privileged_critic=privileged and by_ppo,
        actions="likeliest",  # as published scores of robots are
        run_dir=str(options.runs / f"{robot}{'' if by_ppo else '-sac'}{seen}{told}"),
    )
    approaches: tuple[str, ...] = ()
    overrides = [f"ppo:{memory}.bptt_length=1" for memory in memories if memory in ROWS_ALONE]
    if not by_ppo:
        approaches = tuple(f"{options.algorithm}:{memory}" for memory in memories)
        asked = {"hidden_size": 128, "previous_reward": options.previous_reward, "privileged_critic": privileged}
        asked |= {"critic_memory": "none"} if privileged else {}  # it sees all there is
        overrides = [f"{options.algorithm}.{name}={json.dumps(value)}" for name, value in asked.items()]
    config = Config(
        settings=settings,
        memories=tuple(memories),
        approaches=approaches,
        override=tuple(overrides),
        num_seeds=options.num_seeds,
        workers=options.workers,
    )
    return compare(config, resumed=config.folder.exists())


def answers(robot: str, options: argparse.Namespace) -> dict[str, Any]:
    """What is kept: of each memory without velocities, and if asked for, of none with them."""
    result = compared(robot, options.memories, hidden=True, options=options)
    rows = {row.memory: row for row in result.rows}
    if options.seen:
        rows[SEEN] = compared(robot, ["none"], hidden=False, options=options).rows[0]
    figures = {
        name: {"mean": row.mean, "half_width": row.half_width, "seed_means": row.seed_means, "seconds": row.seconds}
        for name, row in rows.items()
    }
    return {"random": result.random, "rows": figures, "advice": advice(result)}


def peers(robot: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """sb3-contrib's answers, of `peer_seeds` seeds, two at a time."""

    def answer(seed: int) -> dict[str, Any]:
        kept = options.runs / f"{robot}-sb3_contrib-{seed}.json"
        if not kept.exists():
            settings = ("--env", robot, "--hide", *VELOCITIES[robot], "--num-steps", int(options.num_steps))
            kept.write_text(json.dumps(ask("sb3_contrib", "robot", *settings, "--seed", seed, threads=1)))
        return json.loads(kept.read_text())

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(answer, range(options.peer_seeds)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("robots", nargs="*", metavar="ROBOT", default=list(VELOCITIES), help=", ".join(VELOCITIES))
    parser.add_argument("--algorithm", choices=["ppo", "recurrent_sac"], default="ppo")
    parser.add_argument("--memories", nargs="+", default=list(MEMORIES))
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--peer-seeds", type=int, default=2)
    parser.add_argument("--num-steps", type=float, default=300_000)
    parser.add_argument("--seen", action="store_true", help="also without memory, with everything to see")
    parser.add_argument("--previous-reward", action="store_true", help="tell the agent what its last action brought")
    parser.add_argument("--privileged-critic", action="store_true", help="values see velocities while training")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    table = Table(title=f"mean return of 100 episodes, after {options.num_steps:,.0f} steps, {options.num_seeds} seeds")
    columns = [*options.memories, *[SEEN] * options.seen]
    for column in ("robot", *columns, "sb3-contrib"):
        table.add_column(column)
    found: dict[str, Any] = {}
    for robot in options.robots:
        found[robot] = answers(robot, options)
        found[robot]["sb3_contrib"] = peers(robot, options)
        rows = [found[robot]["rows"][name] for name in columns]
        peer = ", ".join(f"{answer['mean']:,.0f}" for answer in found[robot]["sb3_contrib"])
        table.add_row(robot, *(mean_and_interval(row["mean"], row["half_width"]) for row in rows), peer)
        command = (
            f"python -m benchmarks.robots {' '.join(options.robots)} "
            f"{'' if options.algorithm == 'ppo' else f'--algorithm {options.algorithm} '}"
            f"--memories {' '.join(options.memories)} "
            f"--num-seeds {options.num_seeds} --peer-seeds {options.peer_seeds} "
            f"--num-steps {options.num_steps:g} "
            f"{'--seen ' * options.seen}{'--previous-reward ' * options.previous_reward}"
            f"{'--privileged-critic ' * options.privileged_critic}--runs {options.runs} --output {options.output}"
        )
        options.output.write_text(json.dumps({"command": command, **machine(), "robots": found}, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
