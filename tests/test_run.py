"""A run's folder: what is in it, what is read back, and the bar that is shown meanwhile."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import seqrl
from seqrl import progress
from seqrl import run as run_module
from seqrl.agent import Agent
from seqrl.algorithms import load, ppo, read_config, resume, train
from seqrl.config import make_environment
from seqrl.errors import UserError
from seqrl.run import Run
from seqrl.run_folder import (
    config_from_json,
    config_to_json,
    create_folder,
    default_run_dir,
    read_finished_step,
    read_last_metrics,
    read_metrics,
    read_saved_step,
    read_spaces,
)

CONFIG = ppo.Config(
    env="seqrl/MaskedPendulum-v0", num_envs=4, rollout_length=8, hidden_size=8, num_epochs=1, num_minibatches=2,
    num_steps=96, checkpoint_every=2, previous_action=True, normalize_observations=True,
    env_kwargs=("max_episode_steps=9",),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Agent]:
    """A finished run, which tests only read, and the agent that training returned."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, train(replace(CONFIG, run_dir=str(folder)))


def actions(agent: Agent) -> np.ndarray:
    """What an agent does over twenty steps of its environments: one wrong bit changes all that follows."""
    environment = make_environment(CONFIG)
    step = environment.reset(5)
    agent.reset()
    taken = []
    for _ in range(20):
        taken.append(agent.act(step.observation, is_first=step.is_first))
        step = environment.step(torch.from_numpy(taken[-1]))
    return np.stack(taken)


def test_what_is_in_the_folder(trained: tuple[Path, Agent]) -> None:
    folder, _ = trained
    config = json.loads((folder / "config.json").read_text())
    assert config["type"] == "ppo"
    assert config["env"] == CONFIG.env
    spaces = json.loads((folder / "spaces.json").read_text())
    assert spaces["action"]["type"] == "Box"
    assert read_config(folder) == replace(CONFIG, run_dir=str(folder))
    lines = list(read_metrics(folder))
    assert [line["step"] for line in lines] == [32, 64, 96]
    assert {"episode_return", "policy_loss", "kl", "grad_norm", "steps_per_second"} <= set(lines[-1])
    assert read_finished_step(folder) == read_saved_step(folder) == 96
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert os.stat(folder).st_mode & 0o777 == 0o755


def test_a_loaded_agent_acts_as_the_trained_one(trained: tuple[Path, Agent], tmp_path: Path) -> None:
    # Breaks when the encoder's running statistics are not buffers that are saved.
    folder, agent = trained
    expected = actions(agent)
    assert np.array_equal(actions(load(folder)), expected)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "run")
    assert np.array_equal(actions(seqrl.load(str(moved))), expected)
    assert np.array_equal(actions(resume(moved)), expected)
    assert not np.array_equal(actions(ppo.build(CONFIG, agent.observation_space, agent.action_space)), expected)


def test_a_moved_run_goes_on_where_it_is(trained: tuple[Path, Agent], tmp_path: Path) -> None:
    folder, _ = trained
    before = (folder / "metrics.jsonl").read_bytes()
    moved = shutil.copytree(folder, tmp_path / "moved")
    resume(moved, num_steps=128)
    assert read_finished_step(moved) == 128
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_tensorboard_shows_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Breaks with purge_step=None in Run.begin: what was repeated shows twice.
    folder, log = tmp_path / "run", Run.log

    def crash_at_the_end(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        if step == 96:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", crash_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        train(replace(CONFIG, run_dir=str(folder)))
    monkeypatch.undo()
    resume(folder)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("policy_loss")] == [32, 64, 96]


@pytest.mark.parametrize("num_lines", [0, 1, 3, 500])
@pytest.mark.parametrize("unfinished", ["", '{"step": 7, "episode_ret'])
def test_the_last_metrics(tmp_path: Path, num_lines: int, unfinished: str) -> None:
    """As read from all lines; an episode's return may be some lines back."""
    lines = [
        {"step": k, "x": 0.5 * k} | ({"episode_return": -float(k)} if k % 3 == 0 else {}) for k in range(num_lines)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + unfinished)
    expected: dict[str, float] = {}
    for line in read_metrics(tmp_path):
        expected |= line
    assert read_last_metrics(tmp_path) == expected
    assert read_last_metrics(tmp_path / "nothing yet") == {}


