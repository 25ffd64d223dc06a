"""Why a policy may fall apart under V-trace, and not under cruder corrections: one run, taken apart.

    python -m benchmarks.vtrace_collapse --output benchmarks/results/vtrace_collapse.json

In the ablation (`benchmarks.vtrace_ablation`) V-trace loses, on seed 1 of the T-maze with actors 32 updates behind and
no replay, a corridor that it could walk. Here that run is repeated until shortly before that, and goes on from there
with each correction, or without the policy's gradient: all weights and all that was acted are the same up to then. Told
are, for every eighth update, in the corridor and at the junction: how often the actors went right, how likely the
learner's policy is to, and the mean value, beside V-trace's target for it and the uncorrected one (λ = 1).
"""

import argparse
import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.learning import machine
from benchmarks.vtrace_ablation import CORRECTIONS, settings
from seqrl.agent import Agent
from seqrl.algorithms import impala
from seqrl.config import make_environment
from seqrl.data import TrajectoryReplay
from seqrl.envs.tmaze import RIGHT
from seqrl.learner import Learner
from seqrl.nets import RewardScale
from seqrl.trajectory import Trajectory, tree_like, tree_map

Answer = dict[str, Any]
LAG, EVERY = 32, 8


def look(agent: Agent, batch: Trajectory, config: impala.Config) -> Answer:
    """What `batch`, with scaled rewards, shows in the corridor and at the junction; None where it has no such row."""
    with torch.no_grad():
        inputs, last = (tree_map(lambda leaf, part=part: leaf[part], batch.inputs) for part in (slice(-1), -1))
        state = tree_like(agent.initial_state(1), tree_map(lambda leaf: leaf[0], batch.states))
        outputs, state = agent.unroll(inputs, state)
        value, bootstrap = outputs["value"], agent.step(last, state)[0]["value"]
        likely = outputs["policy"].log_prob(torch.full_like(batch.action, RIGHT)).exp()
        rows = batch, outputs["policy"].log_prob(batch.action), value, bootstrap
        targets = {name: impala.corrected(*rows, replace(config, correction=name))[0] for name in ("vtrace", "none")}
    junction = inputs.observation[..., 2] > 0
    told = {"acted": (batch.action == RIGHT).float(), "likely": likely, "value": value, "target": targets["vtrace"]}
    told["uncorrected"] = targets["none"]
    places = {"corridor": batch.mask & ~junction, "junction": batch.mask & junction}
    return {place: {name: _mean(leaf, rows) for name, leaf in told.items()} for place, rows in places.items()}


def _mean(leaf: Tensor, rows: Tensor) -> float | None:
    return leaf[rows].mean().item() if rows.any() else None


def go_on(correction: str, seed: int, switch: int, num_updates: int) -> list[Answer]:
    """V-trace's run of `seed` for `switch` updates, then `correction` ("no policy": the value and entropy alone)."""
    config = settings("tmaze", "vtrace", LAG, 0.0, seed, "unused")
    with closing(make_environment(config, 1)) as environment:
        agent = impala.build(config, environment.single_observation_space, environment.single_action_space)
    learner = Learner(agent, config.learning_rate, config.max_grad_norm)
    scale = RewardScale(config.num_actors * config.num_envs, config.gamma, grows=True)
    replay, rows, step, loss = TrajectoryReplay(config.replay_capacity, config.seed), [], 0, impala.loss
    corrected = impala.corrected

    def watched(agent: Agent, batch: Trajectory, config: impala.Config) -> Any:
        if update % EVERY == 0:
            rows.append({"correction": correction, "update": update, **look(agent, batch, config)})
        return loss(agent, batch, config)

    def without_policy(*args: Any) -> tuple[Tensor, Tensor]:
        target, advantage = corrected(*args)
        return target, torch.zeros_like(advantage)

    with closing(impala.make_engine(config)) as engine, mock.patch.object(impala, "loss", watched):
        engine.publish(agent.state_dict(), 0)
        for update in range(num_updates):
            learner.learning_rate = config.learning_rate * (1 - step / config.num_steps)
            if update == switch and correction != "no policy":
                config = replace(config, correction=correction)  # type: ignore[arg-type]
            still = correction == "no policy" and update >= switch
            fresh = [engine.receive() for _ in range(config.batch_size)]
            with mock.patch.object(impala, "corrected", without_policy if still else corrected):
                impala.learn(agent, learner, scale, replay, fresh, update, config)
            engine.publish(agent.state_dict(), update + 1)
            step += sum(shipment.num_steps for shipment in fresh)
    return rows


def show(rows: list[Answer], switch: int) -> None:
    """Each continuation: how likely the corridor's right is, update by update, and the values before it falls."""
    updates = sorted({row["update"] for row in rows if row["update"] >= switch})
    table = Table(
        "from then on", *(str(update) for update in updates[::2]), title="likelihood of right in the corridor"
    )
    for name in dict.fromkeys(row["correction"] for row in rows):
        at = {row["update"]: row["corridor"]["likely"] for row in rows if row["correction"] == name}
        table.add_row(name, *(f"{at[update]:.2f}" for update in updates[::2]))
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--switch", type=int, default=84, help="the update from which on each goes its own way")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    args = parser.parse_args()

    torch.set_num_threads(1)
    rows = [row for name in (*CORRECTIONS, "no policy") for row in go_on(name, args.seed, args.switch, args.updates)]
    show(rows, args.switch)
    if args.output:
        command = f"python -m benchmarks.vtrace_collapse {' '.join(sys.argv[1:])}"
        args.output.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": command, **machine(), "seed": args.seed, "switch": args.switch, "rows": rows}
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
