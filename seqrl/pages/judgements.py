"""What speaks for and against a run that speaks, or judges: sections of its page, each of a command's file."""

from typing import Any

from seqrl.language.reward_report import error_by_chance
from seqrl.pages.charts import LARGE, NEUTRAL, Estimate, Level, Line, Style, interval_chart, line_chart, styles_of
from seqrl.pages.html import Html, element, figure, section, table
from seqrl.statistics import percent

LOGGED = "logged"


def shipping(data: dict[str, Any]) -> list[Html]:
    """The verdict of `seqrl ship`: what must hold, the estimates beside the log's mean, and what weighting left."""
    every = {LOGGED: data["logged"], **data["estimates"]}
    intervals = {name: each for name, each in every.items() if each["value"] is not None}
    unknown = [name for name in every if name not in intervals]
    level = Level(name="the log's mean", value=data["logged"]["value"])
    chart = interval_chart(
        [(name, [_estimate(each)]) for name, each in intervals.items()],
        x_label="mean return of a dialogue", levels=[level],
        styles={LOGGED: Style(NEUTRAL), **styles_of(list(data["estimates"]))},
    )  # fmt: skip
    caption = (
        f"{data['num_dialogues']:,} dialogues with {data['num_turns']:,} turns of the agent, worth "
        f"{data['effective_size']:.1f} after weighting. 95 % over resampled dialogues; the first of the estimates is "
        "the one to go by." + (f" Without a finite value: {', '.join(unknown)}." if unknown else "")
    )
    parts = [figure(chart, caption)]
    sizes = [(k + 1, size) for k, size in enumerate(data["effective_size_by_turn"]) if size is not None]
    if len(sizes) > 1:
        left = Line(name="after weighting", points=sizes, dots=len(sizes) <= 30)
        needed = Level(name="needed at the end", value=data["requirements"]["min_effective_size"])
        weighed = line_chart(
            [left], x_label="the agent's turns weighed", y_label="effective number of dialogues", levels=[needed],
            y_kind="log", size=LARGE, whole=True,
        )  # fmt: skip
        parts.append(element("div", figure(weighed), class_="spaced"))
    rows = [["yes" if each["passed"] else "NO", each["name"], each["reason"]] for each in data["checks"]]
    parts.append(element("div", table(["holds", "what must hold", "found"], rows), class_="card spaced"))
    about = "Off-policy estimates from logged dialogues: would it do better than what was logged?"
    judged = f" ({data['title']})" if data.get("title") else ""
    return [section(f"Ship it? {data['verdict'].capitalize()}{judged}", parts, about=about)]


def held_out(data: dict[str, Any]) -> list[Html]:
    """What pairs that a reward model did not learn from say of it: how often it is right, and how sure it should be."""
    sure = [each for each in data["calibration"] if each["pairs"]]
    came = Line(
        name="how often it was right", points=[(each["foretold"], each["right"]) for each in sure], dots=True,
        labels=[f"{each['pairs']:,}" for each in sure],
    )  # fmt: skip
    just = Line(name="as often as foretold", points=[(0.5, 0.5), (1.0, 1.0)], style=Style(NEUTRAL, "dashed"))
    chart = line_chart(
        [just, came], x_label="probability that it gave to the answer it prefers", y_label="share of pairs", size=LARGE
    )
    error, chance = percent(data["calibration_error"]), percent(error_by_chance(data["calibration"]))
    caption = f"{data['pairs']:,} pairs; numbers at the points are pairs. Calibration error {error}, "
    caption += f"where of as many pairs chance alone makes {chance}."
    rows = [
        ["pairs whose chosen answer has the higher score", percent(data["accuracy"])],
        ["log loss (0.693 knows nothing)", f"{data['log_loss']:.3f}"],
        ["disagreement of its models", f"{data['disagreement']:.2f}"],
        ["correlation of score and length", f"{data['length_correlation']:+.2f}"],
        ["pairs whose longer answer was chosen", percent(data["longer_chosen"])],
        ["pairs whose longer answer has the higher score", percent(data["longer_preferred"])],
    ]
    whole = element("div", table(["on these pairs", ""], rows), class_="card spaced")
    about = "Pairs that were held out: what it foretells of choices that it has not seen."
    return [section("As a judge", figure(chart, caption), whole, about=about)]


def _estimate(interval: dict[str, float | None]) -> Estimate:
    low, high = interval["low"], interval["high"]
    assert interval["value"] is not None
    return Estimate(interval["value"], ends=None if low is None or high is None else (low, high))
