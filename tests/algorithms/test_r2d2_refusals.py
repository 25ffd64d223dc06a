"""R2D2 refuses what makes no sense, and disks without room, in one line."""

import errno
import os
import resource
from pathlib import Path

import clock  # noqa: F401  registers tests/Clock-v0
import pytest

from seqrl import checkpoint
from seqrl.algorithms import r2d2
from seqrl.cli import main
from seqrl.errors import UserError
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT

BAD = [
    ({"hidden_size": 0}, r"--hidden-size is 0: it must be at least 1"),
    ({"start_state": "warm"}, r"--start-state 'warm': choose one of zero, burn_in, stored, stored_burn_in, refresh"),
    ({"replay_storage": "tape"}, r"--replay-storage 'tape': choose memory or disk"),
    *(({name: 0}, rf"--{name.replace('_', '-')} is 0: it must be at least 1") for name in (
        "num_envs", "length", "replay_capacity", "batch_size", "rollout_length", "n_step", "target_every", "num_steps",
        "checkpoint_every")),
    *(({name: 0.0}, rf"--{name.replace('_', '-')} is 0.0: it must be above 0") for name in (
        "replay_ratio", "learning_rate", "gamma", "max_grad_norm")),
    *(({name: -1}, rf"--{name.replace('_', '-')} is -1: it must not be negative") for name in (
        "burn_in", "learning_starts", "priority_exponent", "importance_exponent", "staleness_every")),
    *(({name: 1.5}, rf"--{name.replace('_', '-')} is 1.5: it must be from 0 to 1") for name in (
        "epsilon", "priority_max_weight")),
    ({"epsilon": float("nan")}, r"--epsilon is nan: it must be from 0 to 1"),
    ({"gamma": 1.01}, r"--gamma is 1.01: it must be at most 1"),
    ({"num_steps": 2000}, r"--learning-starts 3000 of --num-steps 2000: nothing would be learnt: give more steps"),
    ({"num_steps": 3072, "replay_ratio": 1.0}, r"--learning-starts 3000 of --num-steps 3072: nothing would be learnt"),
    ({"overlap": 40}, r"--overlap 40 of sequences of --length 40: choose from 0 to 39"),
    ({"overlap": -1}, r"--overlap -1 of sequences"),
    ({"burn_in": 0}, r"--start-state stored_burn_in with --burn-in 0: give it rows"),
    ({"replay_capacity": 975}, r"--replay-capacity 975 holds no sequence of each of 16 environments: give at least"),
    ({"learning_starts": 975}, r"--learning-starts 975: the first whole sequences exist after 976 steps"),
    ({"autoreset_mode": "same_step"}, r"--autoreset-mode same_step: .*use next_step"),
    ({"engine": "steam"}, r"--engine 'steam': choose one of sync, async, ray"),
    ({"num_actors": 0}, r"--num-actors is 0: it must be at least 1"),
    ({"replay_shards": -1}, r"--replay-shards is -1: it must not be negative"),
    ({"first_priority": "last"}, r"--first-priority 'last': choose one of auto, largest, acted"),
    ({"num_actors": 2, "learning_starts": 1951}, r"--learning-starts 1951: .* after 1952 steps"),
    ({"num_actors": 4, "replay_capacity": 5119}, r"--replay-capacity 5119 holds no sequence of each of 64 envi"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_bad_settings_are_refused(settings, message):
    r2d2.check(r2d2.Config(env="CartPole-v1"))
    with pytest.raises(UserError, match=message):
        r2d2.check(r2d2.Config(env="CartPole-v1", **settings))


TINY = ["--num-envs", "2", "--rollout-length", "8", "--hidden-size", "8", "--length", "6", "--overlap", "2"]


TINY += ["--burn-in", "2", "--batch-size", "4", "--learning-starts", "32", "--checkpoint-every", "2"]


def refuse(capsys, args, *words):
    """Status 2, and one line on stderr with these words in it."""
    assert main(["train", "r2d2", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seqrl: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


# Breaks if the run's folder is made before the agent.
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--env", "seqrl/TMaze-v0", "--memory", "transformer", "--start-state", "stored"], ["--start-state burn_in"]),
        (["--env", "seqrl/MaskedPendulum-v0"], ["no value for each action", "Discrete", "or ppo or recurrent_sac"]),
        (["--env", "seqrl/TMaze-v0", "--start-state", "stord"], ["stord"]),
        ([], ["no environment given"]),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, args, words):
    refuse(capsys, [*args, *TINY, "--run-dir", str(tmp_path / "run")], *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_no_room_for_the_replay(tmp_path, capsys, monkeypatch, storage):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    args = ["--env", "seqrl/TMaze-v0", *TINY, "--num-steps", "128", "--replay-storage", storage]
    args += ["--run-dir", str(tmp_path / "run")]
    monkeypatch.setattr(os, "posix_fallocate", full)
    words = [str(tmp_path / "run" / "replay"), "No space left on device", "--replay-capacity"]
    refuse(capsys, args, *words)
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0  # once there is room


# Breaks if OSError is not caught where a checkpoint is written.
@pytest.mark.parametrize("how", ["no space", "too large"])
def test_no_room_for_a_checkpoint(tmp_path, capsys, monkeypatch, how):
    """The checkpoint before stays whole, and the run can go on once there is room."""
    folder: Path = tmp_path / "run"
    limits, save, saved = resource.getrlimit(resource.RLIMIT_FSIZE), Run.save, []

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def second(self, parts, counters):
        if saved and how == "no space":
            monkeypatch.setattr(checkpoint.os, "fsync", full)
        elif saved:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            save(self, parts, counters)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        saved.append((folder / CHECKPOINT).read_bytes())

    monkeypatch.setattr(Run, "save", second)
    args = ["--env", "seqrl/TMaze-v0", *TINY, "--num-steps", "128", "--replay-capacity", "200"]
    reason = {"no space": "No space left on device", "too large": "File too large"}[how]
    refuse(capsys, [*args, "--run-dir", str(folder)], str(folder), reason, "free some space")
    monkeypatch.undo()
    assert len(saved) == 1
    assert (folder / CHECKPOINT).read_bytes() == saved[0]
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert main(["train", "--resume", str(folder)]) == 0
