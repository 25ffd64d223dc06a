"""An algorithm of one's own by the name `module:Class`: trained, resumed, loaded, evaluated, compared, refused."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

import seqrl
from seqrl.algorithms import ppo, read_config
from seqrl.cli import main
from seqrl.comparison.approaches import Approach, read, read_overrides, targets_of
from seqrl.comparison.plot import LINES, MARKERS, OWN_LINES, OWN_MARKERS, _look
from seqrl.comparison.report import Comparison, Row
from seqrl.errors import UserError
from seqrl.export import export_run
from seqrl.run import Run
from seqrl.run_folder import read_json

MEMORY = """
from seqrl.memory import GRU


class Own(GRU):
    pass
"""
STUBS = """
from dataclasses import dataclass, field

import numpy as np

from seqrl.algorithms import ppo
from seqrl.algorithms.ppo import build, check, train
from seqrl.config import RunConfig
from seqrl.offline.config import OfflineConfig

Ours = ppo.Config


@dataclass(frozen=True, kw_only=True)
class Same(ppo.Config):
    pass


class Plain(RunConfig):
    gamma: float = 0.9


@dataclass(frozen=True, kw_only=True)
class Needy(RunConfig):
    gamma: float


@dataclass(frozen=True, kw_only=True)
class Array(RunConfig):
    betas: object = field(default_factory=lambda: np.zeros(2))


@dataclass(frozen=True, kw_only=True)
class Logged(OfflineConfig):
    pass


class Other:
    pass
"""
EMPTY = """
from dataclasses import dataclass

from seqrl.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    pass
"""
NO_BUILD = EMPTY + "\n\ndef train(config, resume=False):\n    pass\n"
TINY = ["--env-kwargs", "length=3", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
PROBLEM = ["--env", "seqrl/TMaze-v0", *TINY]
TRAIN = ["train", "my_ppo:Config", *PROBLEM, "--num-epochs", "1", "--learning-rate-schedule", "constant"]
SETTINGS = {"env": "seqrl/TMaze-v0", "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_steps": 32}


pytestmark = pytest.mark.usefixtures("forked_comparisons")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with modules, found as with PYTHONPATH=. (also by the processes of comparisons)."""
    shutil.copy(ppo.__file__, tmp_path / "my_ppo.py")
    modules = {"brain": MEMORY, "stubs": STUBS, "empty": EMPTY, "no_build": NO_BUILD, "raises": "{}['door']"}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_ppo", *modules):
        monkeypatch.delitem(sys.modules, name, raising=False)


# Golden: breaks if `algorithm_of` gives the last part of the class's module's name to all, or a file gives its own;
# or if `export_run` gives that.
def test_a_copy_of_one_of_our_files_is_not_called_ours() -> None:
    import my_ppo

    my_ppo.train(my_ppo.Config(**SETTINGS, run_dir="copied"))
    assert read_json(Path("copied"), "config.json")["type"] == "my_ppo:Config"
    assert type(read_config("copied")) is my_ppo.Config
    assert export_run("copied", "copied.pt2", "torch", num_steps=1).about["about"]["algorithm"] == "my_ppo:Config"
    ppo.train(ppo.Config(**SETTINGS, run_dir="ours"))
    assert read_json(Path("ours"), "config.json")["type"] == "ppo"
    spaces = seqrl.load("ours").observation_space, seqrl.load("ours").action_space
    with pytest.raises(TypeError):  # there is no place for a name
        Run.open("ppo", ppo.Config(**SETTINGS, run_dir="named"), *spaces, False)  # type: ignore[call-arg]


# Breaks if `read_config`, `resume` or `load` take ours alone, or `resume` takes another module than the class's.
def test_trained_resumed_loaded_and_evaluated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert main([*TRAIN, "--run-dir", "straight", "--num-steps", "128"]) == 0
    assert main([*TRAIN, "--run-dir", "halved", "--num-steps", "64"]) == 0
    import my_ppo

    trained: list[str] = []
    train = my_ppo.train
    monkeypatch.setattr(my_ppo, "train", lambda config, resume: trained.append(config.run_dir) or train(config, resume))
    assert main(["train", "my_ppo:Config", "--resume", "halved", "--num-steps", "128"]) == 0
    assert trained == ["halved"]
    straight, halved = seqrl.load("straight"), seqrl.load("halved")
    for one, other in zip(straight.parameters(), halved.parameters(), strict=True):
        assert torch.equal(one, other)
    for command in (["evaluate", "halved", "--num-episodes", "2"], ["report", "halved"], ["inspect", "halved"]):
        assert main([*command]) == 0
    assert main(["train", "ppo", "--resume", "halved"]) == 2
    assert "halved is a run of my_ppo:Config, not of ppo" in capsys.readouterr().err