def test_a_metric_that_is_not_finite(trained: tuple[Path, Agent], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    with Run(folder, 200, "test") as run:
        run.begin(96)
        with pytest.raises(UserError, match=r"kl is nan at step 128: .*--learning-rate"):
            run.log(128, {"kl": float("nan")})
    assert (folder / "metrics.jsonl").read_bytes() == before


# Breaks if Run.log or Run.save says that a checkpoint is kept without having looked for one.
def test_no_checkpoint_is_promised_before_the_first(
    trained: tuple[Path, Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    folder = shutil.copytree(trained[0], tmp_path / "run")
    for is_there in (True, False):
        with Run(folder, 200, "test") as run:
            run.begin(96)
            with pytest.raises(UserError) as error:
                run.log(128, {"kl": float("nan")})
        assert ("is kept" in str(error.value)) == is_there
        with pytest.raises(UserError) as error:
            run.save({}, {})
        assert ("is kept" in str(error.value)) == is_there
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)


# Breaks if Run.begin or Run.open takes no lock, or the end of a run does not give it back.
def test_one_process_at_a_time_trains_a_folder(trained: tuple[Path, Agent], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    holder = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", holder, str(folder / "config.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()  # by now it has the lock
        again, spaces = replace(CONFIG, run_dir=str(folder)), read_spaces(folder)
        for attempt in (
            lambda: resume(folder, num_steps=128),
            lambda: Run.open(again, *spaces, resume=True),  # before the checkpoint is read
            lambda: Run(folder, 200, "test").begin(96),
        ):
            with pytest.raises(UserError, match=f"{folder} is being trained by another process: wait for it, or stop"):
                attempt()
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        load(folder)  # to read it needs no lock
        other.kill()
    resume(folder, num_steps=128)
    assert read_finished_step(folder) == 128
    with Run(folder, 200, "test") as run:
        run.begin(128)
        with pytest.raises(UserError, match="another process"):
            resume(folder, num_steps=160)
    resume(folder, num_steps=160)


# Breaks without errors="replace", or where a space is read without looking for what is wrong with it.
@pytest.mark.parametrize(
    "spaces",
    ["{}", '{"observation": 3, "action": 4}', '{"observation": {"type": "Discrete", "n": "x", "start": 0}}'],
)
def test_damaged_files(trained: tuple[Path, Agent], tmp_path: Path, spaces: str) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 99, "kl": \xff\xfe\n')
    resume(folder, num_steps=128)
    assert [line["step"] for line in read_metrics(folder)] == [32, 64, 96, 128]
    (folder / "spaces.json").write_text(spaces)
    for attempt in (lambda: resume(folder), lambda: load(folder)):
        with pytest.raises(UserError, match=r"^.*spaces.json is damaged \(observation: .*\): restore it from a copy$"):
            attempt()


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match="No space left"):
        create_folder(tmp_path / "deep" / "run", {"config.json": {}})
    monkeypatch.undo()
    assert os.listdir(tmp_path / "deep") == []
    create_folder(tmp_path / "deep" / "run", {"config.json": {}})
    with pytest.raises(UserError, match="exists already"):
        create_folder(tmp_path / "deep" / "run", {})


def test_config_round_trip() -> None:
    for config in (ppo.Config(), CONFIG, ppo.Config(hide=(1, 3), clip=1)):
        data = json.loads(json.dumps(config_to_json("ppo", config), allow_nan=False))
        assert data["type"] == "ppo"
        assert config_from_json(data, ppo.Config, Path("x")) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [({"speed": 3}, "unknown settings"), ({"num_envs": "4"}, "num_envs '4'"), ({"num_envs": 4.0}, "num_envs 4.0"),
     ({"squash": 0}, "squash 0"), ({"hide": 3}, "hide 3"), ({"env": None}, "env None"),
     ({"gamma": True}, "gamma True")],
)  # fmt: skip
def test_a_config_with_other_types(change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config_from_json(config_to_json("ppo", CONFIG) | change, ppo.Config, Path("x"))


# Breaks without `readable`: most of these were trained, or not, with a bug's message; of 64.0 steps came a run that
# nobody could load.
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_steps": 64.0}, "num_steps=64.0 is no int: give 64$"),
        ({"num_steps": "64"}, "num_steps='64' is no int: give it without quotes$"),
        ({"seed": None}, "seed=None is no int"),
        ({"env": gym.Env()}, 'is no str: name its id, after gymnasium.register, such as "CartPole-v1" or "my_module:'),
        ({"env_kwargs": {"length": 3, "a": None}}, r"give \('length=3', 'a=null'\)$"),
        ({"env_kwargs": "length=3"}, r"give \('length=3',\)$"),
        ({"hide": "1,3"}, r"hide='1,3' is no tuple\[int \| str, ...\]: give a tuple, such as \(1, 3\)"),
        ({"memory": nn.GRU}, "memory=.* is no str"),
    ],
)
def test_settings_of_other_types_are_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        train(replace(CONFIG, run_dir=str(tmp_path / "run"), **change))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


# Breaks if a path is left as it is, which JSON cannot hold, or if a list is refused.
def test_a_path_and_a_list_will_do(tmp_path: Path) -> None:
    few: dict[str, Any] = {"num_steps": 32, "env_kwargs": ["max_episode_steps=9"]}
    train(replace(CONFIG, run_dir=tmp_path / "run", **few))  # type: ignore[arg-type]
    assert read_config(tmp_path / "run").run_dir == str(tmp_path / "run")


