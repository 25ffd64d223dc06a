"""Actors that take turns with the learner in one thread."""

import time
from typing import Any, final

import torch

from seqrl.distributed.actor import Acts, MakeActor, Shipment, Weights
from seqrl.distributed.engine import Engine, Meter
from seqrl.trajectory import Tree, tree_map


@final
class SyncEngine(Engine):
    """Actors act in turn, inside `receive`, with weights that are `lag` updates old: all bit for bit repeatable.

    Until there have been that many updates, they act with the first weights. Where not all versions are published, they
    act with the newest of those that are old enough.
    """

    def __init__(self, make_actor: MakeActor, num_actors: int, lag: int = 0):
        self.actors = [make_actor(index, 0) for index in range(num_actors)]
        self.environments, self.acting = _Environments(self.actors), self
        self.num_actors, self.lag, self.turn = num_actors, lag, 0
        self.version = -1
        """Of the newest weights."""
        self.weights: dict[int, Weights] = {}
        self.meter = Meter(num_actors)

    def publish(self, weights: Weights, version: int, start: int | None = None) -> None:
        """`start` is of no use here: a run that goes on takes the actors from its checkpoint."""
        self.weights[version] = {name: leaf.detach().clone() for name, leaf in weights.items()}
        self.version = version
        self.weights = {v: w for v, w in self.weights.items() if v >= self._acting_version()}

    def _acting_version(self) -> int:
        old_enough = [version for version in self.weights if version <= self.version - self.lag]
        return max(old_enough, default=min(self.weights))

    def receive(self) -> Shipment:
        start = time.perf_counter()
        version = self._acting_version()
        shipment = self.actors[self.turn].collect(self.weights[version], version)
        self.turn = (self.turn + 1) % len(self.actors)
        self.meter.received_after(time.perf_counter() - start, shipment, depth=0)
        return shipment

    def metrics(self) -> dict[str, float]:
        return self.meter.metrics()

    @property
    def state(self) -> tuple[Tree, ...]:
        return tuple(actor.state for actor in self.actors)

    def restart(self, seed: int) -> None:
        for actor in self.actors:
            actor.restart(seed)

    def state_dict(self) -> dict[str, Any]:
        """The actors, whose turn it is, and the older weights; the newest are the learner's, to be published again."""
        return {
            "actors": tuple(actor.state_dict() for actor in self.actors),
            "turn": torch.tensor(self.turn),
            "weights": {str(v): weights for v, weights in self.weights.items() if v != self.version},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a state of another number of actors."""
        for actor, saved in zip(self.actors, state["actors"], strict=True):
            actor.load_state_dict(saved)
        self.turn = int(state["turn"])
        self.weights = {int(v): tree_map(lambda leaf: leaf.clone(), weights) for v, weights in state["weights"].items()}

    def close(self) -> None:
        for actor in self.actors:
            actor.close()


class _Environments:
    """The environments of all actors, as one part of a checkpoint."""

    def __init__(self, actors: list[Acts]):
        self.all = [actor.environment for actor in actors]

    def state_dict(self) -> dict[str, Any] | None:
        """None where some of them cannot be saved."""
        states = [environment.state_dict() for environment in self.all]
        return {str(index): state for index, state in enumerate(states)} if None not in states else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for index, environment in enumerate(self.all):
            environment.load_state_dict(state[str(index)])
