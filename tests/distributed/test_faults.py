"""Actors, and learners, killed under whole training runs. The slow ones take two minutes for each engine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
from clock import Clock

from benchmarks import faults
from benchmarks.faults import kill_actors, processes_of
from seqrl.algorithms import impala, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.data import TrajectoryReplay
from seqrl.run_folder import CHECKPOINT, read_metrics, read_saved_step

MINUTES, EVERY = 2.0, 5.0
pytestmark = [
    pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes under /proc"),
    pytest.mark.usefixtures("forked_actors"),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["async", "ray"])
def test_the_learner_goes_on_while_actors_are_killed(engine, tmp_path):
    """One of two actors every five seconds: the learner never stops, they come back, and all is counted."""
    if engine == "ray":
        pytest.importorskip("ray")
    row = kill_actors(tmp_path / "run", engine, MINUTES, EVERY)
    print(row)
    assert row["killed"] > 60 * MINUTES / EVERY / 2
    assert row["killed"] - 2 <= row["actors_restarted"] <= row["killed"]
    assert row["trajectories_lost"] == row["actors_restarted"]
    assert row["learnt_in"] > 0.8 * row["intervals"]  # it went on between nearly any two kills
    assert faults.resume(tmp_path / "run", row["last_step"] + 20_000) == ""


class Stuck(Clock):
    """Does not come back from its hundredth step where the file `block` is, and says so in a file beside it."""

    steps = 0

    def __init__(self, block):
        super().__init__()
        self.block = Path(block)

    def step(self, action):
        self.steps += 1
        while self.steps >= 100 and self.block.exists():
            self.block.with_name("stuck").touch()
            time.sleep(0.1)
        return super().step(action)


gym.register("tests/Stuck-v0", entry_point=Stuck, disable_env_checker=True)


def small(folder, **changes):
    defaults = {"env": "clock:tests/Clock-v0", "num_envs": 2, "num_actors": 1, "hidden_size": 8, "rollout_length": 8}
    defaults |= {"engine": "async", "batch_size": 2, "replay_share": 0.5, "replay_capacity": 7, "checkpoint_every": 5}
    return impala.Config(**{**defaults, "num_steps": 10**9, "run_dir": str(folder), **changes})


def train_in_a_session(config):
    os.setsid()
    train(config)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def goes_on(folder, num_steps):
    """Resume a run whose learner was killed: from its last checkpoint, with its replay, to the end."""
    step = read_saved_step(folder)
    tree, counters = load_checkpoint(folder / CHECKPOINT)
    assert counters["updates"] % 5 == 0
    versions = tree["trajectories"]["versions"].tolist()
    assert len(versions) == 7
    seen = []
    load = TrajectoryReplay.load_state_dict

    def loading(replay, state):
        load(replay, state)
        seen.append([version for _, version in replay.rows])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrajectoryReplay, "load_state_dict", loading)
        resume(folder, step + num_steps)
    assert seen == [versions]
    steps = [line["step"] for line in read_metrics(folder)]
    assert steps == sorted(set(steps))
    assert step in steps
    assert steps[-1] >= step + num_steps
    assert read_saved_step(folder) == steps[-1]
    assert load_checkpoint(folder / CHECKPOINT)[1]["updates"] > counters["updates"]


# Breaks without `end_with_parent` in an actor's process: one that its environment holds back never looks at its pipe.
@pytest.mark.parametrize("stuck", [False, True])
def test_a_learner_that_is_killed_leaves_nothing_and_can_go_on(tmp_path, stuck, forked_context):
    folder, block = tmp_path / "run", tmp_path / "block"
    if stuck:
        block.touch()
    # The file's name travels with the configuration: a fork server that another test started keeps its own variables.
    held = {"env": "test_faults:tests/Stuck-v0", "env_kwargs": (f"block={block}",)}
    config = small(folder, **(held if stuck else {}))
    process = forked_context.Process(target=train_in_a_session, args=(config,))
    process.start()
    try:
        wait_until(lambda: read_saved_step(folder) >= (64 if stuck else 160))
        if stuck:
            wait_until((tmp_path / "stuck").exists)
        assert len(processes_of(process.pid)) >= 2
    finally:
        process.kill()
        process.join()
    wait_until(lambda: not processes_of(process.pid), 10)
    block.unlink(missing_ok=True)
    goes_on(folder, 160)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["async", "ray"])
def test_the_command_line_goes_on_after_its_learner_was_killed(engine, tmp_path):
    """kill −9, and what Ray runs of its own ends too; another number of actors goes on where the one before was."""
    if engine == "ray":
        pytest.importorskip("ray")
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "seqrl", "train"]
    flags = ["impala", "--env", "CartPole-v1", "--vectorization", "async", "--num-envs", "2", "--hidden-size", "8"]
    flags += ["--rollout-length", "8", "--replay-share", "0.5", "--replay-capacity", "7", "--checkpoint-every", "5"]
    flags += ["--num-steps", "1000000000", "--run-dir", str(folder), "--engine", engine]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*command, *flags], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: run.poll() is not None or read_saved_step(folder) >= 800, 300)
        assert run.poll() is None, (tmp_path / "log").read_text()
        before = processes_of(run.pid)
        run.kill()
        run.wait()
        wait_until(lambda: not [pid for pid, words in before.items() if alive(pid) and b"Agent" not in words], 30)
        wait_until(lambda: not [pid for pid in before if alive(pid)], 150)  # Ray's own agents look once a minute
        assert not processes_of(run.pid)
    finally:
        subprocess.run(["pkill", "-9", "-s", str(run.pid)], check=False)
    assert len(before) >= 1 + 2 + 2 * 2  # the learner, its actors and their environments
    step = read_saved_step(folder)
    resumed = subprocess.run(
        [*command, "--resume", str(folder), "--num-actors", "3", "--num-steps", str(step + 1600)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    lines = [line for line in read_metrics(folder) if line["step"] > step]
    assert lines[-1]["step"] >= step + 1600
    assert {line["num_actors"] for line in lines} == {3.0}


def alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
