"""What a learner sees of its actors, wherever they run."""

import time
from abc import ABC, abstractmethod

from seqrl.distributed.actor import Shipment, Weights
from seqrl.run import Stateful


class Engine(ABC):
    """Runs actors: brings their trajectories to the learner, and the learner's weights to them.

    `publish` comes first. A trajectory arrives whole or not at all, and those of one actor in the order in which it
    acted them. An engine is a part of a checkpoint (`state_dict`), and so are its actors' `environments`.
    """

    environments: Stateful

    @abstractmethod
    def publish(self, weights: Weights, version: int) -> None:
        """Offer the weights after `version` updates to the actors. They are copied: the learner may go on changing
        them."""

    @abstractmethod
    def receive(self) -> Shipment:
        """The next trajectory, waiting for it. Raises UserError where an actor has failed."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Since the last call: `queue_depth`, the mean number of trajectories that were waiting at a `receive`;
        `actor_utilisation` and `learner_utilisation`, the shares of the clock that actors acted, and that the learner
        did not wait."""

    @abstractmethod
    def restart(self, seed: int) -> None:
        """Begin new episodes everywhere, where environments cannot be saved (see `TrainingState`)."""

    @abstractmethod
    def state_dict(self) -> dict: ...

    @abstractmethod
    def load_state_dict(self, state: dict) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Stop the actors and free what they hold. May be called twice."""


class Meter:
    """Measures what `Engine.metrics` gives."""

    def __init__(self, num_actors: int):
        self.num_actors = num_actors
        self._begin()

    def _begin(self) -> None:
        self.since, self.acted, self.waited, self.depth, self.received = time.perf_counter(), 0.0, 0.0, 0, 0

    def received_after(self, waited: float, shipment: Shipment, depth: int) -> None:
        """Count a trajectory that the learner waited `waited` seconds for, out of a queue of `depth`."""
        self.waited += waited
        self.acted += shipment.seconds
        self.depth += depth
        self.received += 1

    def metrics(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        result = {
            "queue_depth": self.depth / max(self.received, 1),
            "actor_utilisation": self.acted / (elapsed * self.num_actors),
            "learner_utilisation": 1 - self.waited / elapsed,
        }
        self._begin()
        return result
