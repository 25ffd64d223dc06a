"""The pages of runs and comparisons: all that was measured is on them, and a damaged file costs no page."""

import json
import math
import re
from urllib.parse import quote

import pytest
from markup_reading import EVIL, Page
from page_contents import run_folder

from seqrl.cli import main
from seqrl.comparison.report import Horizon, Tried
from seqrl.errors import UserError
from seqrl.pages import markdown
from seqrl.pages.charts import Style
from seqrl.pages.comparison_page import (
    asked_for,
    comparison_page,
    horizon,
    largest_solved,
    line_over_seeds,
    write_comparison_page,
)
from seqrl.pages.run_page import run_page, shown
from seqrl.reports.run import plot_run


@pytest.mark.parametrize("num_lines", [1, 2, 700])
def test_short_and_long_runs(tmp_path, num_lines):
    lines = [{"step": 10.0 * k, "episode_return": math.sin(k)} for k in range(num_lines)]
    document = run_page(run_folder(tmp_path / "run", lines, env="seqrl/TMaze-v0"))
    read = Page(document)
    assert "optimal" in read.text
    assert "best without memory" in read.text
    assert len(document) < 60_000


# Break: evaluations are shown with returns of training alone, which a short run in long episodes has none of.
def test_evaluations_and_which_agent_is_kept(tmp_path):
    lines = [{"step": 10.0, "eval_return": 5.0}, {"step": 20.0, "eval_return": 3.0, "kept_return": 5.0}]
    read = Page(run_page(run_folder(tmp_path / "run", lines)))
    assert all(word in read.text for word in ("best, last 5, 3", "of the agent that is kept 5", "Dots:"))
    assert "kept return" not in read.text  # one number needs no panel


def test_a_run_from_a_log_counts_updates(tmp_path):
    lines = [{"step": s, "log_likelihood": -1 / s, "steps_per_second": 9.0} for s in (1.0, 2.0)]
    read = Page(run_page(run_folder(tmp_path / "run", lines, env="", dataset="logs/some", type="decision_transformer")))
    assert "updates per second" in read.text
    assert "environment steps" not in read.text


def interval(mean, half=0.5):
    return {"mean": mean, "half_width": half}


def test_markdown_of_our_tables():
    text = "# Title <b>\n\nAbove `code` and **strong**.\n\n| a | b |\n|---|---|\n| x \\| y | 1 |\n\n"
    text += "- one\n- two\n  more\n\nBelow."
    found = list(markdown.blocks(text))
    assert found == [
        markdown.Heading(1, "Title <b>"),
        markdown.Paragraph("Above `code` and **strong**."),
        markdown.Table(["a", "b"], [["x | y", "1"]]),
        markdown.Bullets(["one", "two\n  more"]),
        markdown.Paragraph("Below."),
    ]
    assert markdown.inline("`<i>` **<b>** <u>") == "<code>&lt;i&gt;</code> <strong>&lt;b&gt;</strong> &lt;u&gt;"
    # Must break: "--" left out of the pattern: a line ended behind it, and the next began with num-steps.
    flag = '<span class="flag">--num-steps</span>'
    assert markdown.inline("more --num-steps, a--b `--c`") == f"more {flag}, a--b <code>--c</code>"


TABLE = f"""# {EVIL}

3 seeds.

| memory | return (95 %) | new column |
| --- | --- | --- |
| none | 0.5 ± 0.1 | {EVIL} |
| gru | 0.9 ± 0.1 | 7 |

Take gru: {EVIL}
"""


def row(name, mean):
    curves = [[[10.0 * k, mean + s + 0.01 * k] for k in range(20)] for s in range(3)] + [[]]
    return {"approach": f"ppo:{name}", "memory": name, "mean": mean, "half_width": None, "seed_means": [mean] * 3,
            "curves": curves}  # fmt: skip


def comparison_folder(path, **results):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"type": "compare"}))
    (path / "table.md").write_text(TABLE)
    (path / "results.json").write_text(json.dumps(results))
    return path


