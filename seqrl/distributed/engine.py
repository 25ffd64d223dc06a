"""What a learner sees of its actors, wherever they run."""

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

from seqrl.distributed.actor import Shipment, Weights
from seqrl.errors import UserError
from seqrl.run import Stateful
from seqrl.training_state import Acting
from seqrl.trajectory import Tree

logger = logging.getLogger("seqrl")


class Engine(ABC):
    """Runs actors: brings their trajectories to the learner, and the learner's weights to them.

    `publish` comes first. A trajectory arrives whole or not at all, and those of one actor in the order in which it
    acted them. A checkpoint holds the actors' `environments`, and with `acting` all else that they depend on.
    """

    environments: Stateful
    acting: Acting
    num_actors: int

    @abstractmethod
    def publish(self, weights: Weights, version: int, start: int | None = None) -> None:
        """Offer the weights after `version` updates to the actors. They are copied: the learner may go on changing
        them. Actors that begin with the first call are told `start`, by default the version: it is to be another one in
        a run that goes on, lest they play again what has been learnt from."""

    @abstractmethod
    def receive(self) -> Shipment:
        """The next trajectory, waiting for it. Raises UserError where an actor has failed, and not just died."""

    def resize(self, num_actors: int) -> None:
        """Let there be another number of actors, of which the last ones end, or more begin, while the others act on."""
        raise UserError("with --engine sync the number of actors cannot be changed: train anew, or use async or ray")

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Since the last call: `queue_depth`, the mean number of trajectories that were waiting at a `receive`;
        `actor_utilisation` and `learner_utilisation`, the shares of the clock that actors acted, and that the learner
        did not wait. Since the start, where actors may die: `actors_restarted`, and `trajectories_lost` with them."""

    @abstractmethod
    def close(self) -> None:
        """Stop the actors and free what they hold. May be called twice."""


class Unsaved:
    """Actors that a checkpoint holds nothing of: a run that goes on begins new episodes."""

    state: Tree = ()

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def restart(self, seed: int) -> None:
        raise AssertionError("what is not saved need not begin anew with a checkpoint")


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
            # Acting counts when its trajectory is received, so that a short while may hold more of it than fits.
            "actor_utilisation": min(self.acted / (elapsed * self.num_actors), 1.0),
            "learner_utilisation": 1 - self.waited / elapsed,
        }
        self._begin()
        return result


class Deaths:
    """Actors that died or hung: each is begun anew, and what it was collecting is lost.

    One that dies three times in a row without having sent anything would do so for ever: that ends the run. Not so one
    that is killed from outside while others send: beginning takes seconds, and who kills may be quicker than that.
    """

    IN_A_ROW = 3

    def __init__(self) -> None:
        self.restarted = self.num_sent = 0
        self.in_a_row: Counter[int] = Counter()
        self.sent_before: Counter[int] = Counter()
        """What all had sent when an actor died last."""

    def sent(self, actor: int) -> None:
        self.num_sent += 1
        self.in_a_row[actor] = 0

    def died(self, actor: int, why: str, *, from_outside: bool = False) -> None:
        """Say so. Raises UserError for the last of too many times."""
        others_send = self.num_sent > self.sent_before[actor]
        self.sent_before[actor] = self.num_sent
        self.in_a_row[actor] += not (from_outside and others_send)
        if self.in_a_row[actor] == self.IN_A_ROW:
            raise UserError(
                f"actor {actor} {why}, {self.IN_A_ROW} times in a row without a trajectory in between: mend it, then "
                "continue from the last checkpoint with --resume"
            )
        self.restarted += 1
        logger.warning(
            "seqrl: actor %d %s: the trajectory that it was collecting is lost, and it begins anew", actor, why
        )

    def metrics(self) -> dict[str, float]:
        return {"actors_restarted": float(self.restarted), "trajectories_lost": float(self.restarted)}


def describe(actor: int, error: BaseException) -> str:
    """One line of what went wrong in an actor, and where."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UserError):
        return f"actor {actor}: {reason}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"actor {actor} crashed ({type(error).__name__}: {reason}, {Path(frame.filename).name} line {frame.lineno}): "
        "mend it, then continue from the last checkpoint with --resume"
    )
