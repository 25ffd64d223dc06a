"""Both engines on one machine: what their trajectories hold, which weights acted, and what an actor's failure is."""

import functools
import multiprocessing
import pickletools
import time
from contextlib import closing
from itertools import pairwise

import pytest
import torch
from clock import Clock, counting_agent
from counting_actors import (
    NUM_ENVS,
    ROLLOUT_LENGTH,
    Failing,
    Hanging,
    Killed,
    Refusing,
    Stillborn,
    Vanishing,
    make_counting_actor,
)

from seqrl.algorithms import impala
from seqrl.data import Rollout
from seqrl.distributed import AsyncEngine, Shipment, SyncEngine, actor_seed
from seqrl.distributed.asynchronous import BEGUN, SharedWeights, _act
from seqrl.errors import UserError
from seqrl.evaluations import SEED
from seqrl.seeds import derived_seed
from seqrl.trajectory import tree_leaves

pytestmark = pytest.mark.usefixtures("forked_actors")


def engines(num_actors):
    return {
        "sync": lambda: SyncEngine(make_counting_actor, num_actors),
        "async": lambda: AsyncEngine(make_counting_actor, num_actors),
    }


# Breaks if `collect` keeps the state before another row than the first, or forgets it between two trajectories; if the
# receiver takes an actor's trajectories out of order.
@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_counting_memory_through_the_queue(name):
    """Each trajectory's start state is the count of the frame before it."""
    last, ends, received = {}, 0, [0, 0, 0]
    with closing(engines(3)[name]()) as engine:
        engine.publish(counting_agent().state_dict(), 0)
        while min(received) < 8:  # processes do not begin all at once
            trajectory, episodes, version, actor, seconds = engine.receive()[:5]
            observation, is_first = trajectory.inputs.observation, trajectory.inputs.is_first
            count = observation[..., 1] + 1  # the clock's step says how many rows of the episode were read
            going_on = ~is_first[0]
            assert torch.equal(trajectory.states[0][going_on], count[0][going_on].long() - 1)
            assert torch.equal(trajectory.value, count)
            assert torch.equal(counting_agent().unroll(trajectory.inputs, trajectory.states[0])[0]["value"], count)
            if actor in last:
                before, first = last[actor]
                assert torch.equal(before, observation[0])
                assert torch.equal(first, is_first[0])
                assert torch.equal(trajectory.states[0][going_on], before[going_on, 1].long())
            else:
                assert is_first[0].all()
            last[actor] = observation[-1], is_first[-1]
            ends += len(episodes.returns)
            assert (version, seconds > 0, trajectory.reward.shape) == (0, True, (ROLLOUT_LENGTH, NUM_ENVS))
            if name == "sync":
                assert actor == sum(received) % 3
            received[actor] += 1
        metrics = engine.metrics()
    assert ends > 50
    assert 0 < metrics["actor_utilisation"] <= 1
    assert 0 <= metrics["learner_utilisation"] <= 1
    assert 0 <= metrics["queue_depth"] <= 4


