"""What a run plays, as histories: every decision once, in its order, with the action that the environment took."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.algorithms import ppo, resume, train
from seqrl.data import EpisodeDataset, Rollout
from seqrl.data.histories import check_histories
from seqrl.data.recorder import HistoryRecorder
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.run import Run
from tests.clock import Clock, counting_agent

MODES = ["next_step", "same_step", "disabled"]


# Break: final observations kept (no `[mask]` on observation), or `previous_action[:-1]`.
@pytest.mark.parametrize("mode", MODES)
def test_the_history_is_what_was_played(tmp_path, mode):
    """The clock's next observation tells each action, its reward the episode, the time and the action."""
    environment = make("tests/Clock-v0", 3, autoreset_mode=mode)
    rollout = Rollout(environment, counting_agent(), seed=0)
    recorder = HistoryRecorder(tmp_path / "log", Clock.observation_space, Clock.action_space, {})
    decisions = 0
    for _ in range(4):
        trajectory, _ = rollout.collect(7)
        decisions += trajectory.mask.sum(0)
        recorder.add(trajectory)
    recorder.write()
    log = EpisodeDataset.open(tmp_path / "log")
    check_histories(log)
    assert log.lengths.tolist() == decisions.tolist()
    for k in range(3):
        history = log.episode(k)
        (episode, time, _), start = history.observation["observation"].T, history.observation["episode_start"]
        assert np.array_equal(start[:-1] == 1, time[:-1] == 0)
        np.testing.assert_allclose(history.reward, 10 * episode[:-1] + time[:-1] + 1 + 0.1 * history.action, rtol=1e-6)
        same = episode[1:] == episode[:-1]
        assert np.array_equal(time[1:][same], time[:-1][same] + 1)
        assert np.array_equal(episode[1:][~same], episode[:-1][~same] + 1)
        assert np.array_equal(history.observation["observation"][1:, 2][same], history.action[same])
        assert history.terminated != history.truncated


def config(tmp_path, **settings):
    defaults = {"env": "tests/Clock-v0", "num_envs": 4, "rollout_length": 8, "num_steps": 96, "hidden_size": 8}
    paths = {"run_dir": str(tmp_path / "run"), "record": str(tmp_path / "log")}
    return ppo.Config(**{**defaults, "checkpoint_every": 1, **paths, **settings})


def test_training_records_a_history_of_each_environment(tmp_path):
    """The clock begins new episodes at every checkpoint: those are inner episodes too, and no row is lost."""
    train(config(tmp_path))
    log = EpisodeDataset.open(tmp_path / "log")
    assert log.num_episodes == 4
    assert log.about["config"]["env"] == "tests/Clock-v0"
    cut = [np.flatnonzero(log.episode(k).observation["episode_start"][:-1]) for k in range(4)]
    assert all(len(starts) >= 3 for starts in cut)
    assert int(log.lengths.sum()) <= 96
    assert int(log.lengths.sum()) + sum(len(starts) for starts in cut) >= 96  # a masked row for each end, at most


def test_recorded_continuous_actions_are_those_that_the_environment_took(tmp_path):
    train(config(tmp_path, env="seqrl/MaskedPendulum-v0", num_steps=32))
    log = EpisodeDataset.open(tmp_path / "log")
    assert isinstance(log.action_space, gym.spaces.Box)
    assert np.abs(log.action).max() <= 2.0  # torque; the raw draws are in units of half the range
    assert np.abs(log.action).max() > 1.0


# Break: the environment's space in place of the agent's in `HistoryRecorder.of`.
def test_what_is_revealed_to_the_learner_is_not_recorded(tmp_path):
    trial = {"env": "seqrl/Bandit-v0", "env_kwargs": ("num_episodes=4",), "rollout_length": 5, "num_steps": 40}
    train(config(tmp_path, teacher_weight=0.5, learn_from_regret=True, **trial))
    log = EpisodeDataset.open(tmp_path / "log")
    assert set(log.observation["observation"]) == {"observation", "episode_start"}


def test_recording_draws_nothing(tmp_path):
    recorded = train(config(tmp_path))
    plain = train(config(tmp_path, record="", run_dir=str(tmp_path / "plain")))
    for a, b in zip(recorded.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Crash(BaseException):
    """The end of the process, as far as the code under test can tell."""


def test_a_recorded_run_is_whole_or_not_at_all(tmp_path, monkeypatch):
    def crashing(self, step, metrics):
        raise Crash

    monkeypatch.setattr(Run, "log", crashing)
    with pytest.raises(Crash):
        train(config(tmp_path))
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if "log" in path.name]
    with pytest.raises(UserError, match=r"records what it plays .* train it again from the start") as error:
        resume(tmp_path / "run")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="exists already"):
        train(config(tmp_path, record=str(tmp_path / "run"), run_dir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


# Breaks if the folder is first tried when all is played: what was recorded would be lost.
def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    config = ppo.Config(env="seqrl/TMaze-v0", run_dir=str(tmp_path / "run"), record=str(tmp_path / "file" / "log"))
    with pytest.raises(UserError, match=r"cannot write to .*log .*: choose another --record"):
        train(config)
    with pytest.raises(UserError, match=r"is the run.s own folder"):
        train(replace(config, record=config.run_dir))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
