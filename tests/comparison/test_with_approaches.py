"""A comparison of algorithms that act, of methods on what they played, and of the delays that are bridged."""

import io
import json
import math
import multiprocessing
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from test_horizon import tried

from seqrl.cli import main
from seqrl.comparison.advice import advice
from seqrl.comparison.experience import players
from seqrl.comparison.online import read_comparison
from seqrl.comparison.plot import plot_comparison
from seqrl.comparison.report import Comparison, Horizon, Row
from seqrl.comparison.report_offline import MethodRow, OfflineComparison, Score
from seqrl.data import EpisodeDataset
from seqrl.reports.common import WIDTH
from seqrl.statistics import mean_and_half_width

FLAGS = ["--env-kwargs", "length=2", "--num-envs", "4", "--rollout-length", "8", "--hidden-size", "8"]
FLAGS += ["--num-epochs", "1", "--num-minibatches", "2", "--num-episodes", "4", "--num-seeds", "1", "--workers", "1"]
FLAGS += [
    "--num-steps",
    "64",
    "--log-episodes",
    "20",
    "--horizon-sweep",
    "length=1,2",
    "--horizon-seeds",
    "1",
    "--horizon-steps",
    "0.5",
]
OVERRIDES = [
    "r2d2.num_envs=2", "r2d2.num_steps=240", "r2d2.learning_starts=60", "r2d2.burn_in=2", "r2d2.length=4",
    "r2d2.overlap=2", "r2d2.staleness_every=1", "r2d2.start_state=stored", "offline.num_steps=4", "offline.log_every=2",
    "offline.num_layers=1", "offline.context_length=4", "offline.batch_size=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The least comparison that has everything."""
    quicker = multiprocessing.get_context("forkserver")  # as "spawn", but each process need not import everything
    quicker.set_forkserver_preload(["seqrl.cli", "pytest", "torch._dynamo"])
    path = tmp_path_factory.mktemp("approaches") / "comparison"
    args = ["--approaches", "ppo:none,r2d2:gru,bc,dt", "--override", ",".join(OVERRIDES), "--run-dir", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(multiprocessing, "get_context", lambda kind: quicker)
        assert main(["compare", "seqrl/TMaze-v0", *FLAGS, *args]) == 0
        yield path


def strict(path: Path) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_everything_is_in_the_results(folder: Path) -> None:
    results = strict(folder / "results.json")
    none, replayed = results["rows"]
    assert (none["approach"], replayed["approach"]) == ("ppo:none", "r2d2:gru")
    assert (none["num_steps"], replayed["num_steps"]) == (64, 240)
    assert replayed["runs"] == ["r2d2_gru_s0"]
    assert json.loads((folder / "r2d2_gru_s0" / "config.json").read_text())["type"] == "r2d2"
    assert none["delta_q"] is None
    assert replayed["delta_q"] > 0
    assert results["threshold"] == 0.9  # of the optimum, which is known, whatever the best brings
    for row in results["rows"]:
        assert row["reached"] == [row["mean"] >= results["threshold"]]
        assert [steps is not None for steps in row["steps_to_threshold"]] == row["reached"]
    assert [row["method"] for row in results["offline"]["rows"]] == ["behaviour_cloning", "decision_transformer"]
    alone = strict(folder / "offline" / "results.json")
    rows = [row | {"best_run": f"offline/{row['best_run']}"} for row in alone["rows"]]
    del alone["verdict"]
    assert results["offline"] == alone | {"rows": rows, "dataset": "log"}
    assert results["verdict"]
    assert results["horizon"]["values"] == [1, 2]
    sweep_run = json.loads((folder / "horizon" / "length=1" / "none_s0" / "config.json").read_text())
    assert (sweep_run["num_steps"], sweep_run["env_kwargs"]) == (32, ["length=1"])
    assert not (folder / "horizon" / "length=2").exists()  # the comparison's own runs serve
    for some in results["horizon"]["tried"].values():
        assert [one["value"] for one in some] == [1, 2][: len(some)]
        assert all(one["solved"] for one in some[:-1])
    table = (folder / "table.md").read_text()
    for words in (
        "| ppo:none |",
        "| r2d2:gru |",
        "| behaviour_cloning |",
        "horizon (length)",
        "64 steps (r2d2:gru 240)",
    ):
        assert words in table


def test_a_folder_names_its_runs_as_seen_from_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that it may be moved; the terminal names them as seen from where the command was given."""
    # Breaks when `write_results` writes what it is given.
    for part, names in ((folder, ["r2d2_gru_s0", "none_s0"]), (folder / "offline", [])):
        table = (part / "table.md").read_text()
        for text in (table, (part / "results.json").read_text()):
            assert f"{part}/" not in text
        advised = re.findall(r"Its best run is (\S+)\.", table)
        assert advised or part != folder  # of a log, only where one is taken
        best = [row["best_run"] for row in json.loads((part / "results.json").read_text())["rows"]]
        assert best
        for name in (*advised, *best, *names):
            assert (part / name / "config.json").is_file()
    assert main(["compare", "--resume", str(folder)]) == 0
    assert f"Itsbestrunis{folder}/" in "".join(capsys.readouterr().out.split())


def test_a_moved_comparison_goes_on(folder: Path, tmp_path: Path, forked_comparisons: None) -> None:
    """Breaks where runs on the log look for it where it was."""
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    run = moved / "offline" / "behaviour_cloning_s0"
    (run / "evaluation.json").unlink()
    assert main(["compare", "--resume", str(moved)]) == 0
    assert json.loads((run / "config.json").read_text())["dataset"] == str(moved / "log")
    assert (moved / "table.md").read_text() == (folder / "table.md").read_text()


def test_the_log_is_of_the_best_the_weakest_and_random(folder: Path) -> None:
    policies = EpisodeDataset.open(folder / "log").about["policies"]
    assert {one["policy"] for one in policies} == {"none_s0", "r2d2_gru_s0", "random"}
    assert sum(one["num_episodes"] for one in policies) == 20


def test_resumed_nothing_is_done_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def times() -> dict[Path, int]:
        shown = ("report.html", "compare.png", "table.md", "results.json")
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name not in shown}

    before, results = times(), strict(folder / "results.json")
    assert main(["compare", "--resume", str(folder)]) == 0
    assert times() == before
    assert strict(folder / "results.json") == results
    assert "report.html" in capsys.readouterr().out


def test_interrupted_it_shows_what_is_done(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "r2d2_gru_s0" / "evaluation.json").unlink()
    monkeypatch.setattr("seqrl.comparison.online.run_all", interrupt)
    assert main(["compare", "--resume", str(tmp_path / "copy")]) == 130
    assert [row["approach"] for row in strict(tmp_path / "copy" / "results.json")["rows"]] == ["ppo:none"]


def test_a_comparison_of_before_is_read(folder: Path, tmp_path: Path) -> None:
    """Its config knows memories alone, and its folders are called after them."""
    data = strict(folder / "config.json")
    new = ("approaches", "override", "threshold", "horizon_sweep", "horizon_seeds", "log_episodes", "horizon_steps")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in data.items() if k not in new}))
    config = read_comparison(tmp_path)
    online, offline = config.named()
    assert [str(approach) for approach in online] == ["ppo:none", "ppo:frame_stack", "ppo:gru"]
    assert not offline
    assert config.runs_of(online[1])[0].run_dir == str(tmp_path / "frame_stack_s0")


# Break: `means[run]` for `-means[run]`, or the middle of the unsorted list.
def test_players(tmp_path: Path) -> None:
    for name, value in (("a", 2.0), ("b", 9.0), ("c", -1.0), ("d", 5.0), ("e", 3.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps({"returns": [value, value]}))
    runs = [tmp_path / name for name in "abcde"]
    assert [run.name for run in players(runs)] == ["b", "e", "c"]
    assert [run.name for run in players(runs[:2])] == ["b", "a"]
    assert [run.name for run in players(runs[:1])] == ["a"]


# --------------------------------------------------------------------------------------------------------- the table


def row(approach: str, *means: float, **changes: Any) -> Row:
    mean, half_width = mean_and_half_width(means)
    figures: dict[str, Any] = {
        "approach": approach, "memory": approach.partition(":")[2], "mean": mean, "half_width": half_width,
        "seed_means": list(means), "steps_per_second": 12345.6, "num_parameters": 1234567, "seconds": 1234.5,
        "best_run": f"runs/{approach}_s0", "curves": [[(500.0, mean), (1000.0, mean)] for _ in means],
        "num_steps": 1000, "reached": [value >= 0.9 for value in means], "steps_to_threshold": [45678.0 for _ in means],
        "seconds_to_threshold": [123.4 for _ in means],
    }  # fmt: skip
    return Row(**{**figures, **changes})


def method(name: str, *returns: float, **changes: Any) -> MethodRow:
    figures: dict[str, Any] = {
        "method": name, "returns": Score.of(list(returns)), "calibrated": None, "asked_for": None, "held_out": {},
        "promise": None, "calibrations": [], "seconds": 9.0, "num_parameters": 77, "best_run": f"runs/{name}_s0",
    }  # fmt: skip
    return MethodRow(**{**figures, **changes})


def offline(*rows: MethodRow, highest: float = 2.0) -> OfflineComparison:
    return OfflineComparison(
        dataset="log", env="Env-v0", num_steps=10, num_seeds=2, num_episodes=5, best_share=0.1, differences={},
        data={"lowest": 0.0, "highest": highest, "mean": 1.0, "episodes": 9, "decisions": 99}, rows=list(rows),
    )  # fmt: skip


def everything() -> Comparison:
    rows = [row("ppo:none", 0.5, 0.5), row("ppo:linear_attention", 0.9, 1.0, exploring=True)]
    rows += [row("r2d2:gru", 1.0, 1.0, delta_q=0.1234, num_steps=400)]
    methods = offline(
        method("behaviour_cloning", 1.0, 1.0),
        method("decision_transformer", 2.0, 2.0, follows=Score.of([0.9, 0.95])),
        method("qdt", 3.0, 3.0),
    )
    found = {"ppo:none": tried(False), "ppo:linear_attention": tried(True, False), "r2d2:gru": tried(True, True)}
    return Comparison(
        env="seqrl/TMaze-v0 length=10", num_steps=1000, num_episodes=100, optimal=3.0, memoryless=0.5, rows=rows,
        threshold=0.9, offline=methods, verdict=["It stitches."],
        horizon=Horizon(key="length", values=[2.0, 4.0], tried=found),
    )  # fmt: skip


def test_the_table_has_what_was_measured() -> None:
    columns = everything().columns()
    assert columns["approach"][2:4] == ["r2d2:gru", "behaviour_cloning"]
    assert columns["reached"] == ["0/2", "2/2", "2/2", "2/2", "2/2", "2/2"]
    assert columns["steps to it"][:3] == ["45.7k", "~45.7k", "45.7k"]
    assert columns["horizon (length)"] == ["< 2", "2", "≥ 4", "–", "–", "–"]
    assert columns["ΔQ"] == ["–", "–", "0.12", "–", "–", "–"]
    assert columns["beyond log"] == ["–", "–", "–", "no", "no", "yes"]
    assert columns["asked/got"][4] == "0.93"
    alone = replace(everything(), offline=None, horizon=None).columns()
    assert not {"beyond log", "asked/got", "horizon (length)"} & set(alone)
    text = everything().markdown(advice(everything()))
    assert "1,000 steps (r2d2:gru 400); 2 seeds" in text
    assert text.endswith("\n- It stitches.\n")


def test_the_caption_says_what_counts() -> None:
    # Breaks when a share is said without what it is of, or a return that was given as a number is called a share.
    share = replace(everything(), share=0.9)
    without = replace(share, optimal=None)
    of_way = "90 % of the way from random actions to the best approach"
    for result, words in (
        (everything(), "; reached: at least 0.9; horizon: the largest length at which a run reaches as much; "),
        (share, "; reached: at least 0.9, 90 % of the optimum; horizon: the largest length at which a run reaches the "
                "same share; "),
        (replace(share, optimal=-2.0), "; reached: at least 0.9, the optimum less 10 % of its size; "),
        (without, f"; reached: at least 0.9, {of_way}; "),
        (replace(without, threshold=math.nan), "; reached: by none, as none is clearly above random actions; horizon: "
                                               f"the largest length at which a run reaches {of_way}; "),
    ):  # fmt: skip
        assert words in result.caption()
    longer = replace(share, horizon=Horizon(key="length", values=[2.0], tried={"ppo:none": []}, steps=2.0))
    assert "horizon" not in longer.caption()  # every run at the first value failed
    assert share.horizon is not None
    longer = replace(share, horizon=replace(share.horizon, steps=2.0))
    assert "at which a run of 2 times the steps reaches the same share" in longer.caption()


def shown(table: Table, width: int = WIDTH) -> list[str]:
    """Its lines, which fit `width`, in a terminal that is wide enough for more."""
    console = Console(width=2 * WIDTH, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    return lines


# Break: no column is left out, or widths are those of headers that do not break.
def test_the_terminal_s_table_fits() -> None:
    lines = shown(everything().table())
    for words in ("ppo:linear_attention", "0.95 ± 0.635", "decision_transformer", "~45.7k", "≥ 4"):
        assert any(words in line for line in lines), words
    assert "asked/got" in " ".join(lines)


def test_a_narrow_terminal_has_the_columns_that_say_most() -> None:
    lines = shown(everything().table(80), 80)
    assert any("0.95 ± 0.635" in line for line in lines)
    assert "reached" in " ".join(lines)


def test_the_methods_table_fits() -> None:
    calibrated = {"calibrated": Score.of([-1234.5, -987.6]), "asked_for": Score.of([-1001.5] * 2)}
    rows = [method(name, -1234.5, -1000.1, **calibrated) for name in ("behaviour_cloning", "decision_transformer")]
    lines = shown(offline(*rows).table())
    assert any("decision_transformer" in line and "-1117 ± 1490" in line for line in lines)
    assert any("(the log's highest)" in line for line in lines)


# Break: 0.0 in place of 2 % of the span, or the mean in place of the interval.
def test_beyond_the_log() -> None:
    found = offline(method("qdt", 2.03, 2.031))
    assert found.beyond(found.rows[0]) == "no"  # within 2 % of the span of 2
    assert found.beyond(method("qdt", 3.0, 2.9)) == "yes"
    assert found.beyond(method("qdt", 3.0, 2.1)) == "no"  # its interval holds 2
    assert found.beyond(method("qdt", 2.0, 2.0), optimal=2.0) == "–"


def test_advice_names_algorithms_where_there_are_several() -> None:
    words = advice(replace(everything(), optimal=1.0))
    assert words.startswith("Take r2d2:gru: it reaches 1, while ppo:none reaches 0.5.")
    assert "Nothing is gained by ppo:linear_attention." in words
    # Breaks when what could be gained is not bounded by the optimum: two seeds say little of their mean.
    unbounded = advice(replace(everything(), optimal=None))
    assert "2 seeds do not settle whether ppo:linear_attention would bring more" in unbounded


@pytest.mark.filterwarnings("error", "ignore::pytest.PytestUnraisableExceptionWarning")  # others' garbage
def test_the_plot_with_a_horizon(tmp_path: Path) -> None:
    import matplotlib.image

    plot_comparison(everything(), tmp_path / "compare.png")
    pixels = matplotlib.image.imread(tmp_path / "compare.png")
    assert pixels[..., :3].std() > 0.05
    assert (pixels[0, :, :3] == 1).all()
    assert (pixels[:, -1, :3] == 1).all()
    assert np.array(pixels).shape[1] > 1500
