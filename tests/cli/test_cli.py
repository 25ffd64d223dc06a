"""The command line as a person meets it: help, bad input in one line, and runs from one end to the other."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import seqrl
from seqrl.algorithms import ppo, train
from seqrl.cli import main
from seqrl.cli.arguments import one_line
from seqrl.evaluations import Evaluations
from seqrl.run import Run

TINY = ["--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8", "--num-epochs", "1", "--num-minibatches", "2"]
TINY += ["--num-steps", "64"]


class Spoilt(gym.Env):
    """Observations or rewards are NaN from step `after` on (0: from the reset); episodes last 5 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, what: str = "observation", after: int = 1):
        self.what, self.after, self.steps = what, after, 0

    def _observation(self) -> np.ndarray:
        spoilt = self.what == "observation" and self.steps >= self.after
        return np.array([0.0, np.nan if spoilt else 0.5], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        reward = float("nan") if self.what == "reward" and self.steps >= self.after else 1.0
        return self._observation(), reward, self.steps % 5 == 0, False, {}


@pytest.fixture(scope="module", autouse=True)
def spoilt() -> Iterator[None]:
    gym.register("Spoilt-v0", Spoilt)
    yield
    del gym.registry["Spoilt-v0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Tests only read it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    config = ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=3",), num_envs=4, rollout_length=8, hidden_size=8,
                        num_epochs=1, num_minibatches=2, num_steps=64, run_dir=str(folder))  # fmt: skip
    train(config)
    return folder


