"""Seeds, approaches, methods and a sweep added to a comparison that has begun."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqrl.algorithms import ppo
from seqrl.cli import main
from seqrl.comparison import offline
from seqrl.comparison.additions import Additions, extended, extended_on_log
from seqrl.comparison.config import Config, read_comparison
from seqrl.comparison.folder import locked
from seqrl.comparison.online import compare
from seqrl.data import EpisodeDataset
from seqrl.errors import UserError

FLAGS = ["--env-kwargs", "length=2", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
FLAGS += ["--num-epochs", "1", "--num-minibatches", "2", "--num-episodes", "4", "--workers", "1"]
FLAGS += ["--num-steps", "64", "--horizon-seeds", "1", "--log-episodes", "12"]
OFFLINE = ",".join(f"offline.{setting}" for setting in (
    "num_steps=4", "log_every=2", "num_layers=1", "context_length=4", "batch_size=8", "hidden_size=8"
))  # fmt: skip
IMPALA = "impala.num_envs=2,impala.rollout_length=8,impala.num_steps=48"


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch, forked_comparisons: None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")


def begin(folder: Path, *args: str) -> Path:
    assert main(["compare", "seqrl/TMaze-v0", *FLAGS, *args, "--run-dir", str(folder)]) == 0
    return folder


def add(folder: Path, *args: str) -> int:
    return main(["compare", "--resume", str(folder), *args])


def contents(*runs: Path) -> dict[Path, tuple[str, int]]:
    """What is in files of runs, and when it was written; but for the page, which shows what there is."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for run in runs
        for path in run.rglob("*")
        if path.is_file() and path.name != "report.html"
    }


def figures(folder: Path) -> Any:
    """results.json without times, and with paths inside the folder alone."""
    times = ("seconds", "steps_per_second", "seconds_to_threshold")

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(child) for key, child in value.items() if key not in times}
        return [without(child) for child in value] if isinstance(value, list) else value

    return without(json.loads((folder / "results.json").read_text().replace(str(folder), "FOLDER")))


def test_seeds_and_memories_as_if_asked_for_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Breaks when config.json is not brought to what was added, or a run that is done is trained again.
    folder = begin(tmp_path / "comparison", "--memories", "none", "--num-seeds", "1")
    before = contents(folder / "none_s0")
    assert add(folder, "--num-seeds", "2", "--memories", "none,gru") == 0
    assert contents(folder / "none_s0") == before
    assert capsys.readouterr().err == ""
    whole = begin(tmp_path / "whole", "--memories", "none,gru", "--num-seeds", "2")
    assert figures(folder) == figures(whole)
    assert [len(row["seed_means"]) for row in figures(folder)["rows"]] == [2, 2]
    for name in ("table.md", "report.html"):
        assert "2 seeds" in (folder / name).read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads((whole / "config.json").read_text().replace(str(whole), str(folder)))

    kept = contents(folder)
    assert add(folder, "--num-seeds", "2", "--memories", "gru") == 0  # they are there already
    kept.update({path: seen for path, seen in contents(folder).items() if path.parent == folder})
    assert contents(folder) == kept
    assert json.loads((folder / "config.json").read_text()) == config