def test_default_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("seqrl-TMaze-v0_gru_s3", "seqrl-TMaze-v0_gru_s3_2", "seqrl-TMaze-v0_gru_s3_3"):
        assert default_run_dir("seqrl/TMaze-v0", "gru", 3) == f"runs/{name}"
        (tmp_path / "runs" / name).mkdir(parents=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [72, 80, 120])
def test_a_bar_is_one_line(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Golden: in a narrow terminal the label alone is cut; return, speed and time left stay whole."""
    # Breaks without no_wrap on the columns, or with TextColumn in place of _LabelColumn.
    terminal = Terminal()
    console: Callable[..., Console] = Console
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "Console", lambda **_: console(file=terminal, width=width, force_terminal=True))
    with progress.progress_bar() as bar:
        name = "ppo gru seqrl/MaskedMountainCarContinuous-v0"
        task = bar.add_task(name, total=1000, episode_return=-1234.56, steps_per_second=123456.0)
        bar.update(task, completed=250)
        lines = console(width=width).render_lines(bar.get_renderable(), pad=False)
    assert len(lines) == 1
    text = "".join(segment.text for segment in lines[0])
    assert len(text) <= width
    assert text.startswith("ppo")
    for words in ("25%", "return -1234.56", "123,456 steps/s"):
        assert words in text


def test_no_bar_where_nobody_watches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    train(replace(CONFIG, run_dir=str(tmp_path / "run")))
    assert capsys.readouterr() == ("", "")


# Breaks if the numbers are not looked at: JSON has no infinity, and the folder's beginning would stay behind.
def test_settings_that_json_cannot_hold_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--max-grad-norm is inf: it must be a finite number$"):
        create_folder(tmp_path / "run", {"config.json": {"max_grad_norm": math.inf}})
    assert not list(tmp_path.iterdir())


# Breaks without the check in Run.log (training goes on for a while), or where what TensorBoard raises as it closes is
# not caught: a traceback. Also if Run.save does not look for the folder first: "free some space".
@pytest.mark.parametrize("where", ["log", "save", "evaluate"])
@pytest.mark.parametrize("fate", ["moved", "deleted"])
def test_a_folder_that_is_gone_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str, where: str
) -> None:
    folder, log, save = tmp_path / "run", Run.log, Run.save
    in_threads: list[object] = []
    monkeypatch.setattr(threading, "excepthook", in_threads.append)

    def lose() -> None:
        time.sleep(0.3)  # longer than TensorBoard's thread takes for the one flush that it does by itself, at first
        if folder.exists():
            folder.rename(tmp_path / "elsewhere") if fate == "moved" else shutil.rmtree(folder)

    def log_and_lose(self: Run, step: int, metrics: dict[str, float]) -> None:
        log(self, step, metrics)
        if step == 64 and where == "log":
            lose()
        if step == 64 and where == "evaluate":
            lose()
            raise FileNotFoundError(2, "No such file or directory", str(folder / "kept"))

    def lose_and_save(self: Run, *args: Any) -> None:
        if self.folder.exists() and where == "save":
            lose()
        save(self, *args)

    monkeypatch.setattr(Run, "log", log_and_lose)
    monkeypatch.setattr(Run, "save", lose_and_save)
    with pytest.raises(UserError) as error:
        train(replace(CONFIG, run_dir=str(folder), checkpoint_every=1))
    said = f"{folder} is gone: it was moved or deleted while training; continue with seqrl train --resume "
    assert str(error.value) == f"{said}<where it is now>"
    assert in_threads == []
    monkeypatch.undo()
    if fate == "moved" and where != "save":
        resume(tmp_path / "elsewhere")
        assert read_finished_step(tmp_path / "elsewhere") == 96


# Breaks without `lines` in progress_bar, or where a line is told at each update, or in the first half minute.
def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Golden: nothing in the first 30 seconds, then a line every 30 seconds; of several tasks only what is said."""
    clock = [0.0]
    monkeypatch.setattr(progress.Bar, "QUIET", 30.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress_bar() as bar:
        task = bar.add_task("ppo gru X-v0", total=2000, episode_return=None, steps_per_second=0.0)
        for second in range(0, 100, 5):
            clock[0] = second
            bar.update(task, completed=10 * second, steps_per_second=10.0)
            if second == 50:
                bar.update(task, episode_return=-1.234)
    assert capsys.readouterr().err.splitlines() == [
        "ppo gru X-v0: 300 of 2,000, 10 steps/s",
        "ppo gru X-v0: 600 of 2,000, 10 steps/s, return -1.23",
        "ppo gru X-v0: 900 of 2,000, 10 steps/s, return -1.23",
    ]
    with progress.progress_bar() as bar:
        tasks = [bar.add_task(name, total=None, episode_return=None, steps_per_second=0.0) for name in "ab"]
        bar.say("a: begun")
        assert capsys.readouterr().err == ""
        clock[0] += 30
        bar.update(tasks[0], completed=3)
        assert capsys.readouterr().err == "a: begun\n"
        bar.say("b: begun")
        assert capsys.readouterr().err == "b: begun\n"