def files(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refuse(capsys: pytest.CaptureFixture[str], folder: Path, args: list[str], *words: str) -> str:
    """Status 2, one line on stderr with these words in it, and nothing in `folder` changed or created."""
    before = files(folder)
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seqrl: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert files(folder) == before
    return err


ENV = ["train", "ppo", "--env", "seqrl/TMaze-v0"]
BAD: list[tuple[list[str], list[str]]] = [
    (["trian"], ["unknown command 'trian'", "'train'"]),
    (["list"], ["unknown command 'list': did you mean 'envs'?"]),
    (["train"], ["needs a recipe or an algorithm", "ppo", "tmaze"]),
    (["train", "masked_cartpol"], ["'masked_cartpol'", "'masked_cartpole'"]),
    (["train", "--env", "CartPole-v1"], ["named first"]),
    (["train", "ppo"], ["no environment given", "--env"]),
    (["train", "ppo", "--env", "seqrl/TMaz-v0"], ["'seqrl/TMaz-v0'", "did you mean 'seqrl/TMaze-v0'?"]),
    (["train", "ppo", "--env", "CartPol-v1"], ["did you mean 'CartPole-v1'?"]),
    (["train", "sac"], ["unknown recipe or algorithm 'sac': did you mean 'recurrent_sac'?"]),
    ([*ENV, "--memory", "gruu"], ["unknown memory 'gruu'", "did you mean 'gru'?"]),
    ([*ENV, "--memory", "LSTM"], ["unknown memory 'LSTM' (--memory): did you mean 'lstm'?"]),
    (["train", "ppo", "CartPole-v1"], ["'CartPole-v1' is an environment: give it as --env CartPole-v1"]),
    ([*ENV, "--memory", "elephant"], ["known: frame_stack, gru"]),
    ([*ENV, "--numenvs", "3"], ["--numenvs", "did you mean --num-envs?", "seqrl train ppo --help"]),
    ([*ENV, "--zzz"], ["unrecognized", "--zzz"]),
    ([*ENV, "elsewhere"], ["unrecognized", "elsewhere"]),
    ([*ENV, "--num-envs", "four"], ["--num-envs", "four"]),
    ([*ENV, "--num-envs"], ["--num-envs", "missing value"]),
    ([*ENV, "--hide", "1,x"], ["--hide", "x"]),
    ([*ENV, "--num-steps", "0"], ["--num-steps is 0"]),
    ([*ENV, "--num-epochs", "0"], ["--num-epochs is 0"]),
    ([*ENV, "--hidden-size", "0"], ["--hidden-size is 0"]),
    ([*ENV, "--num-minibatches", "9999"], ["--num-minibatches 9999", "choose 1 to"]),
    ([*ENV, "--rollout-length", "8", "--bptt-length", "16"], ["--bptt-length 16", "longer", "8"]),
    ([*ENV, "--rollout-length", "8", "--bptt-length", "3"], ["--bptt-length 3 does not divide", "8"]),
    ([*ENV, "--rollout-length", "8", "--burn-in", "9"], ["--burn-in 9", "8"]),
    ([*ENV, "--memory", "transformer", "--rollout-length", "8", "--bptt-length", "4"], ["--bptt-length 4"]),
    ([*ENV, "--burn-in", "-1"], ["--burn-in -1"]),
    ([*ENV, "--gamma", "1.2"], ["--gamma is 1.2", "at most 1"]),
    ([*ENV, "--gae-lambda", "3"], ["--gae-lambda is 3.0", "at most 1"]),
    ([*ENV, "--gae-lambda", "-1"], ["--gae-lambda is -1.0", "not be negative"]),
    ([*ENV, "--entropy-weight", "-3"], ["--entropy-weight is -3.0", "not be negative"]),
    ([*ENV, "--value-weight", "-1"], ["--value-weight is -1.0", "not be negative"]),
    ([*ENV, "--learning-rate", "nan"], ["--learning-rate is nan"]),
    ([*ENV, "--learning-rate", "inf"], ["--learning-rate is inf"]),
    ([*ENV, "--learning-rate-schedule", "square"], ["'square'", "linear or constant"]),
    ([*ENV, "--precision", "half"], ["--precision 'half'", "float32 or bfloat16"]),
    ([*ENV, "--noise-correlation", "1"], ["--noise-correlation is 1"]),
    ([*ENV, "--seed", "-1"], ["--seed is -1"]),
    ([*ENV, "--seed", str(10**30)], ["--seed is"]),
    ([*ENV, "--hide", "7"], ["7", "0 to 2"]),
    ([*ENV, "--hide", "0,1,2"], ["leave at least one"]),
    ([*ENV, "--flicker", "2"], ["--flicker is 2", "0 to 1"]),
    ([*ENV, "--noise", "-1"], ["--noise is -1"]),
    ([*ENV, "--env-kwargs", "length"], ["'length'", "KEY=VALUE"]),
    ([*ENV, "--env-kwargs", "length=0"], ["length=0"]),
    ([*ENV, "--env-kwargs", "lenght=3"], ["cannot make environment", "lenght"]),
    ([*ENV, "--env-kwargs", "num_envs=3"], ["cannot make environment", "num_envs"]),
    ([*ENV, "--vectorization", "threads"], ["'threads'", "sync"]),
    ([*ENV, "--autoreset-mode", "same_step"], ["same_step", "next_step"]),
    ([*ENV, "--device", "abacus"], ["'abacus'", "cpu"]),
    ([*ENV, "--device", "a\n\x1b[31mb"], [r"'a\n\x1b[31mb'"]),  # nothing that could steer the terminal
    (["train", "--resume"], ["--resume needs a run folder"]),
    (["train", "--resume", "nowhere"], ["nowhere is not a run folder", "seqrl train"]),
    (["train", "--resume", "nowhere", "--hidden-size", "3"], ["--hidden-size: nowhere goes on", "--start-from"]),
    (["evaluate"], ["needs a run folder"]),
    (["evaluate", "nowhere"], ["nowhere is not a run folder"]),
    (["evaluate", "nowhere", "--num-episodes", "0"], ["--num-episodes is 0"]),
    (["evaluate", "nowhere", "--seed", "-1"], ["--seed is -1"]),
    (["calibrate", "nowhere", "--seed", "-1"], ["--seed is -1"]),
    (["frontier", "nowhere", "--seed", "-1"], ["--seed is -1"]),
    (["evaluate", "nowhere", "--num-envs", "0"], ["--num-envs is 0"]),
    (["compare"], ["named first: seqrl compare CartPole-v1"]),
    (["compare", "--num-seeds", "2"], ["named first: seqrl compare CartPole-v1"]),
    (["train", "seqrl/TMaze-v0"], ["is an environment", "seqrl train ppo --env seqrl/TMaze-v0"]),
    # Breaks if a colon is asked for before the version: it was looked for among algorithms.
    (["train", "rover:Rover-v0"], ["is an environment", "seqrl train ppo --env rover:Rover-v0"]),
    (["version"], ["did you mean '--version'?"]),
    (["compare", "seqrl/TMaz-v0"], ["did you mean 'seqrl/TMaze-v0'?"]),
    (["compare", "seqrl/TMaze-v0", "--memories", "gru,lstmm"], ["'lstmm'", "did you mean 'lstm'?"]),
    (["compare", "seqrl/TMaze-v0", "--memories", "gru,gru"], ["twice"]),
    (["compare", "seqrl/TMaze-v0", "--memories"], ["--memories is empty"]),
    (["compare", "seqrl/TMaze-v0", "--memory", "lstm"], ["--memories lstm"]),
    (["compare", "seqrl/TMaze-v0", "--memory", "gru"], ["--memories gru"]),
    (["compare", "seqrl/TMaze-v0", "--num-seeds", "0"], ["--num-seeds is 0"]),
    (["compare", "seqrl/TMaze-v0", "--seed", str(2**31 - 1)], ["with 3 seeds: the last is 2147483649"]),
    (["compare", "seqrl/TMaze-v0", "--num-episodes", "1"], ["--num-episodes is 1"]),
    (["compare", "seqrl/TMaze-v0", "--workers", "-1"], ["--workers is -1"]),
    (["compare", "--resume", "nowhere"], ["nowhere is not a run folder"]),
    (["compare", "CartPole-v1", "--resume", "nowhere"], ["leave CartPole-v1 out"]),
    (["compare", "--resume", "nowhere", "--num-steps", "5"], ["--num-steps"]),
    (["envs", "--all"], ["--all"]),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: " ".join(value) if value[:1] else None)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str],
    words: list[str],
) -> None:  # fmt: skip
    # Breaks when ppo.train opens the run's folder before it builds, or main does not catch UserError.
    monkeypatch.chdir(tmp_path)
    refuse(capsys, tmp_path, args, *words)


