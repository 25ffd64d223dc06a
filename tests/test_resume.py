"""A run that was stopped at any moment and resumed ends bit for bit as one that was not stopped."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from seqrl import checkpoint
from seqrl.algorithms import impala, load, ppo, r2d2, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.errors import UserError
from seqrl.evaluations import Evaluations
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_finished_step, read_metrics, read_saved_step
from seqrl.trajectory import tree_flatten

NUM_UPDATES = 8


def config(**settings: Any) -> ppo.Config:
    defaults = {"num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_epochs": 2, "num_minibatches": 2}
    return ppo.Config(**{**defaults, "num_steps": 32 * NUM_UPDATES, "checkpoint_every": 3, **settings})


def replay_config(**settings: Any) -> r2d2.Config:
    """R2D2 on a ring of hardly more rows than a checkpoint counts on: 8 updates write more than it holds."""
    defaults = {"num_envs": 4, "rollout_length": 8, "hidden_size": 8, "length": 5, "overlap": 2, "burn_in": 2}
    defaults |= {"batch_size": 4, "learning_starts": 40, "replay_capacity": 48, "replay_ratio": 2.0, "target_every": 3}
    defaults |= {"staleness_every": 2, "importance_exponent": 0.4}
    return r2d2.Config(**{**defaults, "num_steps": 32 * NUM_UPDATES, "checkpoint_every": 3, **settings})


def actors_config(**settings: Any) -> impala.Config:
    """IMPALA with four actors, of which two act for an update: at a checkpoint it is the third one's turn."""
    defaults = {"num_envs": 2, "num_actors": 4, "rollout_length": 8, "hidden_size": 8, "batch_size": 2}
    return impala.Config(**{**defaults, "num_steps": 32 * NUM_UPDATES, "checkpoint_every": 3, **settings})


CONFIGS: dict[str, Any] = {
    "batched": config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), target_kl=0.01),
    "gymnasium": config(env="CartPole-v1", hide=(1, 3), memory="lstm", previous_action=True),
    "gymnasium, noise": config(env="CartPole-v1", flicker=0.3, noise=0.1, previous_reward=True, num_steps=250),
    "same step": config(env="CartPole-v1", autoreset_mode="same_step", memory="frame_stack"),
    "burn-in": config(
        env="seqrl/MaskedPendulum-v0", memory="linear", bptt_length=4, burn_in=3, noise_correlation=0.7,
        previous_action=True, previous_reward=True, normalize_observations=True, squash=True, refresh_states=True,
        env_kwargs=("max_episode_steps=11",), flicker=0.2, noise=0.1,
    ),
    "burn-in, gymnasium": config(env="Pendulum-v1", bptt_length=2, burn_in=5, noise_correlation=0.5, hide=(2,)),
    "transformer": config(env="seqrl/RepeatPrevious-v0", memory="transformer", previous_action=True),
    "transformer, burn-in": config(env="seqrl/RepeatPrevious-v0", memory="transformer", burn_in=3),
    "no memory": config(env="seqrl/Tiger-v0", memory="none", learning_rate_schedule="constant"),
    "replay": replay_config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), start_state="refresh"),
    "replay, disk": replay_config(
        env="seqrl/TMaze-v0", env_kwargs=("length=3",), memory="lstm", replay_storage="disk",
    ),
    "replay, gymnasium": replay_config(env="CartPole-v1", hide=(1, 3), priority_exponent=0.0),
    "replay, gymnasium, disk": replay_config(
        env="CartPole-v1", hide=(1, 3), start_state="refresh", replay_storage="disk"
    ),
    "replay, actors": replay_config(
        env="seqrl/TMaze-v0", env_kwargs=("length=3",), start_state="refresh", num_envs=2, num_actors=2,
        rollout_length=16, checkpoint_every=3, replay_capacity=96, learning_starts=64, forced_lag=2,
    ),
    "replay, actors, gymnasium, disk": replay_config(
        env="CartPole-v1", hide=(1, 3), memory="lstm", num_actors=3, replay_capacity=144, learning_starts=96,
        replay_storage="disk",
    ),
    "actors": actors_config(env="seqrl/TMaze-v0", env_kwargs=("length=3",)),
    "best kept, gymnasium": config(
        env="CartPole-v1", hide=(1, 3), num_evaluations=5, evaluation_episodes=2, keep="best"
    ),
    "best kept, actors": actors_config(
        env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_evaluations=5, evaluation_episodes=2, keep="best"
    ),
    "actors, lag, replay": actors_config(
        env="seqrl/MaskedPendulum-v0", memory="lstm", forced_lag=2, batch_size=4, replay_share=0.5, replay_capacity=5,
        env_kwargs=("max_episode_steps=11",), noise_correlation=0.5,
    ),
    "mixed actions, gymnasium": config(
        env="mixed_actions:MixedCue-v0", previous_action=True, noise_correlation=0.5
    ),
    "actors, mixed actions, gymnasium": actors_config(
        env="mixed_actions:MixedCue-v0", forced_lag=1, noise_correlation=0.5
    ),
    "average and best kept, noise": config(
        env="seqrl/MaskedPendulum-v0", env_kwargs=("max_episode_steps=11",), weight_average=0.9, noise_correlation=0.7,
        target_kl=0.01, num_evaluations=5, evaluation_episodes=2, keep="best",
    ),
    "teacher, trials, burn-in": config(
        env="seqrl/TabularMDP-v0", env_kwargs=("num_episodes=2", "horizon=3"), teacher_weight=1.0, weight_average=0.9,
        previous_action=True, previous_reward=True, bptt_length=4, burn_in=3,
    ),
    "replay, best kept, gymnasium": replay_config(
        env="CartPole-v1", hide=(1, 3), first_priority="acted", num_evaluations=5, evaluation_episodes=2, keep="best"
    ),
    "actors, gymnasium": actors_config(env="CartPole-v1", hide=(1, 3), forced_lag=1, previous_action=True),
}  # fmt: skip
SAVED = "batched"  # its environment is saved with the checkpoint
NOT_SAVED = "gymnasium"  # its environment begins new episodes at each checkpoint
BY_THE_CLOCK = ("steps_per_second", "actor_utilisation", "learner_utilisation")  # metrics that no two runs share
REPLAYS = [name for name in CONFIGS if name.startswith("replay")]