HORIZON = {"key": "length", "values": [5, 10], "tried": {"ppo:gru": [
    {"value": 5, "needed": 0.9, "seed_means": [1.0], "solved": True},
    {"value": 10, "needed": 0.9, "seed_means": [0.5], "solved": False}]}}  # fmt: skip
OFFLINE = {
    "data": {"mean": 0.3, "highest": 1.0},
    "rows": [{"method": "qdt", "returns": interval(0.5) | {"seeds": [0.4, 0.6]},
              "calibrated": interval(0.6) | {"seeds": [0.6]},
              "calibrations": [{"targets": [0.0, 1.0], "achieved": [0.1, 0.8]}] * 2, "held_out": {}}],
}  # fmt: skip


# Breaks if: the mean is taken over the first seed's targets, by their places: another seed may have been asked for
# fewer, which cost the page its calibration.
def test_seeds_that_were_asked_for_different_returns_have_a_mean():
    rows = [OFFLINE["rows"][0] | {"calibrations": [
        {"targets": [0.0, 0.7, 1.0], "achieved": [0.1, 0.5, 0.8]}, {"targets": [0.0, 1.0], "achieved": [0.3, 0.4]},
    ]}]  # fmt: skip
    [shown] = asked_for(OFFLINE | {"rows": rows})
    assert "mean over seeds" in shown
    circles = Page(shown).classed("circle", "dot")
    assert len([a for a in circles if a.get("style")]) == 2 * 2  # at both targets, for wide and narrow windows


def test_a_comparisons_page_shows_whatever_was_measured(tmp_path):
    results = {"env": "e", "optimal": 1.0, "memoryless": 0.5, "rows": [row("none", 0.5), row("gru", 0.9)],
               "horizon": HORIZON, "offline": OFFLINE}  # fmt: skip
    folder = comparison_folder(tmp_path / "cmp", **results)
    run_folder(folder / "gru_s0", [{"step": 1.0, "loss": 1.0}])
    run_folder(folder / "gru_s1", [])
    assert write_comparison_page(folder) == folder / "report.html"
    read = Page((folder / "report.html").read_text())
    assert (folder / "gru_s0" / "report.html").is_file()
    assert not (folder / "gru_s1" / "report.html").exists()  # it has logged nothing
    assert [a["href"] for name, a in read.tags if name == "a"] == ["gru_s0/report.html"]
    expected = ["Figures", "Return when evaluated", "Learning curves", "Methods on the log", "Calibration",
                "Memory horizon", "Runs"]  # fmt: skip
    assert [word for word in read.words if word in expected] == expected
    assert len(read.classed("tr", "marked")) == 1
    assert "Take gru" in read.text
    assert "new column" in read.text
    assert read.count("script") == 1
    # Seeds of two memories, and of one method's calibration, each in a wide and a narrow drawing.
    assert len(read.classed("path", "thin")) == 2 * (2 * 3 + 2)


@pytest.mark.parametrize(
    "results", [{}, {"rows": []}, {"rows": [{"method": "bc"}]}, {"rows": 3}, {"rows": [row("gru", 1)]}]
)
def test_results_of_any_shape_have_a_page(tmp_path, results):
    folder = comparison_folder(tmp_path / "cmp", **results)
    Page(comparison_page(folder))
    (folder / "table.md").unlink()
    assert "cmp" in Page(comparison_page(folder)).text


# Break: the mean over what only some seeds have reached; a band of the range in place of Student's interval.
def test_the_band_is_students_interval_where_all_seeds_are():
    curves = [[(0.0, 1.0), (10.0, 1.0), (30.0, 1.0)], [(5.0, 3.0), (20.0, 3.0)]]
    line = line_over_seeds("a", curves, Style(0))
    assert (line.points[0][0], line.points[-1][0]) == (5.0, 20.0)
    assert {round(y, 9) for _, y in line.points} == {2.0}
    half = 12.7062 * math.sqrt(2) / math.sqrt(2)  # Student's t with one degree of freedom, s = √2, n = 2
    assert line.band[0] == pytest.approx((5.0, 2 - half, 2 + half), rel=1e-4)
    assert line_over_seeds("a", curves[:1], Style(0)).band == ()


