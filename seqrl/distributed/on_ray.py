"""Actors on Ray, on this machine or on a cluster: the one file that imports ray."""

import contextlib
import logging
import os
import socket
import time
from typing import Any, final

import numpy as np
import torch

from seqrl.distributed.actor import Actor, Acts, Elsewhere, MakeActor, Shipment, Weights
from seqrl.distributed.engine import Deaths, Engine, Meter, Unsaved, describe
from seqrl.distributed.ray_shards import to_arrays, to_tensors
from seqrl.errors import UserError
from seqrl.nets.normalization import observed

AHEAD = 2
"""Trajectories that each actor is asked for at a time: one that it collects while the learner takes the other."""
PATIENCE = 0.2
"""Seconds between two looks at whether all is still well."""


@final
class RayEngine(Engine):
    """Each actor is a Ray actor with a CPU of its own; trajectories and weights go through Ray's object store.

    An actor is asked for two trajectories at a time, and for another when one was received: that is the back-pressure.
    It acts with the weights that were the newest when it was asked. Where the cluster has no room for all actors yet,
    those that wait begin as soon as it has; those whose machine is lost begin anew elsewhere.

    Every machine of a cluster needs seqrl installed, and what the environments need. Ray's services listen on the
    machine's network addresses, a cluster's and a local one's alike, and run what they are sent: keep strangers out.
    """

    def __init__(self, make_actor: MakeActor, num_actors: int, address: str = "", timeout: float = 300.0):
        """`address` is a cluster's ("auto", "host:port"); without one, Ray is started here and stopped by `close`.

        An actor from which nothing comes for `timeout` seconds once it acts is killed, and begun anew.
        """
        self.ray, self.started_here = _connect(address, num_actors)
        self.environments = self.acting = Unsaved()
        self.make_actor, self.num_actors, self.timeout = make_actor, num_actors, timeout
        self.meter, self.deaths = Meter(num_actors), Deaths()
        self.cpus = 0 if self.started_here and not address else 1  # on this machine there may be more actors than cores
        self.start = self.version = self.added = 0
        self.weights: Any = None
        self.actors: dict[int, Any] = {}
        self.asked: dict[Any, int] = {}
        """Who was asked for each trajectory that has not come, oldest first."""
        self.beginning: dict[Any, int] = {}
        """Actors whose processes have not begun, for want of room in the cluster or of time."""
        self.heard: dict[int, float] = {}
        """When an actor last gave something, or began."""
        self.process_ids: dict[int, int] = {}
        self.elsewhere: dict[Any, Any] | None = None
        """References to the trajectories that were asked for, if these are to go elsewhere than to the learner."""

    def publish(self, weights: Weights, version: int, start: int | None = None) -> None:
        """The first call starts the actors."""
        self.weights = self.ray.put({name: leaf.detach().cpu().numpy().copy() for name, leaf in weights.items()})
        self.version = version
        if not self.actors:
            self.start = version if start is None else start
            for index in range(self.num_actors):
                self._begin(index)
            self.meter = Meter(self.num_actors)

    def resize(self, num_actors: int) -> None:
        self.num_actors = self.meter.num_actors = num_actors
        if not self.actors:
            return
        for index in [i for i in self.actors if i >= num_actors]:
            self._end(index)
        for index in range(len(self.actors), num_actors):
            self.added += 1
            self._begin(index)

    def _begin(self, index: int) -> None:
        remote = self.ray.remote(num_cpus=self.cpus, max_restarts=0)(_RemoteActor)
        start = self.start + self.deaths.restarted + self.added
        self.actors[index] = remote.remote(self.make_actor, index, start)
        self.beginning[self.actors[index].begin.remote()] = index
        for _ in range(AHEAD):
            self._ask(index)

    def _ask(self, index: int) -> None:
        actor = self.actors[index]
        if self.elsewhere is None:
            message = actor.collect.remote(self.weights, self.version)
        else:
            message, trajectory = actor.collect_elsewhere.options(num_returns=2).remote(self.weights, self.version)
            self.elsewhere[message] = trajectory
        self.asked[message] = index

    def receive(self) -> Shipment:
        start = time.perf_counter()
        ready = self._ready(self.asked)
        depth = len(ready)
        while True:
            waiting = {self.asked[reference] for reference in ready}
            self._replace_the_hanging(waiting)
            # Ray tells of answers in any order, those of one actor and those of several. In the order of asking, each
            # actor's come one after the other, and none waits while another's are taken again and again.
            for reference in [asked for asked, index in self.asked.items() if index in waiting][:1]:
                shipment = self._take(reference)
                if shipment is not None:
                    self.meter.received_after(time.perf_counter() - start, shipment, depth)
                    return shipment
            self.ray.wait(list(self.asked), timeout=PATIENCE)
            ready = self._ready(self.asked)

    def _replace_the_hanging(self, waiting: set[int]) -> None:
        """`waiting` are the actors whose trajectories are there, and wait for the learner."""
        for reference in self._ready(self.beginning):
            index = self.beginning.pop(reference)
            with contextlib.suppress(self.ray.exceptions.RayError):  # dead by now: that shows in what it was asked for
                self.process_ids[index], self.heard[index] = self.ray.get(reference), time.monotonic()
        now = time.monotonic()
        self.heard.update(dict.fromkeys(waiting & self.heard.keys(), now))
        for index in [i for i, heard in self.heard.items() if now - heard > self.timeout]:
            self._replace(index, f"sent nothing for {self.timeout:g} seconds, and was killed")

    def _ready(self, references: dict[Any, int]) -> list[Any]:
        if not references:
            return []
        return self.ray.wait(list(references), num_returns=len(references), timeout=0)[0]

    def _take(self, reference: Any) -> Shipment | None:
        """The trajectory that has come; None where its actor died, which is begun anew."""
        index = self.asked[reference]
        try:
            message = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # as where a machine of the cluster lacks a package
            raise UserError(describe(index, error.cause or error)) from None
        except self.ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"actor {index} could not begin ({reason}): mend it on every machine") from None
            # Ray does not say what ended a process. Where all end by themselves nobody sends, and the run does end.
            self._replace(index, f"is lost ({type(error).__name__})", from_outside=True)
            return None
        if isinstance(message, UserError):
            raise message
        del self.asked[reference]
        self.heard[index] = time.monotonic()
        self.deaths.sent(index)
        self._ask(index)
        message = message._replace(priority=to_tensors(message.priority))
        if self.elsewhere is not None:
            return message._replace(elsewhere=message.elsewhere._replace(reference=self.elsewhere.pop(reference)))
        return message._replace(trajectory=to_tensors(message.trajectory), spoken=to_tensors(message.spoken))

    def _replace(self, index: int, why: str, *, from_outside: bool = False) -> None:
        self._end(index)
        self.deaths.died(index, why, from_outside=from_outside)
        self._begin(index)

    def _end(self, index: int) -> None:
        self.ray.kill(self.actors.pop(index))
        self.asked = {reference: i for reference, i in self.asked.items() if i != index}
        self.beginning = {reference: i for reference, i in self.beginning.items() if i != index}
        if self.elsewhere is not None:
            self.elsewhere = {reference: t for reference, t in self.elsewhere.items() if reference in self.asked}
        self.heard.pop(index, None)
        self.process_ids.pop(index, None)

    def metrics(self) -> dict[str, float]:
        return {"num_actors": float(self.num_actors), **self.meter.metrics(), **self.deaths.metrics()}

    def close(self) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor)
        self.actors.clear()
        self.asked.clear()
        if self.started_here:
            self.ray.shutdown()


