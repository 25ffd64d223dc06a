"""The comparison of methods on a log, from the command line to the plot, and the verdict it ends with."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest

from seqrl.cli import main
from seqrl.comparison.offline import METHODS, Config, differences_of, promise, runs_of
from seqrl.comparison.report_offline import MethodRow, OfflineComparison, Score, plot_offline
from seqrl.comparison.verdict import verdict
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.recipes import RECIPES
from seqrl.run_folder import read_finished_step

FLAGS = ["--num-steps", "6", "--log-every", "3", "--hidden-size", "8", "--num-layers", "1", "--context-length", "4"]
FLAGS += ["--batch-size", "8", "--value-updates", "5", "--num-episodes", "4", "--target-episodes", "2"]


def collected(folder: Path, env: str = "seqrl/Gamble-v0") -> Path:
    assert main(["collect", "random", "--env", env, "--episodes", "40", "--dataset-dir", str(folder)]) == 0
    return folder


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def assert_not_blank(path: Path) -> None:
    pixels = matplotlib.image.imread(path)
    assert pixels[..., :3].std() > 0.05
    assert (pixels[0, :, :3] == 1).all()  # nothing is cut off at the edges
    assert (pixels[:, -1, :3] == 1).all()


def times(folder: Path) -> dict[Path, int]:
    """When each file of a run was written; but for the page, which shows what there is."""
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "report.html" and path != folder
    }


@pytest.fixture
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    context = multiprocessing.get_context("forkserver")  # as "spawn", but each process need not import everything
    context.set_forkserver_preload(["seqrl.cli", "pytest", "torch._dynamo"])
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: context)


def test_from_end_to_end(tmp_path: Path, quicker: None, capsys: pytest.CaptureFixture[str]) -> None:
    """One comparison, and then its resumption after half of it was lost: what is done is kept."""
    log, folder = collected(tmp_path / "log"), tmp_path / "comparison"
    capsys.readouterr()
    args = ["compare", str(log), *FLAGS, "--num-seeds", "2", "--workers", "1", "--run-dir", str(folder)]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    runs = [f"{method}_s{seed}" for method in METHODS for seed in (0, 1)]
    assert {path.name for path in folder.iterdir()} == {
        *runs, "config.json", "results.json", "table.md", "compare.png", "report.html"
    }  # fmt: skip
    assert_not_blank(folder / "compare.png")
    results = strict(folder / "results.json")
    log_returns = EpisodeDataset.open(log).returns
    assert results["data"]["mean"] == pytest.approx(log_returns.mean())
    assert results["data"]["highest"] == log_returns.max()
    assert results["env"] == "seqrl/Gamble-v0"
    for row in results["rows"]:
        measured = [strict(folder / f"{row['method']}_s{seed}" / "evaluation.json") for seed in (0, 1)]
        assert row["returns"]["seeds"] == pytest.approx([np.mean(m["returns"]) for m in measured])
        asked = row["method"] in ("decision_transformer", "qdt")
        assert (row["calibrated"] is not None) == asked
        if asked:
            assert row["calibrated"]["seeds"] == pytest.approx([np.mean(m["calibrated"]) for m in measured])
            assert row["asked_for"]["seeds"] == [m["calibration"]["recommended"] for m in measured]
            assert len(row["calibrations"][0]["targets"]) in (11, 12)
        assert (row["promise"] is not None) == (row["method"] == "qdt")
        assert set(row["held_out"]) == {"loss", "log_likelihood", "accuracy"}
    table = (folder / "table.md").read_text()
    for words in ("# ", "| filtered_bc |", "| (the log's highest) |", "2 seeds", "best 10 % of episodes"):
        assert words in table
    for sentence in results["verdict"]:
        assert f"- {sentence}" in table
        assert sentence.replace("Its best run is ", f"Its best run is {folder}/") in " ".join(out.split())

    kept, lost = folder / "filtered_bc_s0", folder / "qdt_s1"
    before = times(kept)
    (lost / "evaluation.json").unlink()
    shutil.rmtree(folder / "decision_transformer_s0")
    (folder / "results.json").unlink()
    assert main(["compare", "--resume", str(folder)]) == 0
    assert times(kept) == before
    again = strict(folder / "results.json")
    for row, other in zip(results["rows"], again["rows"], strict=True):
        assert row["returns"] == other["returns"]
        assert row["calibrations"] == other["calibrations"]
    capsys.readouterr()
    assert main(["train", "--resume", str(folder)]) == 2
    assert f"{folder} is a comparison, not a run" in capsys.readouterr().err


def test_without_an_environment(tmp_path: Path, quicker: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that does not say where it comes from, with continuous actions; a single seed has no interval."""
    rng = np.random.default_rng(0)
    box = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    with EpisodeWriter(tmp_path / "log", box, box, about={}) as writer:
        for _ in range(20):
            observation, action = rng.uniform(-1, 1, (6, 2)), rng.uniform(-1, 1, (5, 2))
            writer.add(
                Episode(observation.astype("f4"), action.astype("f4"), rng.normal(size=5).astype("f4"), True, False)
            )
    folder = tmp_path / "comparison"
    args = ["compare", str(tmp_path / "log"), *FLAGS, "--num-seeds", "1", "--workers", "1", "--run-dir", str(folder)]
    assert main([*args, "--methods", "behaviour_cloning,decision_transformer"]) == 0
    out = capsys.readouterr().out
    assert "Nothing was played" in out
    results = strict(folder / "results.json")
    assert [row["method"] for row in results["rows"]] == ["behaviour_cloning", "decision_transformer"]
    assert [row["returns"] for row in results["rows"]] == [None, None]
    assert results["rows"][0]["held_out"]["squared_error"]["half_width"] is None
    assert 0.8 < results["data"]["action_range"] <= 1
    assert "| squared error (95 %) |" in (folder / "table.md").read_text()
    assert_not_blank(folder / "compare.png")