# Break: "–" in place of "< 5", or `solved[-1]` alone: the legend and the table's cell would differ.
@pytest.mark.parametrize("solved", [(False,), (True, False), (True, True)])
def test_a_horizons_legend_says_what_the_table_says(solved):
    rows = [
        {"value": v, "needed": 0.9, "seed_means": [1.0], "solved": s} for v, s in zip((5, 10), solved, strict=False)
    ]
    sweep = Horizon(key="length", values=[5, 10], tried={"ppo:gru": [Tried(**row) for row in rows]})
    assert largest_solved(rows) == sweep.cell("ppo:gru")


# Break: `sorted(runs)` in `_links`: by alphabet; a method's best run first; 10 before 2, or −3 as 3.
def test_runs_in_the_tables_order(tmp_path):
    rows = [row(name, 1.0) | {"runs": [f"{name}_s{seed}" for seed in (0, 1, 10)]} for name in ("none", "gru")]
    methods = [{"method": name, "best_run": f"offline/{name}_s10"} for name in ("qdt", "behaviour_cloning")]
    folder = comparison_folder(tmp_path / "cmp", rows=rows, horizon=HORIZON, offline={"rows": methods})
    names = [run for each in rows for run in each["runs"]]
    names += [f"offline/{each['method']}_s{seed}" for each in methods for seed in (0, 2, 10)]
    names += [f"horizon/length={length}/{name}_s0" for length in (-3, 2, 10) for name in ("none", "gru")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        run_folder(folder / name, [{"step": 1.0, "loss": 1.0}])
    text = write_comparison_page(folder).read_text()
    assert re.findall(r'<a href="([^"]*)/report.html"', text) == [*map(quote, names)]


# Break: a panel for what never changes; "who waits for whom" above the speed of a single process; "a run" as the title.
def test_what_a_runs_page_leaves_out(tmp_path):
    lines = [{"step": 10.0 * k, "epochs": 6, "moves": k, "steps_per_second": 9.0} for k in range(3)]
    read = Page(run_page(run_folder(tmp_path / "one", lines, run_dir="runs/where_it_was")))
    assert not [word for word in ("epochs", "waits for whom", "where_it_was") if word in read.text]
    assert "moves" in read.text
    read = Page(run_page(run_folder(tmp_path / "many", [line | {"policy_lag": 1.0} for line in lines])))
    assert "waits for whom" in read.text


# Breaks if: numbers of four digits have no comma, beside key figures that have one.
def test_settings_are_written_like_key_figures():
    assert [shown(value) for value in (8_000, 64, True, 0.5, [])] == ["8,000", "64", "yes", "0.5", "–"]


def test_a_reward_models_page(tmp_path):
    lines = [{"step": s, "accuracy": 1.0, "held_out_accuracy": 1.0, "steps_per_second": 9.0} for s in (1.0, 2.0)]
    about = {"type": "reward_model", "env": "", "env_kwargs": [], "preferences": "logs/prefs.jsonl"}
    folder = run_folder(tmp_path / "run", lines, **about)
    read = Page(run_page(folder))
    assert "foreseen" not in read.text
    assert all(word in read.text for word in ("share of pairs put in the right order", "100 %", "updates per second"))
    assert "<h1>prefs.jsonl</h1>" in run_page(folder)
    # Must break: "prompts" left out of SUBJECTS, which had rlhf's pages called "a run".
    folder = run_folder(
        tmp_path / "tuned", lines, **about | {"type": "rlhf", "preferences": "", "prompts": "logs/talks.jsonl"}
    )
    assert "<h1>talks.jsonl</h1>" in run_page(folder)
    plot_run(folder)


# Break: a line through the one value that was tried, which cannot be seen, and an axis that ends where approaches did.
def test_a_sweep_of_which_one_value_was_tried(tmp_path):
    tried = [{"value": 116, "needed": 0.9, "seed_means": [0.5], "solved": False}]
    text = "".join(horizon({"key": "length", "values": [116, 240], "tried": {"ppo:none": tried}}))
    assert "counts as solved" in text
    read = Page(text)
    level = read.classed("line", "level")[0]
    assert float(level["x2"]) - float(level["x1"]) > 500
    assert ">240<" in text
    both = [tried[0] | {"solved": True}, tried[0] | {"value": 240}]
    read = Page("".join(horizon({"key": "length", "values": [116, 240], "tried": {"ppo:none": both}})))
    colours = {a["data-name"]: a["style"] for a in read.classed("path", "line")}
    assert colours["counts as solved"] != colours["none"]


# Break: null as 0, or as no page at all; a bar across values at which nothing counts as solved.
def test_a_sweep_without_an_optimum_shows_where_random_actions_are():
    tried = [{"value": 5, "needed": 0.8, "random": 0.1, "seed_means": [0.9], "solved": True},
             {"value": 10, "needed": None, "random": 0.2, "seed_means": [0.3], "solved": False}]  # fmt: skip
    text = "".join(horizon({"key": "length", "values": [5, 10, 20], "tried": {"ppo:gru": tried}}))
    lines = [a["data-name"] for a in Page(text).classed("path", "line")]
    assert set(lines) == {"random actions", "gru", "counts as solved"}
    assert "nothing counts as solved" in text
    alone = "".join(horizon({"key": "length", "values": [10], "tried": {"ppo:gru": tried[1:]}}))
    assert "random actions" in alone
    assert "counts as solved<" not in alone
    assert "nothing counts" not in "".join(horizon({"key": "length", "values": [5], "tried": {"ppo:gru": tried[:1]}}))


# Breaks if: sentences keep the hyphens that table.md has, beside axes with minus signs; flags keep theirs.
def test_sentences_have_the_minus_signs_of_axes(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    told = "# e\n\nrandom actions -1.3\n\n| m | r |\n|---|---|\n| a | 1 |\n\n"
    told += "It brings -0.335: more --num-steps.\n\n- -7 too\n"
    (tmp_path / "table.md").write_text(told)
    text = Page(comparison_page(tmp_path)).text
    assert all(words in text for words in ("actions −1.3", "brings −0.335", "−7 too", "--num-steps"))


# Break: all settings in the table, those of one run alone, or those before what came out; the first tenth of the
# returns for the last.
def test_a_folder_of_runs(tmp_path, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name, rate in (("a b", 1e-3), ("c", 3e-4)):
        lines = [{"step": 100.0 * k, "episode_return": k * rate * 1e3, "steps_per_second": 50.0} for k in range(1, 21)]
        run_folder(folder / name, lines, learning_rate=rate, run_dir=f"old/{name}")
    run_folder(folder / "begun", [])
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    text = (folder / "report.html").read_text()
    assert Page(text).within("td") == ["19.5", "2,000", "40", "0.001", "5.85", "2,000", "40", "0.0003"]
    assert "learning rate" in text
    assert "num envs" not in text
    assert 'href="a%20b/report.html"' in text
    assert {a["data-name"] for a in Page(text).classed("path", "line")} == {"a b", "c"}
    assert (folder / "c" / "report.html").is_file()
    for name in ("a b", "c"):
        (folder / name / "metrics.jsonl").write_text('{"step": 9')
    assert main(["report", str(folder)]) == 2
    assert "no run in" in capsys.readouterr().err


def test_report_and_its_errors(tmp_path, capsys):
    folder = comparison_folder(tmp_path / "cmp", rows=[])
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    (folder / "results.json").unlink()
    assert main(["report", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(UserError, match="nothing yet"):
        run_page(run_folder(tmp_path / "empty", []))