@pytest.mark.slow  # the longest of its kind: memories, sweeps and methods are added in the tests below, too
def test_a_sweep_an_algorithm_and_methods_as_if_asked_for_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then seeds: the log stays what it was played by, and what learns from it learns from it alone."""
    folder = begin(tmp_path / "comparison", "--memories", "none", "--num-seeds", "1")
    before = contents(folder / "none_s0")
    overrides = f"{IMPALA},{OFFLINE}"
    sweep = ["--horizon-sweep", "length=1,2"]
    assert add(folder, "--approaches", "impala:none,bc", "--override", overrides, *sweep) == 0
    assert contents(folder / "none_s0") == before
    args = ["--approaches", "ppo:none,impala:none,bc", "--override", overrides, *sweep, "--num-seeds", "1"]
    assert figures(folder) == figures(begin(tmp_path / "whole", *args))

    played_by = {path: path.read_bytes() for path in (folder / "log").iterdir()}
    done = contents(folder / "none_s0", folder / "impala_none_s0", folder / "offline" / "behaviour_cloning_s0")
    who = [one["policy"] for one in EpisodeDataset.open(folder / "log").about["policies"]]
    assert add(folder, "--num-seeds", "2", "--approaches", "behaviour_cloning,ppo:none") == 0
    assert {path: path.read_bytes() for path in (folder / "log").iterdir()} == played_by
    assert contents(folder / "none_s0", folder / "impala_none_s0", folder / "offline" / "behaviour_cloning_s0") == done
    found = figures(folder)
    assert [len(row["seed_means"]) for row in found["rows"]] == [2, 2]
    [cloned] = found["offline"]["rows"]
    assert len(cloned["returns"]["seeds"]) == found["offline"]["num_seeds"] == 2
    assert offline.read_comparison(folder / "offline").num_seeds == 2
    told = found["verdict"][-1]
    assert told.startswith(f"Log: played by {', '.join(who)}, before runs were added")
    assert f"- {told}" in (folder / "table.md").read_text()
    assert add(folder / "offline", "--num-seeds", "3") == 2
    assert "is a part of the comparison" in capsys.readouterr().err

    for part in ("log", "offline"):
        shutil.rmtree(folder / part)
    assert add(folder) == 0
    assert figures(folder)["verdict"] == json.loads((folder / "offline" / "results.json").read_text())["verdict"]
    assert [one["policy"] for one in EpisodeDataset.open(folder / "log").about["policies"]] != who


def test_methods_of_a_comparison_on_a_log(tmp_path: Path) -> None:
    log, flags = tmp_path / "log", [word.removeprefix("offline.") for word in OFFLINE.split(",")]
    assert main(["collect", "random", "--env", "seqrl/Gamble-v0", "--episodes", "20", "--dataset-dir", str(log)]) == 0
    settings = [
        part for flag in flags for part in (f"--{flag.partition('=')[0].replace('_', '-')}", flag.partition("=")[2])
    ]
    start = ["compare", str(log), *settings, "--num-episodes", "4", "--target-episodes", "2", "--workers", "1"]
    folder, whole = tmp_path / "comparison", tmp_path / "whole"
    assert main([*start, "--methods", "behaviour_cloning", "--num-seeds", "1", "--run-dir", str(folder)]) == 0
    before = contents(folder / "behaviour_cloning_s0")
    assert add(folder, "--methods", "filtered_bc,behaviour_cloning", "--num-seeds", "2") == 0
    assert contents(folder / "behaviour_cloning_s0") == before
    both = "behaviour_cloning,filtered_bc"
    assert main([*start, "--methods", both, "--num-seeds", "2", "--run-dir", str(whole)]) == 0
    assert figures(folder) == figures(whole)
    assert "2 seeds" in (folder / "table.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads((whole / "config.json").read_text().replace(str(whole), str(folder)))

    # Other episodes in the log's place: what is there learnt from those that are gone.
    shutil.rmtree(log)
    args = ["collect", "random", "--env", "seqrl/Gamble-v0", "--episodes", "21", "--dataset-dir", str(log)]
    assert main(args) == 0
    kept = contents(folder)
    assert add(folder, "--num-seeds", "3") == 2
    assert contents(folder) == kept


def interrupted(*args: Any) -> None:
    raise KeyboardInterrupt


def test_what_cannot_be_trained_is_not_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Breaks where `build` does not refuse it: config.json would keep it, and could never be resumed again."""
    folder = begin(tmp_path / "comparison", "--memories", "none", "--num-seeds", "1", "--bptt-length", "4")
    before = contents(folder)
    assert add(folder, "--memories", "transformer") == 2
    assert (
        "--bptt-length 4 would store the transformer's large state inside each rollout: use --bptt-length 0"
        in capsys.readouterr().err
    )
    assert contents(folder) == before
    assert add(folder, "--num-seeds", "2") == 0


def test_interrupted_the_figures_of_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Breaks when `_tells_more` is always false: the table would lose gru, which has not all its seeds.
    folder = begin(tmp_path / "comparison", "--memories", "none,gru", "--num-seeds", "1")
    before = figures(folder)
    monkeypatch.setattr("seqrl.comparison.online.run_all", interrupted)
    shutil.copytree(folder / "none_s0", folder / "none_s1")  # as if it were done
    assert add(folder, "--num-seeds", "2") == 130
    assert figures(folder) == before
    assert read_comparison(folder).num_seeds == 2  # and is gone on with


def test_interrupted_in_its_sweep_the_figures_of_before_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Breaks when the table is written without the sweep that there was before it is measured again.
    folder = begin(tmp_path / "comparison", "--memories", "none", "--num-seeds", "1", "--horizon-sweep", "length=3,4",
                   "--horizon-seeds", "1")  # fmt: skip
    before = figures(folder)
    assert before["horizon"]["tried"]
    with monkeypatch.context() as patch:
        patch.setattr("seqrl.comparison.online.measure_horizon", interrupted)
        assert add(folder, "--num-seeds", "2") == 130
    assert figures(folder) == before
    assert add(folder) == 0
    assert len(figures(folder)["rows"][0]["seed_means"]) == 2