def test_a_shipment_through_bytes():
    """All but the types of a memory's state come back; nothing in the bytes is a pickle."""
    config = impala.Config(env="seqrl/TMaze-v0", memory="transformer", num_envs=3, rollout_length=70, run_dir="unused")
    actor = impala.make_actor(config, 1, 0)
    sent = actor.collect(actor.rollout.agent.state_dict(), 4)
    data = sent.to_bytes()
    received = Shipment.from_bytes(data)
    pairs = zip(tree_leaves(sent.trajectory), tree_leaves(received.trajectory), strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    assert received[1:] == sent[1:]
    assert received.episodes.returns
    losses = [impala.loss(actor.rollout.agent, s.trajectory, config)[0] for s in (sent, received)]
    assert torch.equal(*losses)
    with pytest.raises(ValueError, match="opcode"):
        list(pickletools.genops(data))  # reads a pickle's opcodes, and runs none


def weights_of(version):
    """Weights that say which version they are."""
    return {name: torch.full_like(leaf, version) for name, leaf in counting_agent().state_dict().items()}


# Breaks if `receive` takes up the newest weights, `publish` keeps one version too few, or does not copy.
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_the_weights_that_act_are_exactly_lag_updates_old(lag):
    with closing(SyncEngine(make_counting_actor, 2, lag)) as engine:
        learner = weights_of(0)
        for version in range(8):
            for leaf in learner.values():
                leaf.fill_(version)  # in place, as an optimiser does
            engine.publish(learner, version)
            for actor in engine.actors:
                expected = max(version - lag, 0)
                assert engine.receive().version == expected
                assert all((leaf == expected).all() for leaf in actor.rollout.agent.state_dict().values())
            assert len(engine.weights) == min(version, lag) + 1


def test_the_synchronous_engine_repeats_itself():
    """Breaks if actors share a seed, or draw from torch's global generator."""
    runs, weights = [], counting_agent().state_dict()
    for _ in range(2):
        with closing(SyncEngine(make_counting_actor, 2)) as engine:
            engine.publish(weights, 0)
            runs.append([list(tree_leaves(engine.receive().trajectory)) for _ in range(6)])
    assert all(torch.equal(a, b) for one, other in zip(*runs, strict=True) for a, b in zip(one, other, strict=True))
    first, second = runs[0][:2]
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_seeds_of_actors_are_far_apart():
    """Vector environments count up from the seed they are given."""
    seeds = sorted(actor_seed(seed, i, start) for seed in range(5) for i in range(20) for start in (0, 7))
    assert min(b - a for a, b in pairwise(seeds)) > 1000
    assert seeds[0] >= 0
    assert seeds[-1] < 2**30


# Must break: in `actor_seed`, the last number left out. The fourth actor then began with the very episodes by which
# evaluations while training judge.
def test_no_actor_plays_what_evaluations_play():
    judged = {derived_seed(seed, SEED, purpose) >> 2 for seed in range(20) for purpose in (0, 1)}
    assert judged.isdisjoint(actor_seed(seed, i, start) for seed in range(20) for i in range(8) for start in range(8))


# Breaks if actors do not wait until what they sent has found room.
def test_actors_wait_while_the_queue_is_full():
    with closing(AsyncEngine(make_counting_actor, 2, queue_size=3)) as engine:
        engine.publish(weights_of(0), 0)
        shipments = [engine.receive()]
        while engine.queue.qsize() < 3:
            time.sleep(0.01)
        time.sleep(0.5)  # time for hundreds of trajectories
        engine.publish(weights_of(1), 1)
        while len({shipment.actor for shipment in shipments if shipment.version == 1}) < 2:
            shipments.append(engine.receive())
    old = sum(shipment.version == 0 for shipment in shipments)
    assert 4 <= old <= 1 + 3 + 2 * 2 + 1  # received, in the queue, sent and made by each actor, in the receiver's hand
    for index in (0, 1):
        versions = [shipment.version for shipment in shipments if shipment.actor == index]
        assert versions == sorted(versions)
        assert versions[-1] == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Failing, ["actor 1 crashed (KeyError: 'no such\\nroom', counting_actors.py line", "--resume"]),
        (Vanishing, ["actor 1 crashed (OSError: the simulator's socket is gone, counting_actors.py line"]),
        (Refusing, ["actor 1: environment 1 returned NaN: mend it"]),
        (Stillborn, ["actor 1 ended with exit code 3, 3 times in a row without a trajectory", "--resume"]),
    ],
)
def test_an_actor_that_fails_is_one_error_in_the_learner(kind, words):
    """Breaks if the receiver says nothing of a pipe that ended, or an actor's OSError is taken for the pipe's."""
    with closing(AsyncEngine(functools.partial(_one_fails, kind, 3), 2)) as engine:
        engine.publish(counting_agent().state_dict(), 0)
        with pytest.raises(UserError) as caught:
            receive_for_ever(engine)
        processes = engine.processes.values()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not any(process.is_alive() for process in processes)