# Breaks if `with_run_dir` keeps the colon, or `seqrl.train` looks among ours alone.
def test_from_python() -> None:
    import my_ppo

    agent = seqrl.train(my_ppo.Config(**SETTINGS))
    assert list(Path("runs").iterdir()) == [Path("runs/seqrl-TMaze-v0_gru_s0")]
    run = "runs/seqrl-TMaze-v0_gru_s0"
    assert not torch.equal(next(seqrl.resume(run, num_steps=64).parameters()), next(agent.parameters()))


# Breaks if `_module_name` gives __main__, or `_import` imports the file again: it has no guard, and would train twice.
def test_a_file_that_is_run_is_called_by_its_name() -> None:
    with open("my_ppo.py", "a") as file:
        file.write(f"\n\ntrain(Config(**{SETTINGS}, run_dir='run'))\nagent = __import__('seqrl').load('run')\n")
    found = runpy.run_path("my_ppo.py", run_name="__main__")
    assert read_json(Path("run"), "config.json")["type"] == "my_ppo:Config"
    assert "my_ppo" not in sys.modules
    assert found["agent"].training is False


# Breaks if `_default` gives the flags of ours, or tyro is not asked.
def test_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("my_ppo.py").read_text()
    Path("my_ppo.py").write_text(text.replace("    clip: float = 0.2\n", "    narrow: float = 0.125\n", 1))
    with pytest.raises(SystemExit) as stop:
        main(["train", "my_ppo:Config", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--narrow" in out
    assert "0.125" in out
    assert "--clip" not in out
    assert main(["train", "my_ppo:Config", "--narow", "1"]) == 2
    assert "did you mean --narrow?" in capsys.readouterr().err


# Breaks if the first part alone is the algorithm, `Approach.folder` keeps a colon, or `plot` knows ours alone.
def test_compared(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["ppo:none", "my_ppo:Config:none", "my_ppo:Config:brain:Own"]
    args = ["compare", "seqrl/TMaze-v0", *TINY, "--num-steps", "64", "--num-seeds", "1", "--num-episodes", "2"]
    args += ["--workers", "1", "--run-dir", "compared", "--approaches", *names[:2]]
    assert main([*args, "--override", "my_ppo:Config.num_epochs=1", "my_ppo:Config:none.rollout_length=4"]) == 0
    assert main(["compare", "--resume", "compared", "--approaches", names[2]]) == 0
    assert names[2] in capsys.readouterr().out
    runs = {folder.name for folder in Path("compared").iterdir() if folder.is_dir()}
    assert runs == {"none_s0", "my_ppo-Config_none_s0", "my_ppo-Config_brain-Own_s0"}
    config = read_json(Path("compared/my_ppo-Config_none_s0"), "config.json")
    assert (config["type"], config["hidden_size"], config["num_steps"]) == ("my_ppo:Config", 8, 64)
    assert (config["num_epochs"], config["rollout_length"]) == (1, 4)
    config = read_json(Path("compared/my_ppo-Config_brain-Own_s0"), "config.json")
    assert (config["memory"], config["num_epochs"], config["rollout_length"]) == ("brain:Own", 1, 64)  # as it begins
    assert [row["approach"] for row in json.loads(Path("compared/results.json").read_text())["rows"]] == names


# Breaks if what is behind one of ours is not all the memory.
def test_names() -> None:
    online, _ = read(["ppo:brain:Own", "my_ppo:Config:gru", "my_ppo:Config:brain:Own"])
    assert online == [
        Approach("ppo", "brain:Own"), Approach("my_ppo:Config", "gru"), Approach("my_ppo:Config", "brain:Own"),
    ]  # fmt: skip
    targets = targets_of(online, [])
    assert targets == ["ppo", "my_ppo:Config", "ppo:brain:Own", "my_ppo:Config:gru", "my_ppo:Config:brain:Own"]
    for word in ("my_ppo:Config.seed=1", "my_ppo:Config:brain:Own.seed=1"):
        assert read_overrides([word], targets)[0][1:] == ("seed", 1)
    with pytest.raises(UserError, match=r"unknown memory 'gur' \(--approaches my_ppo:Config:gur\): did you mean 'gru'"):
        read(["my_ppo:Config:gur"])
    with pytest.raises(UserError, match=r"unknown algorithm in 'pppo:gru' \(--approaches\): did you mean 'ppo'"):
        read(["pppo:gru"])
    for memory in ("Config:gru", "Config:brain:Own"):  # of a file of one's own that is called ppo.py
        way_out = rf"behind ppo: stands a memory, and '{memory}' is none; if ppo\.py is a file of yours, give it a name"
        with pytest.raises(UserError, match=way_out):
            read([f"ppo:{memory}"])
    assert read(["ppo:brain:gru"])[0] == [Approach("ppo", "brain:gru")]  # a module that is there may have such a class
    with pytest.raises(UserError, match="only what learns by acting is compared here"):
        read(["stubs:Logged:gru"])


# Breaks if all of one's own have the first look, or ours have another than they had.
def test_own_algorithms_have_looks_of_their_own() -> None:
    values = {"mean": 0.0, "half_width": 0.0, "seed_means": [0.0], "steps_per_second": 1.0, "num_parameters": 1}
    values |= {"seconds": 1.0, "best_run": "", "curves": []}
    names = ["a:A", "ppo", "b:B", "r2d2"]
    rows = [Row(approach=f"{name}:brain:Own", memory="brain:Own", **values) for name in names]
    result = Comparison(env="", num_steps=1, num_episodes=2, optimal=None, memoryless=None, rows=rows)
    assert [_look(result, row)[1] for row in rows] == [OWN_LINES[0], LINES["ppo"], OWN_LINES[1], LINES["r2d2"]]
    assert [_look(result, row)[2] for row in rows] == [OWN_MARKERS[0], MARKERS["ppo"], OWN_MARKERS[1], MARKERS["r2d2"]]


REFUSED = [
    ("nowhere:Config", "there is no module 'nowhere'; one in this folder is found with PYTHONPATH=."),
    ("./my_ppo.py:Config", "'./my_ppo.py'; call it my_ppo:Config; one in this folder is found with PYTHONPATH=."),
    ("raises:Config", "raises cannot be imported (KeyError: 'door', raises.py line 1): mend it"),
    ("my_ppo:Confg", "my_ppo has no 'Confg': did you mean 'Config'?"),
    ("brain:Config", "brain has no 'Config': it has no subclass of seqrl.config.RunConfig"),
    ("stubs:Other", "is no subclass of seqrl.config.RunConfig: extend that (docs/your_own.md)"),
    ("stubs:Plain", "is no dataclass: write @dataclass(frozen=True, kw_only=True) above it"),
    ("stubs:Needy", "needs a default for each setting (TypeError: "),
    ("stubs:Array", "has settings that config.json cannot hold ("),
    ("stubs:Ours", "is ppo: call it so, or define a class of its own"),
    ("empty:Config", "its module has no train(): write or import it (docs/your_own.md)"),
    ("no_build:Config", "its module has no build(): write or import it (docs/your_own.md)"),
]  # fmt: skip


# Breaks where `find_class`, `_check_class` or `module_of` lacks the clause that the message comes from.
@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[name for name, _ in REFUSED])
def test_refused_before_there_is_a_folder(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "seqrl/TMaze-v0", *TINY, "--approaches", "ppo:none", f"{name}:gru"]
    for args in (["train", name, *PROBLEM], ["train", name, "--help"], compare):
        assert main(args) == 2
        out, err = capsys.readouterr()
        assert err.startswith(f"seqrl: algorithm '{name}'")
        assert message in err
        assert err.count("\n") == 1
        assert out == ""
        assert "runs" not in os.listdir()


# Breaks if a run's folder does not say whose it is, or `read_config` takes ours for what it cannot find.
def test_a_run_whose_module_is_gone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*TRAIN, "--run-dir", "run", "--num-steps", "32"]) == 0
    monkeypatch.delitem(sys.modules, "my_ppo")
    Path("my_ppo.py").unlink()
    capsys.readouterr()
    for command in (["evaluate"], ["train", "--resume"]):
        assert main([*command, "run"]) == 2
        assert "run/config.json: algorithm 'my_ppo:Config': there is no module 'my_ppo'" in capsys.readouterr().err


# Breaks if `train` and `build` must be written anew, or `check` is needed.
def test_pieces_may_be_imported() -> None:
    assert main(["train", "stubs:Same", *PROBLEM, "--num-epochs", "1", "--num-steps", "32", "--run-dir", "same"]) == 0
    assert read_json(Path("same"), "config.json")["type"] == "stubs:Same"
    text = Path("my_ppo.py").read_text().replace("def check(", "def look(").replace("    check(config)\n", "")
    Path("unchecked.py").write_text(text)
    assert main(["train", "unchecked:Config", *PROBLEM, "--num-steps", "32", "--run-dir", "unchecked"]) == 0
    assert main(["evaluate", "unchecked", "--num-episodes", "2"]) == 0
