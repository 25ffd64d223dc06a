"""An actor: environments, and a copy of the agent that acts in them."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from seqrl.checkpoint import from_bytes, to_bytes
from seqrl.data import Episodes, Rollout
from seqrl.trajectory import AgentInput, Trajectory

Weights = Mapping[str, Tensor]
"""An agent's `state_dict`: parameters and running statistics, by name."""


class Shipment(NamedTuple):
    """What an actor sends: one whole trajectory, the state of its memory before the first row included.

    A tree of tensors and numbers, so that any engine can carry it: as it is, as bytes, or through an object store.
    """

    trajectory: Trajectory
    episodes: Episodes
    version: int
    """The number of updates that the weights which acted have had."""
    actor: int
    seconds: float
    """What acting took, by the clock."""

    def to_bytes(self) -> bytes:
        """For a pipe: tensors by safetensors and all else by JSON, so that nothing need be unpickled."""
        return to_bytes(self.trajectory, {"episodes": self.episodes, "rest": self[2:]})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Shipment":
        """What `to_bytes` was made of; a memory's state as plain tuples."""
        (inputs, *rows), counters = from_bytes(data)
        return cls(Trajectory(AgentInput(*inputs), *rows), Episodes(*counters["episodes"]), *counters["rest"])


class Actor:
    """Collects trajectories of `rollout_length` rows, each going on where the one before stopped.

    `index` tells the actors of an engine apart, from 0. The rollout's agent is the actor's own.
    """

    def __init__(self, index: int, rollout: Rollout, rollout_length: int):
        self.index, self.rollout, self.rollout_length = index, rollout, rollout_length
        self.version: int | None = None
        """Of the weights that the agent has; None before it was given any."""

    def collect(self, weights: Weights, version: int) -> Shipment:
        """Take up `weights`, unless the agent has this version already, and act."""
        start = time.perf_counter()
        if version != self.version:
            self.rollout.agent.load_state_dict(weights)
            self.version = version
        trajectory, episodes = self.rollout.collect(self.rollout_length)
        return Shipment(trajectory, episodes, version, self.index, time.perf_counter() - start)

    def close(self) -> None:
        """Free what the environments hold."""
        self.rollout.environment.close()


MakeActor = Callable[[int, int], Actor]
"""Makes the actor of an index; the second number differs each time that one is begun anew. Can be pickled."""


def actor_seed(seed: int, index: int, start: int = 0) -> int:
    """A seed of its own for each actor, and for each time that it begins anew.

    Vector environments give the seed plus i to their i-th one, so that neighbouring seeds would share episodes.
    """
    return int(np.random.SeedSequence((seed, index, start)).generate_state(1)[0] >> 2)  # below 2³⁰: it stays an int32
