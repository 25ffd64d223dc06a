"""R2D2's actors and their shards, through each engine's own queue: rows, states, priorities, deaths, resumed runs."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clock import counting_agent
from counting_actors import NUM_ENVS, SIZES, judge, make_replay_actor, one_is_killed

from seqrl.algorithms import r2d2, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.data import Replay
from seqrl.data.sharded_replay import ShardedReplay
from seqrl.distributed import AsyncEngine, Shipment, SyncEngine
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.trajectory import tree_leaves

pytestmark = pytest.mark.usefixtures("forked_actors")
CONFIG = r2d2.Config(
    env="tests/Clock-v0", num_envs=3, num_actors=2, hidden_size=8, length=4, overlap=1, burn_in=2, rollout_length=5
)


def make_replay(num_actors):
    options = {"priority_exponent": 1.0, "slack": 10_000}
    return ShardedReplay([Replay(3_000, NUM_ENVS, *SIZES, **options, seed=k) for k in range(num_actors)])


def check(replay, batch):
    """From each stored state the counter counts the rows since `is_first`; the clock's step says how many there were.
    Sequences that begin where an actor ended need no state."""
    step = batch.inputs.observation[..., 1]
    going_on = ~batch.inputs.is_first[0]
    filled_in = going_on & (batch.state == 0)
    assert torch.equal(batch.state[going_on & ~filled_in], step[0, going_on & ~filled_in].long())
    bootstraps = batch.mask & ~batch.terminated
    assert torch.equal(step[1:][bootstraps], step[:-1][bootstraps] + 1)
    value = counting_agent().unroll(batch.inputs, batch.state)[0]["value"]
    counted = batch.mask & ~filled_in
    assert torch.equal(value[:-1][counted], (step[:-1] + 1)[counted])
    return filled_in


# Breaks if `state_rows` is not the shard's, a trajectory goes to another actor's shard, or `priority` loses its order.
@pytest.mark.parametrize("name", ["sync", "async"])
def test_a_counting_memory_through_the_queue_into_the_shards(name):
    engine = {"sync": SyncEngine, "async": AsyncEngine}[name](make_replay_actor, 3)
    replay, received = make_replay(3), [0, 0, 0]
    with closing(engine):
        engine.publish(counting_agent().state_dict(), 0)
        while min(received) < 8:
            shipment = engine.receive()
            replay.add(shipment.trajectory, shipment.version, *shipment[3:4], *shipment[5:7])
            received[shipment.actor] += 1
    assert [shard.rows for shard in replay.shards] == [7 * n for n in received]
    batch = replay.sample(500)
    assert not check(replay, batch).any()
    priority = torch.cat([shard.tree.leaves for shard in replay.shards])[batch.slot]
    assert torch.equal(priority.float(), judge((batch.inputs.observation[..., 1],)))
    assert len((batch.slot // replay.slots).unique()) == 3


# Breaks if a shard is not told that its actor began anew, or the actor's sequences do not begin where the shard's do.
def test_an_actor_that_is_killed_again_and_again():
    with closing(AsyncEngine(one_is_killed, 2)) as engine:
        engine.publish(counting_agent().state_dict(), 0)
        replay, lives = make_replay(2), 0
        while lives < 3:
            shipment = engine.receive()
            lives += shipment.actor == 1 and shipment.first_row == 0
            replay.add(shipment.trajectory, shipment.version, *shipment[3:4], *shipment[5:7])
            if replay.num_sequences:
                check(replay, replay.sample(60))
        assert engine.metrics()["actors_restarted"] == 2
    # Two trajectories of 14 rows, an end, and a row more up to a multiple of the stride 3, twice; then one of 7.
    assert replay.shards[1].rows == 2 * (14 + 1) + 7


def test_a_shipment_with_priorities_through_bytes():
    actor = r2d2.make_actor(CONFIG, 1, 0)
    weights = actor.rollout.agent.state_dict()
    actor.collect(weights, 3)
    sent = actor.collect(weights, 4)
    received = Shipment.from_bytes(sent.to_bytes())
    assert sent.first_row == received.first_row == 5
    assert sent.priority.shape == (2, 3)  # two sequences of each environment, from rows 0 and 3 on
    assert (sent.priority > 0).all()
    assert torch.equal(sent.priority, received.priority)
    pairs = zip(tree_leaves(sent.trajectory), tree_leaves(received.trajectory), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


TINY = ["--env", "seqrl/TMaze-v0", "--num-envs", "2", "--num-actors", "2", "--rollout-length", "8", "--length", "6"]
TINY += ["--overlap", "2", "--burn-in", "2", "--hidden-size", "8", "--batch-size", "4", "--learning-starts", "40"]
TINY += ["--replay-capacity", "200", "--checkpoint-every", "2"]


# Breaks if the shards are no part of the checkpoint, or a resumed run's actors go on as if they were the ones before.
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_asynchronous_training_goes_on_with_its_replay(tmp_path, capsys, storage):
    folder = tmp_path / "run"
    flags = [*TINY, "--engine", "async", "--replay-storage", storage, "--num-steps", "320", "--run-dir", str(folder)]
    assert main(["train", "r2d2", *flags]) == 0
    before = list(read_metrics(folder))
    assert [line["step"] for line in before] == [16 * (k + 1) for k in range(20)]
    rows = saved_rows(folder)
    assert sum(rows) == 160
    assert main(["train", "--resume", str(folder), "--num-steps", "640"]) == 0
    lines = list(read_metrics(folder))
    assert lines[:20] == before
    assert lines[-1]["step"] == 640
    after = saved_rows(folder)
    added = sum(after) - sum(rows)
    assert 160 < added <= 160 + 2 * 4  # an end and what fills up to the stride of 4, of each actor that had begun
    names = ("loss", "state_age", "policy_lag", "queue_depth", "actor_utilisation", "learner_utilisation")
    assert all(lines[-1][name] >= 0 for name in (*names, "actors_restarted", "trajectories_lost", "steps_per_second"))
    assert capsys.readouterr().err == ""


# Must break: in `_train`, `engine.publish(agent.state_dict(), version)` alone at the start. Before learning begins the
# version is 0 for a run that goes on too, and its actors, were they processes, were given the seeds of those before.
def test_what_was_played_before_learning_began_is_not_played_again(tmp_path, monkeypatch):
    config = replace(
        CONFIG, env="seqrl/MaskedCartPole-v0", num_steps=600, learning_starts=500, replay_ratio=1.0, batch_size=4,
        replay_capacity=2_000, checkpoint_every=4, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    log_line, publish, told = Run.log, SyncEngine.publish, []

    def crashing(self, step, metrics):
        log_line(self, step, metrics)
        if step == 150:
            raise KeyboardInterrupt

    def recording(self, weights, version, start=None):
        if self.version == -1:  # the engine's first
            told.append((version, start))
        publish(self, weights, version, start)

    monkeypatch.setattr(SyncEngine, "publish", recording)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crashing)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resume(tmp_path / "run")
    assert told == [(0, 0), (0, 8)]  # turns of learning until the checkpoint


def test_processes_are_told_where_the_run_goes_on():
    with closing(AsyncEngine(make_replay_actor, 0)) as engine:
        engine.publish(counting_agent().state_dict(), 0, start=8)
        assert engine.start == 8  # must break: `self.start = version`


def saved_rows(folder):
    tree, _ = load_checkpoint(folder / CHECKPOINT)
    return [int(shard["rows"]) if shard else 0 for shard in tree["replay"]["shards"]]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes under /proc")
def test_kill_minus_nine_of_an_actor_and_of_the_learner(tmp_path):
    """An actor is killed: training goes on. Then the learner: its actors end, and the run goes on with its replay."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "seqrl", "train", "r2d2", *TINY, "--engine", "async", "--replay-ratio", "1"]
    command += ["--num-steps", "100000000", "--run-dir", str(folder)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: len(actors(run.pid)) == 2 and (folder / CHECKPOINT).exists(), run, tmp_path)
        os.kill(actors(run.pid)[0], signal.SIGKILL)
        wait_for(lambda: last(folder).get("actors_restarted") == 1, run, tmp_path)
        step = last(folder)["step"]
        wait_for(lambda: last(folder)["step"] > step + 500 and len(actors(run.pid)) == 2, run, tmp_path)
        wait_for(lambda: min(saved_rows(folder)) > 0, run, tmp_path)  # what was begun anew has sent something too
        alive = actors(run.pid)
        run.kill()
        run.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in alive) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in alive)
    finally:
        run.kill()
        run.wait()
    rows, (_, counters) = saved_rows(folder), load_checkpoint(folder / CHECKPOINT)
    assert main(["train", "--resume", str(folder), "--num-steps", str(counters["step"] + 320)]) == 0
    assert sum(saved_rows(folder)) >= sum(rows) + 160
    assert last(folder)["step"] == counters["step"] + 320


def actors(session):
    """Process ids of the actors of a training run, whose processes are those of its session."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                if b"spawn_main" in words:
                    found.append(int(folder.name))
        except OSError:  # gone in the meantime
            continue
    return found


def last(folder):
    lines = list(read_metrics(folder)) if (folder / "metrics.jsonl").exists() else []
    return lines[-1] if lines else {"step": 0}


def wait_for(condition, run, folder):
    end = time.monotonic() + 100
    while not condition():
        assert run.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.05)