# ------------------------------------------------------------------------------------------- without training anything


@contextlib.contextmanager
def nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in ("online", "offline"):
            patch.setattr(f"seqrl.comparison.{module}.run_all", interrupted)
        yield


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """The folder of a comparison of which nothing but config.json is there."""

    def make(*args: str) -> Path:
        folder = tmp_path / "begun"
        with nothing_is_run(monkeypatch):
            assert main(["compare", "seqrl/TMaze-v0", *FLAGS, *args, "--run-dir", str(folder)]) == 130
        return folder

    return make


@pytest.mark.parametrize(
    ("start", "args", "words"),
    [
        ([], ["--num-seeds", "2"], ["--num-seeds is 2", "has 3 already", "--run-dir"]),
        ([], ["--num-seeds", "-1"], ["--num-seeds is -1"]),
        ([], ["--memories", "lstmm"], ["'lstmm' (--memories)", "did you mean 'lstm'?"]),
        ([], ["--approaches", "ppo:lstmm"], ["--approaches ppo:lstmm", "did you mean 'lstm'?"]),
        ([], ["--approaches", "gru"], ["unknown approach 'gru' (--approaches)"]),
        ([], ["--methods", "qdt"], ["--methods", "add them here with --approaches"]),
        ([], ["--override", "ppo.num_envs=8"], ["runs of ppo:none, ppo:frame_stack, ppo:gru in"]),
        ([], ["--override", "r2d2.burn_in=2"], ["there is no 'r2d2' here"]),
        ([], ["--num-steps", "128"], ["--num-steps: the runs of", "were begun with what is in its config.json"]),
        ([], ["--learning-rate=1"], ["--learning-rate: the runs of", "compare anew"]),
        ([], ["--num-seed", "4"], ["did you mean --num-seeds?"]),
        ([], ["--horizon-sweep", "length"], ["--horizon-sweep 'length' is not KEY=VALUES"]),
        ([], ["--horizon-sweep", "lenth=1,2"], ["lenth"]),
        ([], ["--horizon-steps", "-1"], ["--horizon-steps is -1"]),
        ([], ["--horizon-steps", "inf"], ["--horizon-steps is inf"]),
        (["--horizon-sweep", "length=1,2"], ["--horizon-sweep", "size=1"], ["the sweep is of length"]),
        (["--horizon-sweep", "length=1,2"], ["--horizon-steps", "2"], ["--horizon-steps is 2", "begun with 1"]),
        (["--horizon-sweep", "length=1,2", "--horizon-seeds", "2"], ["--horizon-seeds", "1"], ["has 2 already"]),
        (["--approaches", "ppo:gru,bc"], ["--override", "offline.num_steps=9"], ["runs of offline in"]),
        (["--approaches", "ppo:gru"], ["--approaches", "r2d2:gru", "--override", "r2d2.burn_in=x"], ["burn_in=x"]),
        (["--approaches", "ppo:gru"], ["--approaches", "recurrent_sac:gru"], ["--learning-starts 1000 of"]),
    ],
)
def test_what_cannot_be_added_is_one_line(
    begun: Callable[..., Path], capsys: pytest.CaptureFixture[str], start: list[str], args: list[str], words: list[str]
) -> None:
    folder = begun(*start)
    capsys.readouterr()
    before = contents(folder)
    assert add(folder, *args) == 2
    error = capsys.readouterr().err
    for each in words:
        assert each in error
    assert error.count("\n") == 1
    assert contents(folder) == before


