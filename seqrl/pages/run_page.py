"""The page of one run: key figures, learning curves in groups, what was measured afterwards, and all settings."""

from pathlib import Path
from typing import Any

import numpy as np

from seqrl.config import parse_env_kwargs
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.errors import UserError
from seqrl.pages.charts import BLUE, LARGE, NEUTRAL, SMALL, Level, Line, Points, Style, line_chart
from seqrl.pages.findings import findings
from seqrl.pages.html import Html, definitions, element, figure, figures, grid, page, section, write_page
from seqrl.pages.scales import Kind
from seqrl.reports.common import mean_and_interval, smooth
from seqrl.reports.run import (
    PANELS,
    is_logarithmic,
    panel_heading,
    panels_of,
    problem,
    read_curves,
    read_settings,
    x_axis,
)
from seqrl.run_folder import read_json
from seqrl.statistics import mean_and_half_width, percent

RETURN, EVALUATED, KEPT = "episode_return", "eval_return", "kept_return"
DRAWS, DRAWN = "draws", "drawn_return"
TOLD = (RETURN, EVALUATED, KEPT, DRAWS, DRAWN, "likeliest_return")
"""What the first chart and the key figures have, and no panel of its own."""
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Learning": (
        "How well the update went, and what moved.",
        (
            "loss", "loss of the policy", "loss of the actor", "loss of values", "loss of the critic",
            "losses of Q and V", "conservative loss (CQL)", "loss in reading what others say",
            "entropy of the policy, nats", "temperature", "KL of an update, nats", "share of ratios that are clipped",
            "mean value", "mean value, held out", "size of errors", "norm of the gradient",
            "log-likelihood of logged actions", "share of logged actions foreseen", "squared error of logged actions",
        ),
    ),
    "Speaking": (
        "What is said, how far from where the policy began, and what watches over it.",
        (
            "KL from where it began, nats", "weight of the KL", "updates taken back, for the KL",
            "rewards that the policy implies", "rewards that it implies, held out", "tokens said in a conversation",
            "turns of a conversation", "share of what is said that", "return by the reward held out",
            "return grew while that fell, in spreads", "disagreement of the reward models",
            "monitor: 0 fine, 1 warns, 2 stops",
        ),
    ),
    "States and replay": (
        "How stale what is learnt from has become: ΔQ is how far values move where a sequence starts from an old state "
        "of memory and not from a fresh one.",
        ("staleness: ΔQ", "age of start states, in updates", "priorities"),
    ),
    "Speed and lag": (
        "How quickly rows come, how far those that act lag behind the learner, and who waits for whom.",
        (
            "policy lag, in updates", "share of importance weights that are clipped", "share of the clock",
            "trajectories that wait", "steps per second",
        ),
    ),
}  # fmt: skip
"""Headings, what stands under them, and the panels of `seqrl.reports.run.PANELS` that belong there."""
LAG = {name for panel in GROUPS["Speed and lag"][1][:-1] for name in PANELS[panel]}
"""Metrics of runs in which several processes wait for each other."""
TITLES = {
    "episode_length": "steps of an episode",
    "episodes": "episodes that ended",
    "epochs": "epochs of an update",
    "rows": "rows of a batch that count",
    "priority": "priority of what is learnt from",
    "rewards_clipped": "share of rewards that clipping moves from large to small",
    "teacher_weight": "weight of the teacher",
    "actor_grad_norm": "gradient of the actor",
    "critic_grad_norm": "gradient of the critic",
    "temperature_grad_norm": "gradient of the temperature",
}
"""Of metrics that have no panel with others; what is not here goes by its own name."""
COLOURS = (0, 1, 2, 3, 4)


def write_run_page(folder: Path) -> Path:
    """Write report.html into a run's folder, and return its path. Raises UserError where nothing has been logged."""
    return write_page(folder / "report.html", run_page(folder))


def run_page(folder: Path) -> Html:
    """The page. A metric that no group knows has a panel of its own under "More"."""
    config = read_settings(folder)
    curves = read_curves(folder)
    if not curves:
        raise UserError(f"{folder} has logged nothing yet: wait for its first update, or train it")
    x_label = x_axis(config)
    body: list[object] = [figures(_key_figures(folder, curves, x_label))]
    if RETURN in curves or EVALUATED in curves:
        body.append(section("Return", _returns(curves, config, x_label)))
    body += findings(folder)
    body += _groups(curves, config)
    body.append(section("Settings", element("div", definitions(_settings(config)), class_="card")))
    subject = [config.get("type"), config.get("memory") or config.get("model")]
    return page(
        problem(config) or "a run", *body, kind=" · ".join(str(word) for word in subject if word),
        subtitle=f"Run {folder.name}, seed {config.get('seed')}. All curves are drawn faint as logged, and smoothed "
        "over five updates.",
    )  # fmt: skip


