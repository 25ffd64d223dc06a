"""The number of actors of a run, changed while it trains and when it is resumed."""

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from clock import counting_agent
from counting_actors import make_counting_actor

from seqrl.algorithms import impala
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.distributed import AsyncEngine, SyncEngine, ask_for_actors, asked_for_actors
from seqrl.errors import UserError
from seqrl.nets import RewardScale
from seqrl.run_folder import CHECKPOINT, config_to_json, create_folder, read_metrics, read_saved_step

pytestmark = pytest.mark.usefixtures("forked_actors")


def receive_until(engine, condition, seconds=300):
    """The actors whose trajectories were received until `condition(actors)`."""
    seen, end = [], time.monotonic() + seconds
    while not condition(seen):
        assert time.monotonic() < end, f"only of {[s.actor for s in seen]}"
        seen.append(engine.receive())
    return seen


# Breaks if those that leave stay among the connections, or a new one is begun with the start of the one before it.
def test_processes_come_and_go(caplog):
    """1 → 2 → 1 → 2 actors; one that comes back begins other episodes, and none is taken for dead."""
    with closing(AsyncEngine(make_counting_actor, 1)) as engine:
        engine.publish(counting_agent().state_dict(), 0)
        engine.receive()
        engine.resize(2)
        grown = receive_until(engine, lambda seen: {s.actor for s in seen} == {0, 1})
        engine.resize(1)
        receive_until(engine, lambda seen: len(seen) > 20 and {s.actor for s in seen[-10:]} == {0})
        assert list(engine.processes) == [0]
        leaving = list(engine.leaving)
        engine.resize(2)
        back = receive_until(engine, lambda seen: 1 in {s.actor for s in seen})
        metrics = engine.metrics()
    assert not any(process.is_alive() for process in leaving)
    first, again = (next(s.trajectory.inputs for s in seen if s.actor == 1) for seen in (grown, back))
    assert again.is_first[0].all()
    assert not (again.observation == first.observation).all()
    assert (metrics["num_actors"], metrics["actors_restarted"]) == (2, 0)
    assert not caplog.messages


def test_the_synchronous_engine_refuses():
    with closing(SyncEngine(make_counting_actor, 1)) as engine, pytest.raises(UserError, match="--engine sync"):
        engine.resize(2)


def test_the_file(tmp_path):
    assert asked_for_actors(tmp_path, 3) == 3
    ask_for_actors(tmp_path, 12)
    assert asked_for_actors(tmp_path, 3) == 12
    (tmp_path / "num_actors").write_text("many")
    assert asked_for_actors(tmp_path, 3) == 3
    (tmp_path / "num_actors").write_text("0")
    assert asked_for_actors(tmp_path, 3) == 3


# Breaks if the columns do not grow, lose what was in them, or grow where environments are a run's only ones.
def test_the_scale_grows():
    scale, large = RewardScale(2, 0.9, grows=True), RewardScale(6, 0.9)
    reward, no, yes = torch.ones(3, 2), torch.zeros(3, 2, dtype=torch.bool), torch.ones(3, 2, dtype=torch.bool)
    for column in (0, 4, 2, 0):
        for one in (scale, large):
            one.update(reward, no, yes, column)
    assert torch.equal(scale.carry, large.carry)
    assert scale.carry.min() > 0
    small = RewardScale(2, 0.9, grows=True)
    small.load_state_dict(scale.state_dict())
    assert torch.equal(small.carry, large.carry)
    with pytest.raises(RuntimeError, match="size mismatch"):
        RewardScale(2, 0.9).load_state_dict(scale.state_dict())


def flags(folder, *more):
    args = ["train", "impala", "--env", "seqrl/TMaze-v0", "--num-envs", "2", "--hidden-size", "8", "--num-actors", "1"]
    args += ["--rollout-length", "8", "--batch-size", "2", "--checkpoint-every", "2", "--run-dir", str(folder)]
    return [*args, *more]


def wait_until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def carried(folder):
    """Columns of the scale in the last checkpoint."""
    return read_saved_step(folder) and len(load_checkpoint(folder / CHECKPOINT)[0]["scale"]["carry"])


def test_a_run_grows_while_it_trains_and_shrinks_when_it_is_resumed(tmp_path, capsys):
    """Breaks if the learner does not look at the file, or resuming does not."""
    folder = tmp_path / "run"

    def grow():
        try:
            wait_until(lambda: list(read_metrics(folder)))
            assert main(["actors", str(folder), "2"]) == 0
            wait_until(lambda: carried(folder) == 4)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=grow)
    thread.start()
    assert main(flags(folder, "--num-steps", "1000000000", "--engine", "async")) == 130
    thread.join()
    lines = list(read_metrics(folder))
    assert {line["num_actors"] for line in lines} == {1.0, 2.0}
    assert lines[-1]["actors_restarted"] == 0
    step = str(int(lines[-1]["step"]) + 640)
    assert main(["train", "--resume", str(folder), "--num-actors", "1", "--num-steps", step]) == 0
    assert {line["num_actors"] for line in list(read_metrics(folder))[len(lines) :]} == {1.0}
    assert "2 actors from the next update on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "args", "message"),
    [
        ("async", ["actors", "RUN", "0"], "--num-actors is 0: it must be at least 1"),
        ("async", ["actors", "RUN", "two"], "'two' is no number of actors: seqrl actors RUN N"),
        ("async", ["actors", "RUN"], "actors needs a run folder and a number: seqrl actors RUN N"),
        ("async", ["actors", "nowhere", "2"], "nowhere is not a run folder"),
        ("async", ["actors", "RUN", "3"], "--num-actors 3 cannot be shared equally by the 2 learners"),
        ("sync", ["actors", "RUN", "2"], "only that of impala with --engine async or ray can"),
        (
            "sync",
            ["train", "--resume", "RUN", "--num-actors", "2"],
            "only that of impala with --engine async or ray can",
        ),
    ],
)
def test_bad_input(tmp_path, capsys, monkeypatch, engine, args, message):
    folder = tmp_path / "run"
    monkeypatch.setattr(impala, "train", lambda config, resume=False: create(config))
    assert main(flags(folder, "--engine", engine, "--num-learners", "2", "--num-actors", "2")) != 2
    capsys.readouterr()
    assert main([str(folder) if arg == "RUN" else arg for arg in args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "num_actors").exists()


def create(config):
    create_folder(Path(config.run_dir), {"config.json": config_to_json("impala", config)})
