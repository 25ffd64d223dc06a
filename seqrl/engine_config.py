"""What every algorithm whose actors are apart from its learner is configured by, and the engine that is made of it."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import torch

from seqrl.config import RunConfig, require, require_above_zero, require_at_least_one, require_not_negative
from seqrl.distributed import Acts, AsyncEngine, Engine, RayEngine, SyncEngine

EngineName = Literal["sync", "async", "ray"]


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """Settings that mean the same for every algorithm with actors, whether these act or speak."""

    num_actors: int = 2
    """Actors."""
    engine: EngineName = "sync"
    """sync: actors and learner take turns, bit for bit repeatable. async: each actor is a process of its own. ray: each
    actor is a Ray actor, on this machine or on a cluster."""
    address: str = ""
    """The cluster of engine ray ("auto", "host:port"); empty to start Ray on this machine."""
    actor_timeout: float = 300.0
    """Seconds without a trajectory after which an actor of engine async or ray is killed and begun anew."""
    forced_lag: int = 0
    """Updates by which the weights that act are older than the newest; for engine sync, to study what that does."""
    queue_size: int = 4
    """Trajectories that may wait for the learner of engine async; when it is full, actors wait."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig(ActorsConfig, RunConfig):
    """Those of actors in an environment."""


C = TypeVar("C", bound=ActorsConfig)


def check_engine(config: ActorsConfig) -> None:
    """Raise UserError for settings of the engine that contradict each other or make no sense."""
    choices = get_args(EngineName)
    require(config.engine in choices, f"--engine '{config.engine}': choose one of {', '.join(choices)}")
    require_at_least_one(config, "num_actors", "queue_size")
    require_above_zero(config, "actor_timeout")
    require_not_negative(config, "forced_lag")
    require(
        config.engine == "sync" or config.forced_lag == 0,
        f"--forced-lag {config.forced_lag} with --engine {config.engine}: only engine sync can hold weights back",
    )
    require(
        config.engine == "ray" or not config.address,
        f"--address '{config.address}' with --engine {config.engine}: only engine ray reaches a cluster",
    )


def make_engine(config: C, make_actor: Callable[[C, int, int], Acts]) -> Engine:
    """The engine that `config` names; `make_actor(config, index, start)` makes its actors.

    Actors that are processes act on the CPU.
    """
    if config.engine == "sync":
        return SyncEngine(functools.partial(make_actor, config), config.num_actors, config.forced_lag)
    make = functools.partial(make_actor, replace(config, device="cpu"))  # type: ignore[call-arg]
    if config.engine == "ray":
        return RayEngine(make, config.num_actors, config.address, config.actor_timeout)
    return AsyncEngine(make, config.num_actors, config.queue_size, config.actor_timeout)


@contextlib.contextmanager
def learner_threads(config: ActorsConfig, num_learners: int = 1) -> Iterator[None]:
    """As many threads as there are cores without an actor: a thread that shares one waits for its others in vain.

    Several learners share these cores.
    """
    before = torch.get_num_threads()
    cores = min(before, (os.cpu_count() or 1) - config.num_actors) if config.engine == "async" else before
    torch.set_num_threads(max(1, cores // num_learners))
    try:
        yield
    finally:
        torch.set_num_threads(before)