def smoothed(name: str, curve: Points, style: Style = BLUE, figure: str = "") -> Line:
    """A curve smoothed over five updates, with what was logged behind it, thinned out where there are many updates."""
    steps = [step for step, _ in curve]
    grid = np.linspace(steps[0], steps[-1], 160 if len(curve) > 1 else 1)
    points = list(zip(grid.tolist(), smooth(list(curve), grid).tolist(), strict=True))
    every = max(1, len(curve) // 300)
    return Line(name=name, points=points, thin=[list(curve[::every])], style=style, figure=figure)


def _key_figures(folder: Path, curves: dict[str, Any], x_label: str) -> list[tuple[str, object]]:
    steps = max(step for curve in curves.values() for step, _ in curve)
    known: list[tuple[str, object]] = [(x_label, f"{steps:,.0f}")]
    if RETURN in curves:
        known.append(("return, last tenth of training", f"{last_tenth(curves[RETURN]):.4g}"))
    if EVALUATED in curves:
        known.append(("evaluated while training: best, last", _best_and_last(curves[EVALUATED])))
    if DRAWS in curves and curves[DRAWS][-1][1]:
        known.append(("of the agent that is kept, which draws", f"{curves[DRAWN][-1][1]:.4g}"))
    elif KEPT in curves:
        known.append(("of the agent that is kept", f"{curves[KEPT][-1][1]:.4g}"))
    known += _evaluated(folder)
    if "held_out_loss" in curves:
        known.append(("loss, held out", f"{curves['held_out_loss'][-1][1]:.4g}"))
    if "held_out_accuracy" in curves:
        known.append(("accuracy, held out", percent(curves["held_out_accuracy"][-1][1])))
    if "steps_per_second" in curves:
        known.append((f"{x_label.rpartition(' ')[2]} per second", _rate(curves["steps_per_second"][-1][1])))
    return known


def _rate(value: float) -> str:
    """As whole steps a second; the few updates of a large model with a digit behind the point, not as 0."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def last_tenth(curve: Points) -> float:
    """The mean of the last tenth of a curve's updates, at least one."""
    return float(np.mean([value for _, value in curve[-max(1, len(curve) // 10) :]]))


def _best_and_last(curve: Points) -> str:
    return f"{max(value for _, value in curve):.4g}, {curve[-1][1]:.4g}"


def _evaluated(folder: Path) -> list[tuple[str, object]]:
    """What a comparison measured of the run. Raises UserError where that is damaged."""
    if not (folder / "evaluation.json").is_file():
        return []
    evaluation, known = read_json(folder, "evaluation.json"), []
    try:
        if evaluation.get("returns"):
            shown = mean_and_interval(*mean_and_half_width([float(each) for each in evaluation["returns"]]))
            known.append(("return when evaluated (95 %)", shown))
        known.append(("parameters", f"{int(evaluation.get('num_parameters', 0)):,}"))
    except (TypeError, ValueError, ArithmeticError) as error:
        path = folder / "evaluation.json"
        raise UserError(f"{path} is damaged ({error}): delete it, and seqrl compare --resume measures again") from None
    return list[tuple[str, object]](known)


def _returns(curves: dict[str, Any], config: dict[str, Any], x_label: str) -> Html:
    levels = known_levels(config)
    lines, caption = [], ""
    if RETURN in curves:
        lines.append(smoothed("training episodes" if EVALUATED in curves else "return", curves[RETURN]))
        caption = "Mean return of the training episodes that ended in each update, exploration included. "
    if EVALUATED in curves:
        lines.append(Line(name="evaluated", points=curves[EVALUATED], style=Style(1), dots=True))
        caption += "Dots: the agent's likeliest actions, in the same episodes at every evaluation. "
    chart = line_chart(lines, x_label=x_label, y_label="return", levels=levels, size=LARGE, whole=True)
    return figure(chart, (caption + ("Dashed: exact, by planning." if levels else "")).strip())


def known_levels(config: dict[str, Any]) -> list[Level]:
    """The exact optimum with and without memory, where the environment's is known and nothing hides it."""
    if not config.get("env") or any(config.get(name) for name in ("hide", "flicker", "noise")):
        return []
    try:
        kwargs = parse_env_kwargs(tuple(config.get("env_kwargs", ())))
        best, without = optimal_return(config["env"], **kwargs), memoryless_return(config["env"], **kwargs)
    except (UserError, TypeError):  # an environment's arguments that are not known any more
        return []
    levels = [Level(name="optimal", value=best)] if best is not None else []
    return levels + ([Level(name="best without memory", value=without, dash="dotted")] if without is not None else [])


def _groups(curves: dict[str, Any], config: dict[str, Any]) -> list[Html]:
    """The sections of panels that have something to show. Of metrics that no group knows, constants have none."""
    sections, shown, x_label, panels = [], set(TOLD), x_axis(config), panels_of(curves)
    alone: list[Html] = []
    for title, (about, names) in GROUPS.items():
        cards = []
        for name in names:
            metrics = panels.get(name, {})
            shown |= set(metrics)
            if metrics:
                heading = panel_heading(name, metrics.values(), config)
                lines = [smoothed(label, curves[metric], Style(colour)) for (metric, label), colour
                         in zip(metrics.items(), COLOURS, strict=False)]  # fmt: skip
                kind: Kind = "log" if is_logarithmic(name, (curves[metric] for metric in metrics)) else "linear"
                cards.append(
                    figure(line_chart(lines, x_label=x_label, y_kind=kind, size=SMALL, whole=True), title=heading)
                )
        if title == "Speed and lag" and not shown & LAG:
            alone = cards  # of one panel, which needs no section of its own
        elif cards:
            sections.append(section(title, grid(cards), about=about))
    rest = [
        name for name, curve in curves.items()
        if name not in shown and (len(curve) == 1 or len({value for _, value in curve}) > 1)
    ]  # fmt: skip
    if alone or rest:
        cards = [figure(line_chart([smoothed(name, curves[name], Style(NEUTRAL))], x_label=x_label, whole=True),
                        title=TITLES.get(name, name.replace("_", " "))) for name in rest]  # fmt: skip
        unknown = "" if set(rest) <= set(TITLES) else "Other metrics of the run, by their names in metrics.jsonl."
        sections.append(section("More", grid(alone + cards), about=unknown))
    return sections


def _settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """All of config.json by name, but the folder: where it was may not be where it is."""
    hidden = ("type", "run_dir")
    return [(name.replace("_", " "), shown(value)) for name, value in config.items() if name not in hidden]


def shown(value: Any) -> str:
    """A setting's value as pages write it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value in ("", None) else str(value)
