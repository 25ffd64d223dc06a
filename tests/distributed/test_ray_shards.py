"""Shards of a replay as Ray actors: the same rows, states and priorities as in the learner's process."""

from contextlib import closing

import pytest
import torch
from clock import counting_agent
from counting_actors import (
    NUM_ENVS,
    ROLLOUT_LENGTH,
    SIZES,
    judge,
    make_replay_actor,
    make_shard,
    make_small_shard,
    one_is_killed,
)
from test_replay_actors import TINY, check, saved_rows

from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.distributed import RayEngine, RayShards
from seqrl.errors import UserError
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_flatten

ray = pytest.importorskip("ray", reason="seqrl[ray] is not installed")


pytestmark = pytest.mark.usefixtures("local_ray")


def shards(num_actors, num_processes, make=make_shard):
    return RayShards(ray, make, num_actors, num_processes, burn_in=SIZES[2])


def take(replay, engine):
    shipment = engine.receive()
    replay.add(shipment.elsewhere.reference, shipment.version, *shipment[3:4], *shipment[5:7])
    return shipment


# Breaks if a shard is another actor's, a sequence's number is its place, or priorities go to another process.
@pytest.mark.slow  # Ray takes its time to begin so many processes; the same of engine async runs with every change
def test_a_counting_memory_through_the_object_store_into_the_shards():
    """Three shards in two processes: one of them has two."""
    replay, received = shards(3, 2), [0, 0, 0]
    with closing(RayEngine(make_replay_actor, 3)) as engine:
        engine.elsewhere = {}
        engine.publish(counting_agent().state_dict(), 0)
        # An actor that began late must have a share too: of 500 draws, some are to be its own.
        while min(received) < 6 or 10 * min(received) < max(received):
            shipment = take(replay, engine)
            assert shipment.trajectory == ()
            assert shipment.num_steps == ROLLOUT_LENGTH * NUM_ENVS
            received[shipment.actor] += 1
        batch = replay.sample(500, version=7)
        assert not check(replay, batch).any()
        assert (batch.age == 7).all()
        priority = judge((batch.inputs.observation[..., 1],))
        state = replay.state_dict()
    assert [int(shard["rows"]) for shard in state["shards"]] == [ROLLOUT_LENGTH * n for n in received]
    assert set((batch.slot % 3).tolist()) == {0, 1, 2}
    for actor, shard in enumerate(state["shards"]):
        own = batch.slot % 3 == actor
        slot = batch.slot[own] // 3 % len(shard["leaves"])
        assert torch.equal(shard["leaves"][slot].float(), priority[own])
    replay.set_priority(batch.slot, batch.slot + 1.0)
    replay.write_back(batch.slot, batch.slot, 9)
    after = replay.state_dict()["shards"]
    for actor, shard in enumerate(after):
        own = batch.slot[batch.slot % 3 == actor]
        slot = own // 3 % len(shard["leaves"])
        assert torch.equal(shard["leaves"][slot], own + 1.0)
        row, column = slot // NUM_ENVS + 1, slot % NUM_ENVS
        assert torch.equal(shard["states"][row, column], own)
        assert (shard["version"][row, column] == 9).all()
    before, whole = replay.history(batch.slot)
    step = batch.inputs.observation[0, :, 1]
    going_on = whole & (step > 0)
    assert going_on.sum() > 50
    counts = counting_agent().unroll(before, torch.zeros(500, dtype=torch.int64))[1]
    assert torch.equal(counts[going_on].float(), step[going_on])
    assert replay.priority_quantiles()["priority_max"] > 1
    again = shards(3, 1)  # in other processes, and another number of them
    again.load_state_dict({**state, "shards": tuple({} for _ in range(3))})
    with pytest.raises(ValueError, match="3 shards, not 2"):
        shards(2, 1).load_state_dict(state)


@pytest.mark.slow  # Ray takes its time to begin so many processes
def test_priorities_that_come_too_late_are_dropped_and_a_lost_shard_ends_the_run():
    """Breaks if a sequence's slot is taken for it: by then another one is there, or none."""
    replay = shards(1, 1, make_small_shard)
    with closing(RayEngine(make_replay_actor, 1)) as engine:
        engine.elsewhere = {}
        engine.publish(counting_agent().state_dict(), 0)
        for _ in range(3):
            take(replay, engine)
        batch = replay.sample(100)
        for _ in range(6):
            take(replay, engine)
        before = replay.state_dict()["shards"][0]
        replay.set_priority(batch.slot, torch.full((100,), 1e6))
        replay.write_back(batch.slot, torch.full((100,), 77), 9)
        after = replay.state_dict()["shards"][0]
        _, whole = replay.history(batch.slot)
        assert not whole.any()
        assert torch.equal(before["leaves"], after["leaves"])
        assert (after["version"] == 0).all()
        ray.kill(replay.processes[0])
        with pytest.raises(UserError, match=r"a shard of the replay is lost .*: continue from the last checkpoint"):
            [replay.sample(4) for _ in range(5)]


@pytest.mark.slow  # Ray takes its time to begin so many processes
def test_an_actor_that_is_killed():
    replay, lives = shards(2, 1), 0
    with closing(RayEngine(one_is_killed, 2)) as engine:
        engine.elsewhere = {}
        engine.publish(counting_agent().state_dict(), 0)
        while lives < 2:
            shipment = take(replay, engine)
            lives += shipment.actor == 1 and shipment.first_row == 0
        check(replay, replay.sample(300))
        assert engine.metrics()["actors_restarted"] == 1
        # What it had sent when it was killed: the learner hears of the death first, or of the second trajectory.
        assert int(replay.state_dict()["shards"][1]["rows"]) in (14 + 1 + 7, 7 + 2 + 7)
        assert len(engine.elsewhere) == len(engine.asked)


# Breaks if the statistics of observations stay as they were, or the state is not that of shards in the learner.
@pytest.mark.slow  # Ray takes its time to begin so many processes
def test_training_goes_on_with_its_replay_in_either_place(tmp_path, capsys):
    folder, tiny = tmp_path / "run", [word.replace("TMaze", "MaskedCartPole") for word in TINY]
    flags = [*tiny, "--engine", "ray", "--num-steps", "320", "--run-dir", str(folder), "--staleness-every", "3"]
    assert main(["train", "r2d2", *flags]) == 0
    assert len(list(read_metrics(folder))) == 20
    rows, state = saved_rows(folder), checkpoint(folder)
    assert sum(rows) == 160
    assert 250 < state["agent.encoder.encoders.0.norm.count"] <= 320  # all but final observations
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"engine": "ray"', '"engine": "async"'))
    assert main(["train", "--resume", str(folder), "--num-steps", "480"]) == 0
    config.write_text(config.read_text().replace('"engine": "async"', '"engine": "ray"'))
    assert main(["train", "--resume", str(folder), "--num-steps", "640"]) == 0
    assert 160 < sum(saved_rows(folder)) - sum(rows) <= 160 + 2 * 2 * 4
    assert "loss" in list(read_metrics(folder))[-1]
    assert capsys.readouterr().err == ""


def checkpoint(folder):
    return tree_flatten(load_checkpoint(folder / CHECKPOINT)[0])
