"""The ablation of V-trace: its comparison by seed, and panels that come to the file one after another."""

import json
import sys

import pytest

from benchmarks import vtrace_ablation
from benchmarks.vtrace_ablation import paired, summarize


def run(correction, seed, value, lag=32, task="tmaze", replay=0.0):
    shares = {"policy_lag": float(lag), "clipped_rho": 0.5, "clipped_c": 0.5}
    row = {"task": task, "correction": correction, "lag": lag, "replay": replay, "seed": seed, **shares}
    return row | {"training_return": value, "return": 10 * value, "curve": []}


def diverged(*args, **kwargs):
    row = run(*args, 0.0, **kwargs)
    return {name: row[name] for name in row if name not in ("training_return", "return")} | {"diverged": "nan"}


# Breaks if runs are paired by their place in place of their seed: `zip(ours, others)`.
def test_v_trace_is_compared_seed_by_seed():
    ours = [run("vtrace", 0, 3.0), run("vtrace", 1, 5.0), run("vtrace", 2, 9.0)]
    none = [run("none", 7, 50.0), run("none", 2, 3.0), run("none", 1, 2.0), run("none", 0, 4.0)]
    one_step = [run("one_step", 0, 1.0), diverged("one_step", 1)]
    elsewhere = [run("none", 0, 99.0, replay=0.5), run("none", 0, 99.0, lag=8)]
    elsewhere += [run("none", 5, 0.0, lag=0), run("vtrace", 5, 1.0, lag=0)]  # on policy there is nothing to correct
    by = {row["minus"]: row for row in paired(ours + none + one_step + elsewhere)}
    assert set(by) == {"none", "one_step"}
    assert (by["none"]["seeds"], by["one_step"]["seeds"]) == (3, 1)  # what diverged has no return
    difference = by["none"]["training_return"]
    assert difference["mean"] == pytest.approx((-1 + 3 + 6) / 3)
    # Student's quantile of 2 degrees of freedom, over the deviation of −1, 3 and 6
    assert difference["half_width"] == pytest.approx(4.302653 * 3.511885 / 3**0.5, rel=1e-5)
    assert difference["above"] == by["none"]["return"]["above"] == 2
    assert by["none"]["return"]["mean"] == pytest.approx(10 * difference["mean"])
    assert by["one_step"]["training_return"]["half_width"] is None


def test_each_row_says_how_many_seeds_it_has():
    runs = [run("vtrace", seed, float(seed)) for seed in range(4)] + [run("none", 0, 1.0), diverged("none", 1)]
    ours, none = summarize(runs)
    assert (ours["seeds"], ours["diverged"], none["seeds"], none["diverged"]) == (4, 0, 2, 1)
    assert ours["training_return"] == {"mean": 1.5, "lowest": 0.0, "highest": 3.0}
    assert none["return"] == {"mean": 10.0, "lowest": 10.0, "highest": 10.0}


# Breaks if runs are sorted by the panels that were asked for: those of others have no place among them.
def test_one_panel_is_added_to_the_others(tmp_path, monkeypatch):
    output, asked = tmp_path / "out.json", []

    def run_all(jobs, workers):
        for task, correction, lag, share, seed, _short in jobs:
            asked.append((task, correction, lag, share, seed))
            yield run(correction, seed, 1.0, lag, task, share)

    monkeypatch.setattr(vtrace_ablation, "run_all", run_all)
    old = {
        "command": "python -m benchmarks.vtrace_ablation --old",
        "runs": [run("vtrace", 0, 0.5), run("none", 0, 0.1)],
    }
    output.write_text(json.dumps(old))
    flags = ["--tasks", "masked_cartpole", "tmaze", "--lags", "32", "--replay-shares", "0", "--seeds", "0", "4"]
    flags += ["--corrections", "vtrace"]
    monkeypatch.setattr(sys, "argv", ["vtrace_ablation", *flags, "--output", str(output)])
    vtrace_ablation.main()
    assert ("tmaze", "vtrace", 32, 0.0, 0) not in asked  # it was there
    result = json.loads(output.read_text())
    assert len(asked) == 3
    assert [(r["task"], r["correction"], r["seed"]) for r in result["runs"]] == [
        ("masked_cartpole", "vtrace", 0),
        ("masked_cartpole", "vtrace", 4),
        ("tmaze", "vtrace", 0),
        ("tmaze", "vtrace", 4),
        ("tmaze", "none", 0),
    ]
    assert [row["seeds"] for row in result["summary"]] == [2, 2, 1]
    assert result["paired"][0]["training_return"] == {"mean": 0.4, "half_width": None, "above": 1}
    assert result["commands"][0].endswith("--old")
    assert "--tasks masked_cartpole" in result["commands"][1]
    assert output.with_suffix(".png").exists()
