"""Shards of a replay as Ray actors, with a Ray that does each thing at once, or not before it is waited for."""

from types import SimpleNamespace

import pytest
import torch
from clock import counting_agent
from counting_actors import NUM_ENVS, ROLLOUT_LENGTH, SIZES, make_replay_actor

from seqrl.data import Replay
from seqrl.distributed import RayShards
from seqrl.distributed.ray_shards import to_arrays
from seqrl.errors import UserError


class RayError(Exception):
    """What Ray raises where a task failed."""

    def __init__(self, cause):
        self.cause = cause


class Local:
    """What `RayShards` asks of Ray. With `late` nothing is done before it is waited for; always in order."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, late=False):
        self.late, self.tasks = late, []

    def remote(self, **options):
        return lambda kind: SimpleNamespace(remote=lambda *args: _Process(self, kind(*args)))

    def wait(self, answers, timeout):
        return [answer for answer in answers if "result" in answer], []

    def get(self, answer):
        while "result" not in answer:
            self.do()
        if isinstance(answer["result"], Exception):
            raise RayError(answer["result"])
        return answer["result"]

    def do(self):
        answer, task = self.tasks.pop(0)
        try:
            answer["result"] = task()
        except Exception as error:
            answer["result"] = error


class _Process:
    def __init__(self, ray, object_):
        self._ray, self._object = ray, object_

    def __getattr__(self, name):
        def remote(*args):
            answer = {}
            self._ray.tasks.append((answer, lambda: getattr(self._object, name)(*args)))
            if not self._ray.late:
                self._ray.do()
            return answer

        return SimpleNamespace(remote=remote)


def make_shard(actor):
    return Replay(600, NUM_ENVS, *SIZES, priority_exponent=1.0, slack=100, seed=actor)


def shards(ray, **settings):
    return RayShards(ray, make_shard, 1, 1, burn_in=SIZES[2], **settings)


def add(replay, actor):
    sent = actor.collect(counting_agent().state_dict(), 0)
    replay.add(to_arrays(sent.trajectory), 0, 0, sent.first_row, sent.priority)


def filled(ray):
    replay, actor = shards(ray), make_replay_actor(0, 0)
    for _ in range(4):
        add(replay, actor)
    return replay, replay.sample(8)


# Breaks if answers of `set_priority` or of `write_back` are let go.
def test_what_a_shard_has_against_a_priority_or_a_state_ends_the_run():
    replay, batch = filled(Local())
    with pytest.raises(UserError, match="a priority is inf: the update diverged"):
        replay.set_priority(batch.slot, torch.full((8,), torch.inf))
    with pytest.raises(UserError, match="a shard of the replay is lost"):
        replay.write_back(batch.slot, torch.zeros(8, 3), 1)


# Breaks if a checkpoint does not wait for what is on its way.
def test_a_checkpoint_hears_of_a_priority_that_is_not_finite():
    ray = Local()
    replay, batch = filled(ray)
    ray.late = True
    replay.set_priority(batch.slot, torch.full((8,), torch.nan))
    with pytest.raises(UserError, match="a priority is nan"):
        replay.state_dict()
    assert not replay.telling


# Breaks if reports of an actor that began anew are not waited for, or go on being so after the checkpoint.
def test_a_checkpoint_is_due_before_more_rows_come():
    ray = Local(late=True)
    replay = shards(ray, max_unsaved=3 * ROLLOUT_LENGTH)
    actor = make_replay_actor(0, 0)
    for _ in range(3):
        add(replay, actor)
    assert (len(replay.adding), replay.save_is_due) == (3, False)
    add(replay, make_replay_actor(0, 1))
    assert (len(replay.adding), replay.save_is_due) == (0, True)
    replay.state_dict()
    assert (replay.begun_anew, replay.save_is_due) == (False, False)