# Breaks if `_replace` does not begin the actor anew, or counts on `in_a_row` over trajectories that came.
@pytest.mark.parametrize(
    ("kind", "times", "why"), [(Killed, 2, "was killed"), (Hanging, 1, "sent nothing for 3 seconds")]
)
def test_an_actor_that_dies_or_hangs_comes_back(kind, times, why, caplog):
    """The learner goes on; each life of the actor gives two trajectories, begins new episodes, and is counted."""
    with closing(AsyncEngine(functools.partial(_one_fails, kind, times), 2, timeout=3.0)) as engine:
        engine.publish(counting_agent().state_dict(), 0)
        found = []
        while len(found) < 2 * times + 1:
            shipment = engine.receive()
            if shipment.actor == 1:
                found.append(shipment.trajectory)
        metrics = engine.metrics()
    assert metrics["actors_restarted"] == metrics["trajectories_lost"] == times
    begins = [bool(trajectory.inputs.is_first[0].all()) for trajectory in found]
    assert begins == [True, False] * times + [True]
    assert not torch.equal(found[0].inputs.observation, found[2].inputs.observation)  # other seeds
    assert len(caplog.messages) == times
    assert all(f"actor 1 {why}" in line and "begins anew" in line for line in caplog.messages)


def test_a_learner_that_is_busy_for_long_makes_no_actor_hang(monkeypatch):
    """Breaks if what came while another's trajectory waited for room in the queue is not looked for."""
    engine = AsyncEngine(make_counting_actor, 2, timeout=10.0)
    with closing(make_counting_actor(0, 0)) as actor:
        data = actor.collect(weights_of(0), 0).to_bytes()
    (first, to_first), (second, to_second) = multiprocessing.Pipe(), multiprocessing.Pipe()
    engine.connections, engine.heard = {first: 0, second: 1}, {1: time.monotonic() - 11}
    put = []

    def put_late(item):
        put.append(item)
        to_second.send_bytes(data)

    monkeypatch.setattr(engine, "_put", put_late)
    to_first.send_bytes(data)
    engine._receive_some()  # there is no process that could be killed
    engine._receive_some()
    assert len(put) == 2
    assert list(engine.connections) == [first, second]


def receive_for_ever(engine):
    while True:
        engine.receive()


def _one_fails(kind, times, index, start):
    """Its first `times` lives fail; the one after them goes on, however late the learner looks."""
    return make_counting_actor(index, start, kind if index == 1 and start < times else Rollout)


def test_actors_end_with_a_learner_that_is_killed(forked_context):
    """Breaks if an actor waits for anything but its pipe."""
    ours, theirs = forked_context.Pipe()
    weights = SharedWeights(counting_agent().state_dict(), 0)
    process = forked_context.Process(target=_act, args=(make_counting_actor, 0, 0, weights, theirs))
    process.start()
    theirs.close()
    assert ours.recv_bytes() == BEGUN
    ours.send_bytes(b"")
    assert ours.recv_bytes()
    ours.close()  # as the system does when the learner is killed
    process.join(20)
    assert process.exitcode == 0


def test_weights_are_never_read_half_written(forked_context):
    """A reader beside a writer finds all leaves of one version, which it also names."""
    leaves = {str(k): torch.zeros(20_000) for k in range(8)}
    shared = SharedWeights(leaves, 0)
    writer = forked_context.Process(target=_write_on, args=(shared,), daemon=True)
    writer.start()
    seen = set()
    end = time.monotonic() + 60
    while len(seen) < 50 and time.monotonic() < end:
        weights, version = shared.read()
        assert {float(leaf.min()) for leaf in weights.values()} == {float(version)}
        assert {float(leaf.max()) for leaf in weights.values()} == {float(version)}
        seen.add(version)
    writer.kill()
    writer.join()
    assert len(seen) >= 5  # on a busy machine


def _write_on(shared):
    version = 0
    while True:
        version += 1
        shared.write({name: torch.full_like(leaf, version) for name, leaf in shared.weights.items()}, version)
        time.sleep(1e-4)


def test_closing_twice_or_before_the_start():
    engine = AsyncEngine(make_counting_actor, 2)
    engine.close()
    engine.close()
    engine = SyncEngine(make_counting_actor, 2)
    engine.close()
    engine.close()


assert Clock  # registers tests/Clock-v0, in an actor's process too
