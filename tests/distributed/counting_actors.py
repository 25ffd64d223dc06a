"""Actors that count, and ways to fail; they import no more than they need, since each Ray worker does so anew."""

import os
import signal
import time

from clock import counting_agent

from seqrl.data import Replay, Rollout
from seqrl.data.sharded_replay import ActedSequences
from seqrl.distributed import Actor, actor_seed
from seqrl.envs import make
from seqrl.errors import UserError

NUM_ENVS, ROLLOUT_LENGTH, SIZES = 5, 7, (4, 1, 2)


def make_counting_actor(index, start, kind=Rollout):
    environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync")
    return Actor(index, kind(environment, counting_agent(), actor_seed(0, index, start)), ROLLOUT_LENGTH)


class Failing(Rollout):
    """Fails at the third `collect`."""

    collected = 0

    def collect(self, num_steps):
        self.collected += 1
        if self.collected == 3:
            self.fail()
        return super().collect(num_steps)

    def fail(self):
        raise KeyError("no such\nroom")


class Refusing(Failing):
    def fail(self):
        raise UserError("environment 1 returned NaN: mend it")


class Killed(Failing):
    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Stillborn(Rollout):
    def collect(self, num_steps):
        os._exit(3)


class Hanging(Failing):
    def fail(self):
        time.sleep(1000)


class Vanishing(Failing):
    def fail(self):
        raise OSError("the simulator's socket is gone")


def record(trajectory):
    """The numbers of the steps, and of the actors' environments."""
    return (trajectory.inputs.observation[:-1, :, 1],)


def judge(rows):
    return 1 + rows[0].sum(0)


def make_replay_actor(index, start, kind=Rollout):
    environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync")
    sequences = ActedSequences(*SIZES, stores_states=True, record=record, judge=judge)
    rollout = kind(environment, counting_agent(), actor_seed(0, index, start))
    return Actor(index, rollout, ROLLOUT_LENGTH, sequences)


class KilledAtTheThird(Killed):
    def collect(self, num_steps, state_rows):
        self.collected += 1
        if self.collected == 3:
            self.fail()
        return Rollout.collect(self, num_steps, state_rows)


def one_is_killed(index, start):
    """Twice: its third life goes on, so that nothing depends on how soon the learner looks."""
    return make_replay_actor(index, start, KilledAtTheThird if index == 1 and start < 2 else Rollout)


def make_shard(actor):
    return Replay(3_000, NUM_ENVS, *SIZES, priority_exponent=1.0, slack=10_000, seed=actor)


def make_small_shard(actor):
    return Replay(60, NUM_ENVS, *SIZES, priority_exponent=1.0, slack=0, seed=actor)