class Crash(BaseException):
    """The end of the process, as far as the code under test can tell."""


@lru_cache
def uninterrupted(name: str) -> Path:
    folder = Path(mkdtemp()) / "run"
    train(replace(CONFIGS[name], run_dir=str(folder)))
    return folder


def metrics(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in BY_THE_CLOCK} for line in read_metrics(folder)]


def assert_same_run(one: Path, other: Path) -> None:
    """The checkpoints (weights, optimiser, statistics, generators, environments) and all that was logged."""
    (tree_1, counters_1), (tree_2, counters_2) = (load_checkpoint(path / CHECKPOINT) for path in (one, other))
    assert counters_1 == counters_2
    leaves_1, leaves_2 = tree_flatten(tree_1), tree_flatten(tree_2)
    assert leaves_1.keys() == leaves_2.keys()
    different = [key for key in leaves_1 if not torch.equal(leaves_1[key], leaves_2[key])]
    assert not different
    steps = [line["step"] for line in metrics(one)]
    assert steps == [32 * (k + 1) for k in range(len(steps))]
    assert metrics(one) == metrics(other)


def crash_in_log(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None] | None = None) -> None:
    """Let the `number`th call of Run.log crash, or do `action`, after it has written its line."""
    calls, log = 0, Run.log

    def counting(self: Run, step: int, values: dict[str, float]) -> None:
        nonlocal calls
        calls += 1
        log(self, step, values)
        if calls == number:
            if action is None:
                raise Crash
            action()

    monkeypatch.setattr(Run, "log", counting)


MOMENTS = [(name, number) for name in (SAVED, NOT_SAVED) for number in (1, 2, 3, 5, NUM_UPDATES)]
MOMENTS += [(name, 5) for name in CONFIGS if name not in (SAVED, NOT_SAVED)]
MOMENTS += [(name, 8) for name in REPLAYS]  # when the ring has wrapped


