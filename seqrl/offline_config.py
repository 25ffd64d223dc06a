"""What every algorithm that learns from logged episodes is configured by."""

from dataclasses import dataclass, replace
from typing import TypeVar

from seqrl.config import ProblemConfig
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
    held_out: float = 0.05
    """Share of the episodes that are not learnt from: the log shows how likely their actions are; 0 for none."""
    max_timestep: int = 0
    """Decisions of the longest episode that learned timesteps know; 0 for the log's longest."""
    log_every: int = 100
    """Updates between two lines of the log."""
    checkpoint_every: int = 1_000
    """Updates between checkpoints."""


C = TypeVar("C", bound=OfflineConfig)


def problem_of(config: C, dataset: EpisodeDataset) -> C:
    """`config` with the environment that the log came from, where it names none and the log says."""
    about = dataset.about
    if config.env or not about.get("env"):
        return config
    return replace(
        config,
        env=str(about["env"]),
        env_kwargs=tuple(about.get("env_kwargs", ())),
        hide=tuple(about.get("hide", ())),
        flicker=float(about.get("flicker", 0.0)),
        noise=float(about.get("noise", 0.0)),
    )