def test_a_comparison_is_no_log(begun: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun()
    capsys.readouterr()
    assert main(["compare", str(folder), "--num-seeds", "5"]) == 2
    assert f"continue a comparison with --resume {folder}" in capsys.readouterr().err


def test_what_is_no_flag_of_methods(tmp_path: Path) -> None:
    settings = replace(offline.Config().settings, run_dir=str(tmp_path))
    there = offline.Config(settings=settings, methods=("behaviour_cloning", "qdt"))
    assert extended_on_log(there, Additions()) == there
    assert extended_on_log(there, Additions(methods=("qdt", "filtered_bc"), num_seeds=4)) == replace(
        there, methods=("behaviour_cloning", "qdt", "filtered_bc"), num_seeds=4
    )
    assert extended_on_log(there, Additions(workers=1)) == replace(there, workers=1)
    for added, words in [
        (Additions(memories=("gru",)), "--memories is not for it, add --methods"),
        (Additions(approaches=("qdt",)), "--approaches is not for it"),
        (Additions(num_seeds=2), "has 3 already"),
    ]:
        with pytest.raises(UserError, match=words):
            extended_on_log(there, added)


def names(config: Config) -> list[str]:
    online, methods = config.named()
    return [*map(str, online), *methods]


def test_names_are_added_however_they_are_given() -> None:
    memories = Config(settings=ppo.Config(env="seqrl/TMaze-v0", run_dir="runs/c"), memories=("none", "gru"))
    approaches = replace(memories, approaches=("ppo:none", "r2d2:gru", "bc"))
    lstm = extended(memories, Additions(memories=("gru", "lstm", "lstm")))
    assert (lstm.memories, lstm.approaches) == (("none", "gru", "lstm"), ())
    assert extended(memories, Additions(approaches=("ppo:gru", "ppo:lstm"))) == lstm
    assert names(extended(memories, Additions(approaches=("r2d2:gru", "qdt")))) == [
        "ppo:none", "ppo:gru", "r2d2:gru", "qdt"
    ]  # fmt: skip
    assert names(extended(approaches, Additions(memories=("none", "lstm"), approaches=("behaviour_cloning",)))) == [
        "ppo:none", "r2d2:gru", "ppo:lstm", "behaviour_cloning"
    ]  # fmt: skip
    own = extended(memories, Additions(memories=("brain:Ema",)))
    assert own.memories == ("none", "gru", "brain:Ema")
    assert extended(memories, Additions(workers=1)) == replace(memories, workers=1)
    for same in (Additions(), Additions(num_seeds=3, memories=("gru",)), Additions(approaches=("ppo:none",))):
        assert extended(memories, same) == memories
    for same in (Additions(approaches=("bc", "r2d2:gru")), Additions(approaches=("behaviour_cloning",))):
        assert extended(approaches, same) == approaches


def test_a_sweep_gets_more_values() -> None:
    there = Config(settings=ppo.Config(env="seqrl/TMaze-v0", run_dir="runs/c"))
    new = extended(there, Additions(horizon_sweep="length=5..20", horizon_seeds=1, horizon_steps=0.5))
    assert (new.horizon_sweep, new.horizon_seeds, new.horizon_steps) == ("length=5..20", 1, 0.5)
    assert extended(new, Additions(horizon_sweep="length=5,20")) == new
    more = extended(new, Additions(horizon_sweep="length=2,10.0,80", horizon_seeds=2))
    assert (more.horizon_sweep, more.horizon_seeds, more.horizon_steps) == ("length=2,5,10,20,80", 2, 0.5)


def test_two_processes_do_not_compare_in_one_folder(
    begun: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Breaks when config.json is what is locked: it is replaced, and the next process would lock another file.
    folder = begun()
    before = contents(folder)
    capsys.readouterr()
    with locked(folder):
        assert add(folder, "--num-seeds", "4") == 2
        assert "is being worked on by another seqrl compare" in capsys.readouterr().err
        assert contents(folder) == before
    seen = []

    def another(*args: Any) -> None:
        monkeypatch.setattr("seqrl.comparison.online.run_all", interrupted)
        with pytest.raises(UserError, match="is being worked on"):
            compare(read_comparison(folder), resumed=True)
        seen.append(read_comparison(folder).num_seeds)
        interrupted()

    monkeypatch.setattr("seqrl.comparison.online.run_all", another)
    assert add(folder, "--num-seeds", "4") == 130
    assert seen == [4]


def test_what_another_process_added_meanwhile_is_not_dropped(begun: Callable[..., Path]) -> None:
    folder = begun()
    read_before = read_comparison(folder)
    other = replace(read_before, memories=(*read_before.memories, "lstm"))
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch, nothing_is_run(patch):
        compare(other, resumed=True)
    with pytest.raises(UserError, match="has ppo:lstm too, which was added meanwhile"):
        compare(read_before, resumed=True)
    assert read_comparison(folder) == other
    changed = replace(other, settings=replace(other.settings, num_steps=128))
    with pytest.raises(UserError, match="would have other settings than they were begun with"):
        compare(changed, resumed=True)


# Break: a path as it is: pasted, `--resume a run` would name two folders.
def test_the_way_on_can_be_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "config.json").write_text('{"type": "ppo"}')
    with pytest.raises(UserError, match=f"use seqrl train --resume '{folder}'"):
        read_comparison(folder)
