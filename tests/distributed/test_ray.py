"""The Ray engine: the same trajectories as the others', and what an actor's death, hang and error are."""

import os
import signal
import sys
import time
from collections import Counter
from contextlib import closing

import pytest
import torch
from clock import counting_agent
from counting_actors import Failing, Hanging, make_counting_actor
from test_elastic import receive_until
from test_engines import receive_for_ever

from seqrl.distributed import RayEngine
from seqrl.errors import UserError

ray = pytest.importorskip("ray", reason="seqrl[ray] is not installed")


with_ray = pytest.mark.usefixtures("local_ray")


def one_fails(kind, which=1):
    def make(index, start):
        return make_counting_actor(index, start, *([kind] if index == which else []))

    return make


def started(make_actor, num_actors=2, timeout=300.0):
    engine = RayEngine(make_actor, num_actors, timeout=timeout)
    engine.publish(counting_agent().state_dict(), 0)
    return closing(engine)


# Breaks if an actor hangs whose trajectories were not taken, or a state is not the one of the frame before; with three,
# if one is asked for trajectories of another, or its process is given another's index, or the learner takes what Ray
# tells of first.
@with_ray
@pytest.mark.parametrize("num_actors", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_counting_memory_through_the_object_store(num_actors):
    """Each trajectory's start state is the count of the frame before it. A slow learner starves no actor."""
    last, received = {}, [0] * num_actors
    with started(make_counting_actor, num_actors, timeout=6.0) as engine:
        while min(received) < 8:
            trajectory, _episodes, version, actor, seconds = engine.receive()[:5]
            observation, is_first = trajectory.inputs.observation, trajectory.inputs.is_first
            count = observation[..., 1] + 1  # the clock's step says how many rows of the episode were read
            going_on = ~is_first[0]
            assert torch.equal(trajectory.states[0][going_on], count[0][going_on].long() - 1)
            assert torch.equal(trajectory.value, count)
            if actor in last:
                assert torch.equal(last[actor], observation[0])
            last[actor] = observation[-1]
            received[actor] += 1
            assert (version, seconds > 0) == (0, True)
            trajectory.reward.zero_()  # the learner's own memory, not the object store's
        engine.publish(counting_agent().state_dict(), 5)
        versions = {actor: [] for actor in range(num_actors)}
        while max(map(len, versions.values())) < 8:
            shipment = engine.receive()
            versions[shipment.actor].append(shipment.version)
        time.sleep(7.0)
        late = Counter()
        for _ in range(10 * num_actors):
            while {engine.asked[reference] for reference in engine._ready(engine.asked)} != set(range(num_actors)):
                time.sleep(0.01)  # all have something there, however crowded the machine: whose turn it is counts alone
            late[engine.receive().actor] += 1
        assert engine.metrics()["actors_restarted"] == 0
    for found in versions.values():
        asked_before = min(2, len(found))  # a crowded machine may keep an actor's first two back
        assert found == [0] * asked_before + [5] * (len(found) - asked_before)
    assert late == dict.fromkeys(range(num_actors), 10)


# Breaks if `from_outside` is left out where Ray has lost an actor: three kills before it sends anything end a run then.
@with_ray
@pytest.mark.slow  # Ray takes its time to begin so many processes; the same of engine async runs with every change
def test_an_actor_that_is_killed_comes_back(caplog):
    with started(make_counting_actor) as engine:
        seen = set()
        while len(seen) < 2 or 0 not in engine.process_ids:
            seen.add(engine.receive().actor)
        os.kill(engine.process_ids.pop(0), signal.SIGKILL)
        while engine.metrics()["actors_restarted"] < 1:
            engine.receive()
        assert engine.deaths.in_a_row[0] == 0  # the other sends
        while engine.receive().actor != 0:
            pass
    assert [line.split(" (")[0] for line in caplog.messages] == ["seqrl: actor 0 is lost"]


@with_ray
@pytest.mark.slow  # Ray takes its time to begin so many processes; the same of engine async runs with every change
def test_an_actor_that_hangs_is_begun_anew(caplog):
    with started(one_fails(Hanging, 0), 1, timeout=3.0) as engine:
        found = [engine.receive().trajectory.inputs.is_first[0].all().item() for _ in range(3)]
        assert found == [True, False, True]
        assert engine.metrics()["actors_restarted"] == 1
    assert "sent nothing for 3 seconds" in caplog.text


# Breaks if what was asked of an actor that ends is still waited for, or it is taken for dead.
@with_ray
@pytest.mark.slow  # Ray takes its time to begin so many processes
def test_actors_come_and_go(caplog):
    with started(make_counting_actor) as engine:
        engine.resize(3)
        seen = receive_until(engine, lambda seen: {s.actor for s in seen} == {0, 1, 2})
        engine.resize(1)
        assert {engine.receive().actor for _ in range(6)} == {0}
        assert set(engine.asked.values()) == {0}
        engine.resize(2)
        seen += receive_until(engine, lambda seen: 1 in {s.actor for s in seen})
        first, *_, again = [s.trajectory.inputs for s in seen if s.actor == 1]
        assert again.is_first[0].all()
        assert not torch.equal(first.observation, again.observation)
        metrics = engine.metrics()
    assert (metrics["num_actors"], metrics["actors_restarted"]) == (2, 0)
    assert not caplog.messages


@with_ray
@pytest.mark.slow  # Ray takes its time to begin so many processes; the same of engine async runs with every change
def test_an_error_in_an_actor_is_one_in_the_learner():
    with started(one_fails(Failing)) as engine, pytest.raises(UserError) as caught:
        receive_for_ever(engine)
    assert "actor 1 crashed (KeyError: 'no such\\nroom', counting_actors.py line" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'seqrl\[ray\]'"):
        RayEngine(make_counting_actor, 2)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://nowhere.invalid:10001", "127.0.0.1:door"])
def test_an_address_where_no_cluster_is(address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=f"--address '{address}': no Ray cluster there") as caught:
        RayEngine(make_counting_actor, 2, address)
    assert "\n" not in str(caught.value)