@pytest.mark.parametrize(("name", "number"), MOMENTS)
def test_crash_after_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    # Each of these breaks some of the cases: leaving `learner`, `sequences`, `scale` or `environment` out of the parts
    # in TrainingState; leaving `noise`, `mask`, `state` or `generator` out of Rollout.state_dict; `restart` without a
    # seed; `_truncate_metrics` that does nothing; `slack` 0 in the replay (the last of REPLAYS, number 8); `replay` or
    # `target` left out of the parts; `interrupt` left out of `_begin_new_episodes`; `turn`, `weights` or `actors` left
    # out of SyncEngine.state_dict; `trajectories` left out of impala's parts; `average` or `evaluations` out of ppo's.
    folder = tmp_path / "run"
    crash_in_log(monkeypatch, number)
    with pytest.raises(Crash):
        train(replace(CONFIGS[name], run_dir=str(folder)))
    monkeypatch.undo()
    assert read_saved_step(folder) == 32 * (number - 1) // (3 * 32) * (3 * 32)
    agent = resume(folder)
    assert_same_run(folder, uninterrupted(name))
    for key, value in agent.state_dict().items():
        assert torch.equal(value, load(uninterrupted(name)).state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in (SAVED, NOT_SAVED) for number in (1, 3)] + [(name, 3) for name in REPLAYS],
)
def test_crash_inside_the_write_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    # Breaks when write_atomically writes to `path` itself, or `slack` is 0 in a replay: its files are ahead by then.
    folder, writes = tmp_path / "run", 0

    def counting(source: Path, target: Path) -> None:
        nonlocal writes
        writes += Path(target).name == CHECKPOINT
        if writes == number:
            raise Crash
        os.rename(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", counting)
    with pytest.raises(Crash):
        train(replace(CONFIGS[name], run_dir=str(folder)))
    monkeypatch.undo()
    assert read_saved_step(folder) == (number - 1) * 3 * 32
    resume(folder)
    assert_same_run(folder, uninterrupted(name))


@pytest.mark.parametrize("name", ["average and best kept, noise", "replay, best kept, gymnasium"])
@pytest.mark.parametrize("number", [3, 5])
def test_crash_inside_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """The last one, behind the last update, among them. Breaks when `best_return` is left out of a checkpoint."""
    folder, calls, play = tmp_path / "run", 0, Evaluations._play

    def counting(self: Evaluations, purpose: int) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == number:
            raise Crash
        return play(self, purpose)

    monkeypatch.setattr(Evaluations, "_play", counting)
    with pytest.raises(Crash):
        train(replace(CONFIGS[name], run_dir=str(folder)))
    monkeypatch.undo()
    resume(folder)
    assert_same_run(folder, uninterrupted(name))


def test_crash_while_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, and once inside the write of the shortened log."""
    folder = tmp_path / "run"
    crash_in_log(monkeypatch, 5)
    with pytest.raises(Crash):
        train(replace(CONFIGS[SAVED], run_dir=str(folder)))
    for _ in range(3):
        monkeypatch.undo()
        crash_in_log(monkeypatch, 2)
        with pytest.raises(Crash):
            resume(folder)
    monkeypatch.undo()

    def crash(*args: object) -> None:
        raise Crash

    monkeypatch.setattr(checkpoint.os, "replace", crash)
    with pytest.raises(Crash):
        resume(folder)
    monkeypatch.undo()
    resume(folder)
    assert_same_run(folder, uninterrupted(SAVED))


def test_a_line_cut_short_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    crash_in_log(monkeypatch, 5)
    with pytest.raises(Crash):
        train(replace(CONFIGS[SAVED], run_dir=str(folder)))
    monkeypatch.undo()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 192, "episode_re')
    assert read_finished_step(folder) == 160
    resume(folder)
    assert_same_run(folder, uninterrupted(SAVED))


@pytest.mark.parametrize("name", [SAVED, NOT_SAVED])
def test_a_finished_run_stays_as_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    train(replace(CONFIGS[name], run_dir=str(folder)))
    before = (folder / CHECKPOINT).read_bytes(), (folder / "metrics.jsonl").read_bytes()
    resume(folder)
    assert before == ((folder / CHECKPOINT).read_bytes(), (folder / "metrics.jsonl").read_bytes())


def test_longer_than_at_first(tmp_path: Path) -> None:
    """With a constant learning rate, a run that is lengthened equals one that was that long from the start."""
    folder = tmp_path / "run"
    train(replace(CONFIGS["no memory"], run_dir=str(folder), num_steps=32 * 3))
    resume(folder, num_steps=32 * NUM_UPDATES)
    assert_same_run(folder, uninterrupted("no memory"))


def test_a_checkpoint_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in one line that says what differs; nothing in the folder changes, the log included."""
    # Breaks when the log is shortened before the checkpoint was read.
    folder = tmp_path / "run"
    train(replace(CONFIGS[SAVED], run_dir=str(folder)))
    settings = json.loads((folder / "config.json").read_text())
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 999, "policy_loss": 0.5}\n')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change, words in (
        ({"hidden_size": 16}, "size mismatch"),
        ({"memory": "lstm"}, "agent: "),
        ({"num_envs": 8}, "scale: "),
    ):
        (folder / "config.json").write_text(json.dumps(settings | change))
        assert main(["train", "--resume", str(folder)]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"{CHECKPOINT} does not fit" in message
        assert words in message
        (folder / "config.json").write_bytes(before[folder / "config.json"])
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Breaks when ppo.train does not call save_interrupted.
    folder = tmp_path / "run"
    flags = ["train", "ppo", "--env", "seqrl/TMaze-v0", "--env-kwargs", "length=3", "--target-kl", "0.01"]
    flags += ["--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8", "--num-epochs", "2"]
    flags += ["--num-minibatches", "2", "--num-steps", str(32 * NUM_UPDATES), "--checkpoint-every", "3"]
    crash_in_log(monkeypatch, 5, interrupt)
    assert main([*flags, "--run-dir", str(folder)]) == 130
    monkeypatch.undo()
    message = f"seqrl: interrupted at step 160; continue with: seqrl train --resume {folder}\n"
    assert capsys.readouterr().err == message
    assert read_saved_step(folder) == 160
    assert main(["train", f"--resume={folder}"]) == 0
    assert_same_run(folder, uninterrupted(SAVED))


def test_ctrl_c_where_the_environment_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last checkpoint stays: one more would begin new episodes where the uninterrupted run does not."""
    # Breaks when save_interrupted always saves.
    folder = tmp_path / "run"
    train(replace(CONFIGS[NOT_SAVED], run_dir=str(folder), num_steps=96))
    before = (folder / CHECKPOINT).read_bytes()
    crash_in_log(monkeypatch, 2, interrupt)
    assert main(["train", "--resume", str(folder), "--num-steps", "256"]) == 130
    monkeypatch.undo()
    assert "interrupted at step 160, saved at step 96; continue with" in (message := capsys.readouterr().err)
    assert message.endswith(f"--resume {folder} --num-steps 256\n")
    assert (folder / CHECKPOINT).read_bytes() == before


def test_a_second_ctrl_c_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train(replace(CONFIGS[SAVED], run_dir=str(folder), num_steps=96))
    crash_in_log(monkeypatch, 2, lambda: (interrupt(), interrupt())[0])
    assert main(["train", "--resume", str(folder), "--num-steps", "256"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert read_saved_step(folder) == 96
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _train(settings: Any) -> None:
    resume(settings.run_dir) if Path(settings.run_dir).exists() else train(settings)


SELDOM = [pytest.param(name, marks=pytest.mark.slow) for name in (NOT_SAVED, "actors, lag, replay")]


@pytest.mark.parametrize("name", [SAVED, "replay, gymnasium, disk", *SELDOM])
def test_kill_minus_nine_at_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_context: Any, name: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = replace(CONFIGS[name], num_steps=32 * 30, run_dir=str(tmp_path / "killed"))
    chance, kills = random.Random(name), 0
    folder = Path(settings.run_dir)
    while kills < 3:
        process = forked_context.Process(target=_train, args=(settings,))
        process.start()
        before = metrics(folder)[-1:]
        while process.is_alive() and metrics(folder)[-1:] == before:
            time.sleep(0.001)  # until it trains
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was too quick: begin anew
            os.rename(folder, tmp_path / f"finished {time.monotonic()}")
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    resume(folder)
    straight = replace(settings, run_dir=str(tmp_path / "straight"))
    train(straight)
    assert_same_run(folder, Path(straight.run_dir))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        resume(tmp_path)
