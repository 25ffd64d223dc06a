"""Actors apart from the learner: what they send, and the engines that run them."""

from seqrl.distributed.actor import Actor, Acts, MakeActor, Shipment, Weights, actor_seed
from seqrl.distributed.asynchronous import AsyncEngine
from seqrl.distributed.elastic import ask_for_actors, asked_for_actors
from seqrl.distributed.engine import Engine
from seqrl.distributed.launch import is_first, spawn, torchrun_group
from seqrl.distributed.learners import ALONE, Group
from seqrl.distributed.on_ray import RayEngine
from seqrl.distributed.ray_shards import RayShards
from seqrl.distributed.synchronous import SyncEngine

__all__ = [
    "ALONE",
    "Actor",
    "Acts",
    "AsyncEngine",
    "Engine",
    "Group",
    "MakeActor",
    "RayEngine",
    "RayShards",
    "Shipment",
    "SyncEngine",
    "Weights",
    "actor_seed",
    "ask_for_actors",
    "asked_for_actors",
    "is_first",
    "spawn",
    "torchrun_group",
]
