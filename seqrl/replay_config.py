"""What every algorithm that learns from replayed sequences is configured by, and what is built and derived from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from seqrl.config import (
    RunConfig,
    check_evaluations,
    require,
    require_above_zero,
    require_at_least_one,
    require_at_most_one,
    require_not_negative,
)
from seqrl.data import Replay
from seqrl.data.replay import StartState
from seqrl.data.storage import Where


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(RunConfig):
    """Settings that mean the same for every algorithm with a replay."""

    previous_action: bool = True
    """Whether the agent reads its previous action."""

    start_state: StartState = "burn_in"
    """Where a sequence's unroll starts: zero, burn_in, stored, stored_burn_in or refresh (stored, and made anew)."""
    length: int = 40
    """Rows of a sequence that are learnt from."""
    overlap: int = 20
    """Rows that a sequence shares with the next one of its environment."""
    burn_in: int = 20
    """Rows before them that only warm the state up, if the start state is one that burns in."""

    replay_capacity: int = 200_000
    """Steps that are kept."""
    replay_storage: Where = "memory"
    """memory, or disk: mapped files in the run folder, for more than memory holds."""
    learning_starts: int = 3_000
    """Steps to act before learning begins."""
    replay_ratio: float = 8.0
    """Rows learnt from for each step acted."""
    batch_size: int = 16
    """Sequences of a batch."""
    rollout_length: int = 20
    """Steps of each environment between two turns of learning."""

    learning_rate: float = 1e-3
    """Adam's step size at the start."""
    gamma: float = 0.99
    """Discount of a step."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm, each network's on their own."""

    checkpoint_every: int = 100
    """Turns of learning between checkpoints. Environments that cannot be saved begin new episodes at each."""


def check_replay(config: ReplayConfig, num_actors: int = 1) -> None:
    """Raise UserError for settings of the replay that contradict each other or make no sense."""
    require_at_least_one(
        config, "hidden_size", "num_envs", "length", "replay_capacity", "batch_size", "rollout_length", "num_steps",
        "checkpoint_every",
    )  # fmt: skip
    check_evaluations(config)
    require_above_zero(config, "replay_ratio", "learning_rate", "gamma", "max_grad_norm")
    require_at_most_one(config, "gamma")
    require_not_negative(config, "burn_in", "learning_starts")
    require(
        config.replay_storage in get_args(Where), f"--replay-storage '{config.replay_storage}': choose memory or disk"
    )
    require(
        0 <= config.overlap < config.length,
        f"--overlap {config.overlap} of sequences of --length {config.length}: choose from 0 to {config.length - 1}",
    )
    require(
        "burn_in" not in config.start_state or config.burn_in >= 1,
        f"--start-state {config.start_state} with --burn-in 0: give it rows to burn in, or take --start-state zero",
    )
    num_envs = config.num_envs * num_actors
    first = num_envs * (burn_in_rows(config) + config.length + 1)
    always = first + num_envs * (config.length - config.overlap - 1)
    require(
        config.replay_capacity >= always,
        f"--replay-capacity {config.replay_capacity} holds no sequence of each of {num_envs} environments: "
        f"give at least {always}",
    )
    require(
        config.learning_starts >= first,
        f"--learning-starts {config.learning_starts}: the first whole sequences exist after {first} steps; "
        "give at least that",
    )
    turn = config.rollout_length * config.num_envs
    require(
        updates_due(-(-config.num_steps // turn) * turn, config) >= 1,  # steps come by whole rollouts
        f"--learning-starts {config.learning_starts} of --num-steps {config.num_steps}: nothing would be learnt: "
        "give more steps, or start earlier",
    )
    require(
        config.autoreset_mode == "next_step",
        f"--autoreset-mode {config.autoreset_mode}: replay needs rows that follow on each other: use next_step",
    )


def make_replay(
    config: ReplayConfig,
    *,
    stores_states: bool,
    priority_exponent: float = 0.0,
    importance_exponent: float = 0.0,
    shard: int = 0,
    num_shards: int = 1,
    slack: int = 0,
) -> Replay:
    """The empty replay that `config` describes, with its files in the run's folder; or one of the shards of it, with an
    equal part of the capacity.

    `slack` are rows between two checkpoints beyond those that `config.checkpoint_every` rollouts bring.
    """
    name = "replay" if num_shards == 1 else f"replay-{shard}"
    return Replay(
        -(-config.replay_capacity // num_shards),
        config.num_envs,
        config.length,
        config.overlap,
        burn_in_rows(config),
        stores_states=stores_states,
        priority_exponent=priority_exponent,
        importance_exponent=importance_exponent,
        where=config.replay_storage,
        folder=Path(config.run_dir) / name,
        slack=unsaved_rows(config) + slack,
        seed=config.seed + shard * 1_000_003,
    )


def unsaved_rows(config: ReplayConfig) -> int:
    """Rows of an environment between two checkpoints: those of the rollouts, and one where episodes are cut off."""
    return config.checkpoint_every * config.rollout_length + 1


def burn_in_rows(config: ReplayConfig) -> int:
    """The rows of the burn-in: those of the config, for a start state that burns in."""
    return config.burn_in if "burn_in" in config.start_state else 0


def updates_due(step: int, config: ReplayConfig) -> int:
    """Updates that must have been made by `step`."""
    rows = max(step - config.learning_starts, 0) * config.replay_ratio
    return int(rows // (config.batch_size * config.length))


def means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each metric over those updates that measured it."""
    names = dict.fromkeys(name for metrics in history for name in metrics)
    return {name: float(torch.stack([m[name] for m in history if name in m]).mean()) for name in names}