class _RemoteActor:
    """An actor's process."""

    def __init__(self, make_actor: MakeActor, index: int, start: int):
        torch.set_num_threads(1)
        self.index, self.start, self.make_actor = index, start, make_actor
        self.actor: Acts | None = None

    def begin(self) -> int:
        return os.getpid()

    def collect(self, weights: dict[str, np.ndarray], version: int) -> Shipment | UserError:
        """The next trajectory, its tensors as arrays, which the object store hands over without pickling them."""
        shipment = self._collect(weights, version)
        if isinstance(shipment, UserError):
            return shipment
        trajectory, priority, spoken = map(to_arrays, (shipment.trajectory, shipment.priority, shipment.spoken))
        return shipment._replace(trajectory=trajectory, priority=priority, spoken=spoken)

    def collect_elsewhere(self, weights: dict[str, np.ndarray], version: int) -> tuple[Shipment | UserError, Any]:
        """The same, the trajectory on its own, so that the rest alone goes to the learner."""
        shipment = self._collect(weights, version)
        if isinstance(shipment, UserError) or not isinstance(self.actor, Actor):
            return shipment, None
        trajectory, agent = shipment.trajectory, self.actor.rollout.agent
        moments = observed(agent, lambda: agent.update_statistics(trajectory))
        rest = shipment._replace(
            trajectory=(),  # type: ignore[arg-type]
            priority=to_arrays(shipment.priority),
            elsewhere=Elsewhere(None, shipment.num_steps, moments),
        )
        return rest, to_arrays(trajectory)

    def _collect(self, weights: dict[str, np.ndarray], version: int) -> Shipment | UserError:
        try:
            if self.actor is None:
                self.actor = self.make_actor(self.index, self.start)
            return self.actor.collect({name: torch.tensor(leaf) for name, leaf in weights.items()}, version)
        except Exception as error:
            return UserError(describe(self.index, error))


def _connect(address: str, num_actors: int) -> tuple[Any, bool]:
    """Ray, and whether it was started here. Raises UserError where it is missing, or nothing is at `address`."""
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray ({error}): pip install 'seqrl[ray]'") from error
    if ray.is_initialized():
        return ray, False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            if ":" in address:  # Ray itself would try for minutes
                host, _, port = address.removeprefix("ray://").rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address, **quiet)
        else:
            cpus = max(num_actors, os.cpu_count() or 1)
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises all kinds
        reason = " ".join(str(error).split())[:200]
        where = f"--address '{address}': no Ray cluster there" if address else "Ray could not be started"
        raise UserError(f"{where} ({reason})") from None
    return ray, True
