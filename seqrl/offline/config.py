"""What every algorithm that learns from logged episodes is configured by."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from seqrl.config import (
    ProblemConfig,
    check_problem,
    require,
    require_above_zero,
    require_at_least_one,
    require_not_negative,
)
from seqrl.data import EpisodeDataset


@dataclass(frozen=True, kw_only=True)
class OfflineConfig(ProblemConfig):
    """Settings that mean the same for every algorithm that learns from logged episodes.

    The environment is needed for evaluation alone; where the log says which it came from, it is that one.
    """

    dataset: str = ""
    """Folder of logged episodes, as `seqrl collect` and `seqrl import` write it."""
    memory: str = "transformer"
    """What the agent remembers with."""
    num_steps: int = 10_000
    """Updates to train for."""
    context_length: int = 20
    """Rows of a window, and rows that acting looks back."""
    batch_size: int = 64
    """Windows of a batch."""
    learning_rate: float = 1e-3
    """Adam's largest step size; it falls linearly to 0 at the last update."""
    warmup: int = 200
    """Updates in which it rises to that."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: float = 0.0
    """AdamW's λ: an update first shrinks every weight by the share learning_rate · λ."""
    held_out: float = 0.05
    """Share of the episodes that are not learnt from: the log shows how likely their actions are; 0 for none."""
    max_timestep: int = 0
    """Decisions of the longest episode that learned timesteps know; 0 for the log's longest."""
    log_every: int = 100
    """Updates between two lines of the log."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""


C = TypeVar("C", bound=OfflineConfig)


def check_shared(config: OfflineConfig) -> None:
    """Raise UserError for settings of `OfflineConfig` that make no sense."""
    check_problem(config)
    require_at_least_one(config, "num_steps", "context_length", "batch_size", "log_every", "checkpoint_every")
    require_above_zero(config, "learning_rate", "max_grad_norm")
    require_not_negative(config, "warmup", "weight_decay", "max_timestep")
    require(
        config.learning_rate * config.weight_decay < 1,
        f"--weight-decay {config.weight_decay} with --learning-rate {config.learning_rate}: "
        "an update would leave nothing of the weights; their product must be below 1",
    )
    require(0 <= config.held_out < 1, f"--held-out is {config.held_out}: it must be from 0 to below 1")


def problem_of(config: C, dataset: EpisodeDataset) -> C:
    """`config` with the environment that the log came from, where it names none and the log says.

    Raises UserError for settings of an environment that are then not read, and where the log's fits the others not.
    """
    about = dataset.about
    if config.env or not about.get("env"):
        return config
    logged: dict[str, Any] = {
        "env_kwargs": tuple(about.get("env_kwargs", ())),
        "hide": tuple(about.get("hide", ())),
        "flicker": float(about.get("flicker", 0.0)),
        "noise": float(about.get("noise", 0.0)),
    }
    default = OfflineConfig()
    for name, value in logged.items():
        given = getattr(config, name)
        require(
            given in (getattr(default, name), value),
            f"--{name.replace('_', '-')} without --env: the environment is the log's, {about['env']}, with its own "
            f"{name} {value}: leave it out, or name the environment too",
        )
    config = replace(config, env=str(about["env"]), **logged)
    check_problem(config)
    return config
