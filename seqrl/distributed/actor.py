"""An actor: environments, and a copy of the agent that acts in them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from seqrl.checkpoint import from_bytes, to_bytes
from seqrl.data import Episodes, Rollout
from seqrl.data.sharded_replay import ActedSequences
from seqrl.evaluations import SEED
from seqrl.nets.normalization import Moments
from seqrl.run import Stateful
from seqrl.seeds import derived_seed
from seqrl.trajectory import AgentInput, Trajectory, Tree

Weights = Mapping[str, Tensor]
"""An agent's `state_dict`: parameters and running statistics, by name."""


class Elsewhere(NamedTuple):
    """A trajectory that does not come to the learner, and what the learner needs of it."""

    reference: Any
    """Ray's reference to it."""
    num_steps: int
    """Steps of all environments in it."""
    moments: tuple[Moments, ...]
    """Those of its observations, for the running statistics."""


class Shipment(NamedTuple):
    """What an actor sends: one whole trajectory, and the states of its memory before the first row, or before each row
    that begins a sequence of a replay.

    A tree of tensors and numbers, so that any engine can carry it: as it is, as bytes, or through an object store.
    """

    trajectory: Trajectory
    episodes: Episodes
    version: int
    """The number of updates that the weights which acted have had."""
    actor: int
    seconds: float
    """What acting took, by the clock."""
    first_row: int = 0
    """For a replay: the rows of each environment that the actor acted before these; 0 again when it begins anew."""
    priority: Tree = ()
    """For a replay: first priorities [C, B] of the last C sequences that became whole, by the weights that acted."""
    spoken: Tree = ()
    """For a speaker, in place of a trajectory: its conversations (`seqrl.language.spoken`)."""
    elsewhere: Elsewhere | None = None
    """Where the trajectory is, if it did not come along: then it has no rows here."""

    @property
    def num_steps(self) -> int:
        """Steps of all environments in the trajectory."""
        return self.trajectory.reward.numel() if self.elsewhere is None else self.elsewhere.num_steps

    def to_bytes(self) -> bytes:
        """For a pipe: tensors by safetensors and all else by JSON, so that nothing need be unpickled."""
        tree = self.trajectory, self.priority, self.spoken
        return to_bytes(tree, {"episodes": self.episodes, "rest": self[2:6]})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Shipment":
        """What `to_bytes` was made of; a memory's state as plain tuples."""
        (rows, priority, spoken), counters = from_bytes(data)
        version, actor, seconds, first_row = counters["rest"]
        trajectory: Any = Trajectory(AgentInput(*rows[0]), *rows[1:]) if rows else ()
        episodes = Episodes(*counters["episodes"])
        return cls(trajectory, episodes, version, actor, seconds, first_row, priority, spoken)


class Actor:
    """Collects trajectories of `rollout_length` rows, each going on where the one before stopped.

    `index` tells the actors of an engine apart, from 0. The rollout's agent is the actor's own. With `sequences`, what
    it sends is for a replay.
    """

    def __init__(self, index: int, rollout: Rollout, rollout_length: int, sequences: ActedSequences | None = None):
        self.index, self.rollout, self.rollout_length, self.sequences = index, rollout, rollout_length, sequences

    @property
    def environment(self) -> Stateful:
        return self.rollout.environment

    @property
    def state(self) -> Tree:
        return self.rollout.state

    def collect(self, weights: Weights, version: int) -> Shipment:
        """Take up `weights`, whose running statistics may be newer than their version says, and act."""
        start = time.perf_counter()
        self.rollout.agent.load_state_dict(weights)
        if self.sequences is None:
            trajectory, episodes = self.rollout.collect(self.rollout_length)
            return Shipment(trajectory, episodes, version, self.index, time.perf_counter() - start)
        first_row = self.sequences.rows
        kept = self.sequences.state_rows(self.rollout_length)
        trajectory, episodes = self.rollout.collect(self.rollout_length, kept)
        priority = self.sequences.add(trajectory)
        seconds = time.perf_counter() - start
        return Shipment(trajectory, episodes, version, self.index, seconds, first_row, priority)

    def restart(self, seed: int) -> None:
        """Begin new episodes, with a seed made of the run's `seed`."""
        first = self.sequences is not None and self.index == 0  # alone, it is the run of a single process
        self.rollout.restart(seed if first else actor_seed(seed, self.index))
        if self.sequences is not None:
            self.sequences.interrupt()

    def state_dict(self) -> dict[str, Any]:
        """What its next trajectory depends on besides the environments and the weights."""
        rest = {} if self.sequences is None else {"sequences": self.sequences.state_dict()}
        return {**self.rollout.state_dict(), **rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rollout.load_state_dict({name: part for name, part in state.items() if name != "sequences"})
        if self.sequences is not None:
            self.sequences.load_state_dict(state["sequences"])

    def close(self) -> None:
        """Free what the environments hold."""
        self.rollout.environment.close()


class Acts(Protocol):
    """What an engine runs: an `Actor`, or what speaks."""

    index: int

    @property
    def environment(self) -> Stateful:
        """What a checkpoint may hold apart from the actor."""

    @property
    def state(self) -> Tree:
        """The memory's state before the next row."""

    def collect(self, weights: Weights, version: int) -> Shipment: ...
    def restart(self, seed: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


MakeActor = Callable[[int, int], Acts]
"""Makes the actor of an index; the second number differs each time that one is begun anew. Can be pickled."""


def actor_seed(seed: int, index: int, start: int = 0) -> int:
    """A seed of its own for each actor, and for each time that it begins anew.

    Hashed, as a vector environment of a user's own may give the seed plus i to its i-th one: neighbouring seeds would
    share episodes.
    """
    apart = (1,) if index == SEED else ()  # (seed, SEED, n) are those of evaluations
    return derived_seed(seed, index, start, *apart) >> 2  # below 2³⁰: it stays an int32
