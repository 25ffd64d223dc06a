"""What commands measured of a run after its training: a section of its page for each of their files."""

import json

import pytest
from markup_reading import EVIL, Page
from page_contents import run_folder

from seqrl.pages.findings import SECTIONS, findings
from seqrl.pages.run_page import run_page


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
          "regret": interval(7.5, 0.5), "regret_curve": {"mean": [2.0, 5.0, 7.5], "half_width": [None, 0.5, 0.5]},
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


# Breaks if: references go through the agent's blue again, dashed, once other colours are used up.
def test_no_reference_has_the_agents_colour():
    data = ADAPTATION | {"policies": {"agent": POLICY} | {f"r{k}": POLICY for k in range(17)}}
    page = Page("".join(map(str, SECTIONS["adaptation.json"](data))))
    looks = {a["data-name"]: (a["style"], a["class"]) for a in page.classed("path", "line")}
    assert len(set(looks.values())) == 18
    assert [name for name, (colour, _) in looks.items() if colour == looks["agent"][0]] == ["agent"]


# Breaks if: `regret_curve` is asked for like `curve`: adaptation.json of before, which has none, is not shown; or
# random actions are drawn, beside whose regret others lie flat.
def test_regret_has_a_chart_where_it_is_known():
    def page_of(names, found):
        data = ADAPTATION | {"policies": dict.fromkeys(names, found)}
        return Page("".join(map(str, SECTIONS["adaptation.json"](data))))

    page = page_of(("agent", "random", "greedy", "optimal"), POLICY)
    names = [attributes["data-name"] for attributes in page.classed("path", "line")]
    assert names == ["agent", "random", "greedy"] * 2 + ["agent", "greedy"] * 2  # each for wide and narrow windows
    assert page.text.count("7.5 ± 0.5") == 3  # who knows the task has no regret
    before = {name: value for name, value in POLICY.items() if not name.startswith("regret")}
    assert len(page_of(("agent", "greedy"), before).classed("path", "line")) == 4


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
