"""A run's page of curves."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from seqrl.cli import main
from seqrl.figures import png
from seqrl.reports.run import PANELS, plot_run


def run_folder(path: Path, lines: list[dict[str, float]]) -> Path:
    path.mkdir()
    config = {"type": "r2d2", "memory": "gru", "env": "$x_{$<b>", "env_kwargs": ["length=3"], "seed": 4}
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    return path


@pytest.mark.parametrize(
    ("names", "num_lines"),
    [(["episode_return"], 1), (["episode_return"], 2), ([name for names in PANELS.values() for name in names], 30)],
)
def test_every_metric_is_drawn(tmp_path, monkeypatch, names, num_lines, capsys):
    """Broken by a metric that is left out of a panel; a line cut short, and a single update, do no harm."""
    drawn: list[int] = []

    def counted(figure):
        drawn.extend(len(axis.lines) for axis in figure.axes if axis.get_visible())
        return png(figure)

    monkeypatch.setattr("seqrl.reports.run.png", counted)
    lines = [{"step": 10.0 * k, **dict.fromkeys(names, 1.0 + k)} for k in range(num_lines)]
    folder = run_folder(tmp_path / "run", lines)
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "report.png"), str(folder / "report.html")]
    assert sum(drawn) == 2 * len(names) - ("eval_return" in names)  # in full and smoothed, but for evaluations
    assert matplotlib.image.imread(folder / "report.png").std() > 0.01
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "report.html",
        "report.png",
    ]


def test_bad_input(tmp_path, capsys):
    empty = run_folder(tmp_path / "empty", [])
    for args, words in [
        ([], "needs a run folder"),
        ([str(tmp_path)], "no run in"),
        ([str(tmp_path.parent / "nowhere")], "not a run folder"),
        ([str(empty)], "nothing yet"),
    ]:
        assert main(["report", *args]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (empty / "report.png").exists()


def test_values_of_either_sign(tmp_path):
    """A logarithmic panel with a zero falls back to a linear one."""
    folder = run_folder(tmp_path / "run", [{"step": s, "delta_q_first": v} for s, v in ((1.0, 0.0), (2.0, 1.0))])
    assert plot_run(folder).exists()


# Breaks if: `marker` is left out, and of a metric that was logged once nothing is seen; or the axis of what is always 0
# begins below 0.
def test_a_single_value_and_a_constant_zero(tmp_path, monkeypatch):
    seen = {}

    def read(figure):
        for axis in figure.axes:
            if axis.get_visible():
                seen[axis.get_title()] = axis.lines[-1].get_marker(), axis.get_ylim()
        return png(figure)

    monkeypatch.setattr("seqrl.reports.run.png", read)
    lines = [{"step": s, "policy_lag": 0.0, **({"td_error": 0.5} if s == 2.0 else {})} for s in (1.0, 2.0, 3.0)]
    plot_run(run_folder(tmp_path / "run", lines))
    assert seen["size of errors: |δ|"][0] == "o"
    marker, (low, high) = seen["policy lag, in updates: mean"]
    assert (marker, -0.1 < low < 0, high > 1) == ("", True, True)


# Breaks if the axis of a run from a log says "environment steps".
def test_a_run_from_a_log_counts_updates(tmp_path, monkeypatch):
    lines = [{"step": s, "log_likelihood": -1 / s, "held_out_log_likelihood": -2 / s, "steps_per_second": 9.0}
             for s in (1.0, 2.0, 3.0)]  # fmt: skip
    folder = run_folder(tmp_path / "run", lines)
    config = json.loads((folder / "config.json").read_text())
    said: list[tuple[str, str]] = []

    def read(figure):
        said.extend((a.get_title(), a.get_xlabel()) for a in figure.axes if a.get_visible())
        return png(figure)

    monkeypatch.setattr("seqrl.reports.run.png", read)
    plot_run(folder)
    assert {label for _, label in said} == {"environment steps"}
    said.clear()
    (folder / "config.json").write_text(json.dumps(config | {"type": "decision_transformer", "dataset": "log"}))
    plot_run(folder)
    assert said == [("log-likelihood of logged actions", "updates"), ("updates per second", "updates")]