@pytest.mark.slow  # its pool of runs is that of `test_compare.py`, which tries the same
def test_ctrl_c(tmp_path: Path) -> None:
    log, folder = collected(tmp_path / "log"), tmp_path / "comparison"
    flags = [*FLAGS, "--num-seeds", "1", "--num-steps", "3000000", "--workers", "1", "--run-dir", str(folder)]
    command = [sys.executable, "-m", "seqrl", "compare", str(log), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    first, end = folder / "behaviour_cloning_s0", time.monotonic() + 120
    while read_finished_step(first) < 10:
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == f"seqrl: interrupted; continue with: seqrl compare --resume {folder}\n"
    assert (first / "checkpoint.safetensors").exists()
    assert not (folder / "filtered_bc_s0").exists()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = str(collected(tmp_path / "log"))
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    for args, words in [
        ([str(tmp_path / "empty")], "holds no logged episodes"),
        ([log, "--methods", "qtd"], "did you mean 'qdt'?"),
        ([log, "--methods", "qdt,qdt"], "names one twice"),
        ([log, "--num-seeds", "0"], "--num-seeds is 0"),
        ([log, "--seed", str(2**31 - 2)], "--seed 2147483646 with 3 seeds: the last is 2147483648"),
        ([log, "--num-episodes", "1"], "--num-episodes is 1"),
        ([log, "--target-episodes", "1"], "--target-episodes is 1"),
        ([log, "--condition", "return"], "choose them with --methods"),
        ([log, "--relabel", "values"], "choose them with --methods"),
        ([log, "--best-share", "0"], "--best-share is 0"),
        ([log, "--env", "seqrl/TMaze-v0"], "the observation space of"),
        ([log, "--env", "seqrl/Gambel-v0"], "or compare without it (--no-play)"),
        ([log, "--no-play", "--held-out", "0"], "nothing could be measured"),
        ([log, "--action-loss", "squared_error"], "needs continuous actions"),
    ]:
        assert main(["compare", *args, "--run-dir", str(tmp_path / "comparison")]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (tmp_path / "comparison").exists()


def test_methods_differ_in_the_method_alone() -> None:
    config = Config(num_seeds=2)
    config = replace(config, settings=replace(config.settings, run_dir="runs/c", best_share=0.3, return_bins=4, seed=5))
    runs = runs_of(config)
    bins = {method: each[0].return_bins for method, each in runs.items()}  # nobody asks a clone for a return
    assert bins == {"decision_transformer": 4, "qdt": 4, "behaviour_cloning": 1, "filtered_bc": 1}
    shown = {m: [(r.condition, r.best_share, r.relabel, r.seed, r.run_dir) for r in rs] for m, rs in runs.items()}
    assert shown["filtered_bc"][1] == ("none", 0.3, "none", 6, "runs/c/filtered_bc_s1")
    assert shown["behaviour_cloning"][0] == ("none", 1.0, "none", 5, "runs/c/behaviour_cloning_s0")
    assert shown["decision_transformer"][0][:3] == ("return", 1.0, "none")
    assert shown["qdt"][0][:3] == ("return", 1.0, "values")
    same = {
        replace(r, condition="return", best_share=1.0, return_bins=1, relabel="none", run_dir="")
        for rs in runs.values()
        for r in rs
    }
    assert len(same) == 2  # one for each seed
    for name in ("behaviour_cloning", "filtered_bc", "qdt"):
        assert RECIPES[name]() == METHODS[name]()


# Break: groups by the whole episode's hash, or `logged` from the relabelled returns.
def test_promises_are_compared_with_the_best_that_began_alike(tmp_path: Path) -> None:
    """Golden: from 0 the best logged is 3 and 5 is promised, from 1 it is 1 and 1; three and two episodes."""
    space = gym.spaces.Discrete(4)
    with EpisodeWriter(tmp_path / "log", space, space, about={}) as writer:
        for first, reward in ((0, 1.0), (0, 3.0), (1, 0.0), (0, 2.0), (1, 1.0)):
            writer.add(Episode(np.array([first, 2]), np.array([0]), np.float32([reward]), True, False))
    log = EpisodeDataset.open(tmp_path / "log")
    relabelled = np.zeros(10, dtype=np.float32)
    relabelled[::2] = [5.0, 3.0, 0.0, 2.0, 1.0]
    assert promise(log, relabelled) == {"promised": pytest.approx(3.4), "logged": pytest.approx(2.2)}
    alone = log.subset(np.array([1, 2]))  # no two begin alike
    assert promise(alone, relabelled) == {"promised": 3.0, "logged": 3.0}


# ---------------------------------------------------------------------------------------------------- the verdict

DATA = {
    "episodes": 100, "decisions": 1000, "mean": 5.0, "lowest": 0.0, "highest": 10.0, "near_best": 20, "seen_again": 0.9,
    "followed_by_another": 0.0, "truncated": 0.0, "action_shares": [[0.4, 0.6]], "action_range": None,
}  # fmt: skip


def row(
    method: str, *returns: float, calibrated: tuple[float, ...] = (), asked: float = 10.0, **changes: Any
) -> MethodRow:
    figures = {
        "method": method, "returns": Score.of(list(returns)), "promise": None, "calibrations": [], "seconds": 1.0,
        "calibrated": Score.of(list(calibrated)) if calibrated else None, "num_parameters": 10,
        "asked_for": Score.of([asked] * len(returns)) if calibrated else None, "best_run": f"runs/{method}_s0",
        "held_out": {"log_likelihood": Score.of([-0.5] * len(returns)), "accuracy": Score.of([0.5] * len(returns))},
    }  # fmt: skip
    return MethodRow(**{**figures, **changes})


def result(*rows: MethodRow, env: str = "Env-v0", **data: Any) -> OfflineComparison:
    return OfflineComparison(
        dataset="log", env=env, num_steps=10, num_seeds=3, num_episodes=50, best_share=0.1, data={**DATA, **data},
        differences=differences_of({r.method: r for r in rows}) if env else {}, rows=list(rows),
    )  # fmt: skip


def said(comparison: OfflineComparison, topic: str) -> str:
    [sentence] = [sentence for sentence in verdict(comparison) if topic in sentence]
    return sentence


CLONE, FILTERED = row("behaviour_cloning", 5.0, 5.1, 4.9), row("filtered_bc", 9.0, 9.1, 8.9)


def test_verdict_on_chance() -> None:
    assert "none to see" in said(result(CLONE), "Chance:")
    assert "30 % of recurring" in said(result(CLONE, followed_by_another=0.3), "Chance:")
    assert "too few to tell" in said(result(CLONE, seen_again=0.001, followed_by_another=0.0), "Chance:")


# Break: `gain > 0` by the mean alone, in place of its interval.
def test_verdict_on_luck() -> None:
    lucky = row("decision_transformer", 2.0, 2.2, 1.8, calibrated=(6.0, 6.1, 5.9), asked=6.0)
    words = said(result(lucky, followed_by_another=0.5), "Asked for the log's best")
    assert words.endswith("asked for 6 it brings 6 ± 0.248: the highest returns of this log are luck, so ask for less.")
    assert "though not by chance" in said(result(lucky), "Asked for the log's best")
    able = row("decision_transformer", 9.5, 9.6, 9.4, calibrated=(9.5, 9.6, 9.4))
    assert said(result(able), "Asked for the log's best").endswith("it can be had by asking.")
    unsure = row("decision_transformer", 2.0, 2.2, 1.8, calibrated=(2.0, 9.0, 1.9), asked=6.0)
    assert "it lacks training, memory or data" in said(result(unsure), "Asked for the log's best")
    untaught = row("decision_transformer", 2.0, 2.2, 1.8, calibrated=(2.0, 2.2, 1.8), asked=10.0)
    assert "no lower target brings more" in said(result(untaught), "Asked for the log's best")


def test_verdict_of_a_single_seed() -> None:
    asked, filtered = row("decision_transformer", 9.5), row("filtered_bc", 9.0)
    single = replace(result(asked, filtered), num_seeds=1)
    assert verdict(single)[-1] == "A single seed settles little: give more --num-seeds."
    assert not any("single seed" in sentence for sentence in verdict(result(CLONE, FILTERED)))


def test_verdict_on_coverage() -> None:
    assert said(result(CLONE), "Coverage:").startswith("Coverage: 20 of 100 episodes (20 %)")
    assert "too few to learn the best from" in said(result(CLONE, near_best=4), "Coverage:")
    assert "tells nothing apart" in said(result(CLONE, lowest=10.0), "Coverage:")
    assert "at least 40 %" in said(result(CLONE), "Actions:")
    assert "1 of 2 were never taken" in said(result(CLONE, action_shares=[[0.0, 1.0]]), "Actions:")
    assert "spans at least 30 %" in said(result(CLONE, action_range=0.3), "Actions:")


def test_verdict_on_stitching() -> None:
    plain = row("decision_transformer", 8.0, 8.1, 7.9)
    promised = {"promised": Score.of([15.0, 15.1, 14.9]), "logged": Score.of([10.0] * 3)}
    joins = row("qdt", 14.0, 14.1, 13.9, promise=promised)
    assert said(result(plain, joins), "Stitching:").endswith("this log needs stitching.")
    fails = row("qdt", 8.0, 8.1, 7.9, promise=promised)
    assert said(result(plain, fails), "Stitching:").endswith("the promise is not kept.")
    assert "of luck they promise too much" in said(result(plain, fails, followed_by_another=0.5), "Stitching:")
    unsure = row("qdt", 14.0, 8.0, 8.0, promise=promised)
    assert said(result(plain, unsure), "Stitching:").endswith("3 seeds do not settle it, give more --num-seeds.")
    # Must break: the mean alone, which is that of one that brings as much.
    patchy = row("qdt", 14.0, 2.0, 8.0, promise=promised)
    assert said(result(plain, patchy), "Stitching:").endswith("3 seeds do not settle it, give more --num-seeds.")
    none = row("qdt", 8.0, 8.1, 7.9, promise={name: Score.of([10.0] * 3) for name in promised})
    assert "no sign that halves" in said(result(plain, none), "Stitching:")


def test_verdict_on_asking_and_what_to_take() -> None:
    tied = row("decision_transformer", 9.0, 9.1, 8.9)
    assert said(result(CLONE, FILTERED, tied), "Asking").startswith("Asking buys nothing that filtering does not")
    unsure = row("decision_transformer", 9.0, 9.0, 3.0)
    assert said(result(CLONE, FILTERED, unsure), "Asking").startswith("Asking or filtering: ")
    # Must break: the mean alone, which of these is 0 and may be 11 of 10.
    patchy = row("decision_transformer", 13.0, 9.1, 4.9)
    words = said(result(CLONE, FILTERED, patchy), "Asking")
    assert words.endswith("9 ± 0.248; 3 seeds do not settle it, give more --num-seeds.")
    words = said(result(CLONE, FILTERED, tied), "From the log")
    assert words.startswith(
        "From the log alone, take filtered_bc (simpler than asking for a return): it brings 9 ± 0.248;"
    )
    assert words.endswith("5 on average and 10 at best. Its best run is runs/filtered_bc_s0.")
    pays = row("decision_transformer", 5.0, 5.1, 4.9, calibrated=(9.9, 9.9, 9.9), asked=8.0)
    assert said(result(CLONE, FILTERED, pays), "Asking").startswith("Asking pays")
    assert said(result(CLONE, FILTERED, pays), "From the log alone").endswith(
        "seqrl calibrate runs/decision_transformer_s0 --set-target."
    )
    costs = row("decision_transformer", 5.0, 5.1, 4.9)
    assert said(result(CLONE, FILTERED, costs), "Asking").startswith("Asking costs")
    assert said(result(CLONE), "From the log").startswith(
        "From the log alone, take none yet: the best here, behaviour_cloning, brings 5 ±"
    )


# Break: a gain over the log that is beyond one standard error, which chance brings once in five, taken for settled.
def test_a_gain_within_the_noise_of_few_seeds_is_not_settled() -> None:
    few = row("filtered_bc", 8.0, 6.5, 5.5)
    words = said(result(few), "From the log alone, take filtered_bc")
    assert "3 seeds do not settle whether it brings more than the average: give more --num-seeds." in words
    assert "do not settle" not in said(result(row("filtered_bc", 8.0, 7.5, 7.0)), "From the log alone, take")
    assert "do not settle" not in said(result(row("filtered_bc", 8.0)), "From the log alone, take")


# Break: as good as the best by the 95 % interval, which of three seeds is wide, in place of one standard error.
def test_a_method_of_which_one_seed_was_lucky_is_not_as_good() -> None:
    steady, patchy = row("qdt", 9.0, 9.0, 9.0), row("filtered_bc", 9.0, 6.0, 5.0)
    assert said(result(patchy, steady), "From the log").startswith("From the log alone, take qdt:")


def test_verdict_without_an_environment() -> None:
    def foreseen(method: str, *values: float) -> MethodRow:
        return row(method, *values, returns=None, held_out={"log_likelihood": Score.of(list(values))})

    clone = foreseen("behaviour_cloning", -0.7, -0.71, -0.69)
    tells = result(clone, foreseen("decision_transformer", -0.4, -0.41, -0.39), env="")
    assert said(tells, "The return").startswith("The return tells actions apart")
    assert said(tells, "Nothing was played")
    silent = result(clone, foreseen("decision_transformer", -0.7, -0.72, -0.68), env="")
    assert "clone instead" in said(silent, "The return")
    # Must break: what lies within its interval taken for none, here half a nat in one seed of three.
    patchy = result(clone, foreseen("decision_transformer", -0.2, -0.7, -0.68), env="")
    assert said(patchy, "the return").startswith(
        "Whether the return tells actions apart is open: held-out actions have"
    )


def test_a_difference_is_taken_seed_by_seed() -> None:
    one, other = Score.of([1.0, 2.0, 9.0]), Score.of([0.5, 1.4, 8.6])
    assert (one - other).seeds == pytest.approx([0.5, 0.6, 0.4])
    assert (one - other).sign(0.1) == 1
    assert (other - one).sign(0.1) == -1
    assert (one - other).sign(0.7) == 0
    assert Score.of([1.0]).sign(0.5) == 1
    assert math.isnan(Score.of([1.0]).half_width)
    assert not Score.of([1.0]).may_be_more(1.0)  # of one seed the interval is not known
    assert Score.of([1.0, 3.0]).standard_error == pytest.approx(1.0)


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")  # others' garbage
def test_the_plot(tmp_path: Path) -> None:
    """A single seed; wide intervals; one method; returns all alike: always whole, and without a warning."""
    curve = [{"targets": [0.0, 5.0, 11.0], "achieved": [1.0, 5.0, 4.0]}]
    asked = row("decision_transformer", 2.0, 9.0, 4.0, calibrated=(6.0, 6.5, 5.5), calibrations=curve * 3)
    cases = {
        "all": result(CLONE, FILTERED, asked, row("qdt", 1.0, 3.0, 5.0)),
        "single": result(row("filtered_bc", 3.0)),
        "alike": result(row("filtered_bc", 10.0), mean=10.0),
        "no play": result(CLONE, env=""),
        "long name": replace(result(CLONE), dataset="$data{sets}/" * 12),
    }
    cases["no play"] = replace(cases["no play"], rows=[replace(CLONE, returns=None)])
    for name, case in cases.items():
        plot_offline(case, tmp_path / f"{name}.png")
        assert_not_blank(tmp_path / f"{name}.png")