# Must break: `_is_instead` says the same of all of them; `is_run` is False.
def test_what_is_no_run_is_called_by_its_name(tmp_path, run, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/cartpole")
    for folder, name in (("log", "index.json"), ("runs/both", "config.json")):
        os.makedirs(folder)
        (tmp_path / folder / name).write_text('{"type": "compare"}')
    told = {}
    for words in ("evaluate runs/cartpol", "evaluate runs", "evaluate log", "evaluate runs/cartpole/config.json",
                  "audit nowhere", "train qdt --dataset runs/cartpole/config.json", "chat runs/cartpole",
                  "compare runs/cartpole", "compare runs/both"):  # fmt: skip
        assert main(words.split()) == 2
        told[words] = capsys.readouterr().err
    assert "did you mean 'runs/cartpole'?" in told["evaluate runs/cartpol"]
    assert "it holds runs): name one of them, such as runs/both" in told["evaluate runs"]
    assert "(it holds logged episodes): seqrl audit log" in told["evaluate log"]
    assert "(it is a file)" in told["evaluate runs/cartpole/config.json"]
    assert "(there is none)" in told["audit nowhere"]
    assert "(it is a file)" in told["train qdt --dataset runs/cartpole/config.json"]
    assert "play it with seqrl evaluate runs/cartpole" in told["chat runs/cartpole"]
    assert "seqrl collect runs/cartpole" in told["compare runs/cartpole"]
    assert "--resume runs/both" in told["compare runs/both"]


def test_no_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(capsys, tmp_path, [*ENV, "--num-envs", "0", "--run-dir", str(tmp_path / "x")], "--num-envs is 0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse(capsys, tmp_path, [*ENV, "--device", "cuda", "--run-dir", str(tmp_path / "x")], "no CUDA device", "cpu")


def test_a_run_folder_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear diary")
    for command in (ENV, ["compare", "seqrl/TMaze-v0"]):
        message = refuse(capsys, tmp_path, [*command, *TINY, "--run-dir", str(tmp_path / "mine")], "exists already")
        assert f"--resume {tmp_path / 'mine'}" in message


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for parent in (str(tmp_path / "file"), "/proc"):  # the second refuses even an administrator
        for command in (ENV, ["compare", "seqrl/TMaze-v0"]):
            refuse(capsys, tmp_path, [*command, *TINY, "--run-dir", f"{parent}/x"], "cannot create", "--run-dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may write everywhere")
def test_a_parent_that_is_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o555)
    refuse(capsys, tmp_path, [*ENV, *TINY, "--run-dir", str(tmp_path / "x")], "Permission denied")
    tmp_path.chmod(0o755)


COPY = ("config.json", "spaces.json", "checkpoint.safetensors", "metrics.jsonl")


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_nan_from_the_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    """Which environment, what, at which step; the last checkpoint is kept."""
    folder = tmp_path / "run"
    args = ["train", "ppo", "--env", "Spoilt-v0", *TINY, "--env-kwargs", f"what={what},after=13"]
    assert main([*args, "--checkpoint-every", "1", "--run-dir", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for word in ("environment 0", f"NaN {what}", "'Spoilt-v0'", "mend the environment"):
        assert word in err
    assert main(["evaluate", str(folder), "--env", "Spoilt-v0", "--env-kwargs", "after=1000"]) == 0


def test_nan_from_the_first_observation_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", "ppo", "--env", "Spoilt-v0", *TINY, "--env-kwargs", "after=0", "--run-dir", str(tmp_path / "run")]
    refuse(capsys, tmp_path, args, "NaN observation", "step 0")


def test_every_flag_of_compare_has_its_plain_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Golden: `--num-steps`, not `--settings.num-steps`."""
    # Breaks with tyro.conf.arg(prefix_name=False) in place of arg(name="") in compare.Config.
    args = ["compare", "seqrl/TMaze-v0", "--num-steps", "64", "--env-kwargs", "length=3", "--run-dir", str(tmp_path)]
    refuse(capsys, tmp_path, args, "exists already")  # so all of the flags were read


def test_the_module_runs_by_itself() -> None:
    """Where the terminal is not UTF-8 too: what it cannot show becomes a question mark."""
    # Breaks without `reconfigure` in main.
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-X", "importtime", "-m", "seqrl", "envs"]
    result = subprocess.run(command, capture_output=True, text=True, env=ascii_only)
    assert result.returncode == 0
    assert "seqrl/TMaze-v0" in result.stdout
    assert not [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    # Breaks where a module that takes half a second or more is imported for all commands.
    slow = ("scipy.stats", "torch._dynamo", "transformers", "ray", "gradio", "pandas", "minari", "onnx")
    assert not {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()} & {*slow}


@pytest.mark.parametrize("means", [(5.0, 3.0), (3.0, 5.0)])
def test_that_an_earlier_agent_is_kept_is_said(
    tmp_path: Path, means: tuple[float, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brought = iter((means[0], means[1], means[1], means[0]))  # two evaluations; then the last agent, and the best
    monkeypatch.setattr(Evaluations, "_play", lambda self, purpose: [next(brought)] * 3)
    args = [*ENV, *TINY, "--num-evaluations", "2", "--keep", "best", "--run-dir", str(tmp_path / "run")]
    assert main(args) == 0
    said = "An earlier agent is kept, which was clearly better than the last one: that brought 3.\n"
    assert (said in capsys.readouterr().out) == (means[0] > means[1])  # breaks where it is said of the last one too


BOX = """\
╭─ Unrecognized options ───────────────╮
│ Unrecognized options: --numenvs, 3   │
│ ──────────────────────────────────── │
│ Perhaps you meant:                   │
│     --num-envs INT                   │
│         Environments that act side   │
│         by side. (default: 64)       │
│ ──────────────────────────────────── │
│ For full helptext, run - --help      │
╰──────────────────────────────────────╯
"""


def test_a_box_becomes_one_line() -> None:
    """As tyro draws it in a terminal, in colour, and where the terminal is not UTF-8."""
    # Breaks when one_line counts on │ and ─, or keeps the colours.
    plain = BOX.translate(str.maketrans("│─╭╮╰╯", " -    ")).replace("- Unrecognized options ---------------", "")
    for box in (BOX, BOX.replace("│", "\x1b[31m│\x1b[0m"), "  Unrecognized options  \n ------ \n" + plain[1:]):
        assert one_line(box) == "unrecognized options: --numenvs, 3: did you mean --num-envs?"
    assert one_line("") == "the flags could not be read"


@pytest.mark.parametrize("hide", [["--hide", "1,3"], ["--hide", "1", "3"], ["--hide=1,3"], ["--hide=1", "3"]])
def test_lists_with_commas_or_blanks(tmp_path: Path, hide: list[str]) -> None:
    folder = tmp_path / "run"
    assert main(["train", "ppo", "--env", "CartPole-v1", *hide, *TINY, "--run-dir", str(folder)]) == 0
    assert json.loads((folder / "config.json").read_text())["hide"] == [1, 3]


def test_env_kwargs_with_json_in_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kwargs = ["--env-kwargs", "length=3,active=true", "max_episode_steps=9"]
    assert main([*ENV, *kwargs, *TINY, "--run-dir", str(folder)]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["env_kwargs"] == ["length=3", "active=true", "max_episode_steps=9"]


def test_from_training_to_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("seqrl-TMaze-v0_lstm_s0", "seqrl-TMaze-v0_lstm_s0_2"):  # numbered where the first is taken
        assert main(["train", "tmaze", *TINY, "--memory", "lstm", "--env-kwargs", "length=3"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out == f"runs/{name}: trained for 64 steps. See how well: seqrl evaluate runs/{name}\n"
        run = Path("runs") / name
        assert {path.name for path in run.iterdir()} == {*COPY, "tensorboard"}
    config = json.loads((run / "config.json").read_text())
    assert (config["type"], config["memory"], config["hidden_size"]) == ("ppo", "lstm", 8)

    assert main(["evaluate", str(run), "--num-episodes", "20", "--sample"]) == 0
    first = capsys.readouterr().out
    assert main(["evaluate", str(run), "--num-episodes", "20", "--sample"]) == 0
    assert capsys.readouterr().out == first  # the same seed
    assert "±" in first
    assert main(["evaluate", str(run), "--num-episodes", "1", "--env-kwargs", "length=30"]) == 0
    out = capsys.readouterr().out
    assert "length=30" in out
    assert "nan" not in out


def test_resume_with_more_steps(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    assert main(["train", f"--resume={folder}", "--num-steps", "128"]) == 0
    assert "trained for 128 steps" in capsys.readouterr().out


def test_envs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    out = capsys.readouterr().out
    for name in seqrl.envs.ENVIRONMENTS:
        assert name in out


def test_a_disk_that_fills_up_while_logging(tmp_path, monkeypatch, capsys):
    """Broken by errno.ENOSPC left out of those that become one line. Other errors of the system stay as they are."""
    args = ["train", "ppo", "--env", "seqrl/TMaze-v0", *TINY, "--run-dir"]

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Run, "log", full)
    number = errno.ENOSPC
    assert main([*args, str(tmp_path / "full")]) == 2
    assert capsys.readouterr().err == (
        "seqrl: No space left on device: free some space; a run keeps its last checkpoint, continue with --resume\n"
    )
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        main([*args, str(tmp_path / "broken")])
