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
from seqrl.pages.findings import SECTIONS, findings
from seqrl.pages.run_page import run_page
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


CALIBRATION = {
    "calibration": {
        "targets": [0.0, 1.0, 2.0], "achieved": [0.1, 0.9, 0.8], "half_width": [0.1, 0.1, 0.2], "support": [9, 3, 0],
        "data_range": [0.0, 1.0], "rank_correlation": None, "recommended": 1.0, "num_episodes": 20, "gamma": 1.0,
    },
    "bins": [
        {"low": 0.0, "high": 1.0, "decisions": 1234, "log_likelihood": -0.5, "accuracy": 0.8, "squared_error": None}
    ],
}  # fmt: skip
POLICY = {"total": interval(3.0, None), "first": 0.1, "last": 0.9, "share_of_optimal": 0.75,
          "curve": {"mean": [0.1, None, 0.9], "half_width": [0.1, None, 0.1]}}  # fmt: skip
ADAPTATION = {
    "policies": {"agent": POLICY, EVIL: POLICY, "optimal": POLICY},
    "num_trials": 50, "num_episodes": 3, "digest": "ab" * 8,
}  # fmt: skip
FRONTIER = {
    "points": [
        {"beta": b, "return": interval(b), "gain": interval(b), "kl_of_dialogue": interval(b * b), "turns": 2.0,
         "kl_of_token": interval(b)} for b in (0.0, 1.0, 4.0)
    ],
    "enough": 1.0, "best": 4.0, "num_dialogues": 99,
}  # fmt: skip
SPAN = {"value": 2.0, "low": 1.5, "high": 4.0}
SHIPPING = {
    "verdict": "do not ship", "num_dialogues": 1212, "num_turns": 3434, "effective_size": 17.5, "logged": SPAN,
    "estimates": {EVIL: SPAN, "fitted": {"value": 3.0, "low": None, "high": None}},
    "effective_size_by_turn": [1212.0, 100.0, 17.5], "requirements": {"min_effective_size": 50.0},
    "checks": [{"name": EVIL, "passed": False, "reason": EVIL}, {"name": "rewards", "passed": True, "reason": "all"}],
}  # fmt: skip
BIN = {"low": 0.5, "high": 0.6, "pairs": 77, "foretold": 0.55, "right": 0.5}
HELD_OUT = {
    "pairs": 88, "accuracy": 0.724, "log_loss": 0.6, "calibration_error": 0.05, "disagreement": 0.3,
    "length_correlation": 0.2, "longer_chosen": 0.5, "longer_preferred": 0.6,
    "calibration": [BIN, BIN | {"pairs": 0, "low": 0.9, "high": 1.0, "foretold": 0.0, "right": 0.0}],
}  # fmt: skip
FILES = {
    "calibration.json": CALIBRATION, "adaptation.json": ADAPTATION, "frontier.json": FRONTIER,
    "shipping.json": SHIPPING, "held_out.json": HELD_OUT,
}  # fmt: skip


# Breaks if: references are given their styles without the agent, whose blue is then the first one's as well; or the
# level's figure is left out, which is of an inner episode, under "beside the names: the return of a trial".
def test_the_agent_is_told_from_what_it_is_compared_with():
    data = ADAPTATION | {"policies": {"agent": POLICY, "greedy": POLICY, "optimal": POLICY}}
    page = Page("".join(map(str, SECTIONS["adaptation.json"](data))))
    colours = {attributes["data-name"]: attributes["style"] for attributes in page.classed("path", "line")}
    assert colours["agent"] != colours["greedy"]
    assert "optimal 3" in page.text


# Break: a file of SECTIONS that is not looked for.
def test_what_was_measured_afterwards_is_shown(tmp_path):
    assert set(FILES) == set(SECTIONS)
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    read = Page("".join(findings(tmp_path)))
    words = ("1,234", "80", "nats", "β", "50 trials", "75.0 %", "recommended", "0.800")
    for word in (*words, "Ship it? Do not ship", "NO", "1,212 dialogues", "72.4 %", "77"):
        assert word in read.text
    # The stars of what is recommended, and of what is enough, each in a wide and a narrow drawing.
    assert len(read.classed("polygon", "dot")) == 2 * 2
    assert read.count("script") == 0


# Break: `relabelled` not read, which files of before do not have.
def test_foreseen_by_relabelled_returns_is_told_as_that():
    before, relabelled = (
        Page("".join(map(str, SECTIONS["calibration.json"](CALIBRATION | more)))) for more in ({}, {"relabelled": True})
    )
    assert "by what the rest of their episode brought" in before.text
    assert "by what values of the log promise for the rest" in relabelled.text


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"calibration": {"targets": 3}, "bins": []}'])
def test_a_damaged_file_costs_no_page(tmp_path, content):
    folder = run_folder(tmp_path / "run", [{"step": 1.0, "loss": 1.0}])
    for name in FILES:
        (folder / name).write_text(content)
    read = Page(run_page(folder))
    assert read.text.count("cannot be shown") == len(FILES)


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


# Golden: `ends` left out of `interval_chart`'s range, or of `_estimate`: the whisker ends where the mean's half would.
def test_an_interval_may_be_longer_on_one_side(tmp_path):
    (tmp_path / "shipping.json").write_text(json.dumps(SHIPPING))
    read = Page("".join(findings(tmp_path)))
    places = [float(a["cx"]) for a in read.classed("circle", "dot")][:2]
    across = [a for a in read.classed("line", "whisker") if a["y1"] == a["y2"]]
    assert len(across) == 2 * 2  # fitted values have none; and there is a wide and a narrow drawing
    for place, line in zip(places, across[:2], strict=True):
        left, right = place - float(line["x1"]), float(line["x2"]) - place
        assert right / left == pytest.approx(4, rel=0.05)


# Golden: a value that is not known drawn as 0, as `_estimate` once did.
def test_an_estimate_without_a_value_is_named_and_not_drawn(tmp_path):
    name = list(SHIPPING["estimates"])[-1]
    estimates = {**SHIPPING["estimates"], name: {"value": None, "low": None, "high": None}}
    dots = []
    for content in (SHIPPING, {**SHIPPING, "estimates": estimates}):
        (tmp_path / "shipping.json").write_text(json.dumps(content))
        text = "".join(findings(tmp_path))
        dots.append(len(Page(text).classed("circle", "dot")))
    assert dots[1] < dots[0]
    assert f"Without a finite value: {name}" in text
