"""One page of curves about one run: what it earned, what it learnt, and how stale its states were."""

import reprlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from seqrl.checkpoint import write_atomically
from seqrl.config import problem_name
from seqrl.errors import UserError
from seqrl.figures import png
from seqrl.reports.common import smooth
from seqrl.run_folder import read_json, read_metrics
from seqrl.statistics import with_minus

EVALUATED = "evaluated"
PANELS: dict[str, dict[str, str]] = {
    "return": {"episode_return": "training episodes", "eval_return": EVALUATED},
    "loss": {"loss": "loss", "held_out_loss": "held out"},
    "loss of the policy": {"policy_loss": "policy"},
    "loss of values": {"value_loss": "values"},
    "log-likelihood of logged actions": {"log_likelihood": "learnt from", "held_out_log_likelihood": "held out"},
    "share of logged actions foreseen": {"accuracy": "learnt from", "held_out_accuracy": "held out"},
    "squared error of logged actions": {"squared_error": "learnt from", "held_out_squared_error": "held out"},
    "loss of the actor": {"actor_loss": "actor"},
    "loss of the critic": {"critic_loss": "critic"},
    "losses of Q and V": {
        "q_loss": "Q", "v_loss": "V", "held_out_q_loss": "Q, held out", "held_out_v_loss": "V, held out",
    },
    "conservative loss (CQL)": {"cql": "learnt from", "held_out_cql": "held out"},
    "loss in reading what others say": {"reading_loss": "learnt from", "held_out_reading_loss": "held out"},
    "size of errors": {"td_error": "|δ|"},
    "norm of the gradient": {"grad_norm": "gradient"},
    "KL of an update, nats": {"kl": "KL", "kl_from_old": "from what spoke"},
    "share of ratios that are clipped": {"clipped_fraction": "clipped"},
    "entropy of the policy, nats": {"entropy": "entropy"},
    "temperature": {"temperature": "temperature"},
    "mean value": {
        "value": "value", "action_value": "of what was said", "proposed_value": "of proposals",
        "best_value": "of the best proposal",
    },
    "mean value, held out": {
        "held_out_value": "value", "held_out_action_value": "of what was said",
        "held_out_proposed_value": "of proposals", "held_out_best_value": "of the best proposal",
    },
    "KL from where it began, nats": {
        "kl_estimate": "as trained on", "kl_error": "standard error", "final_kl": "of the last policy",
        "held_out_kl": "held out",
    },
    "weight of the KL": {"kl_weight": "weight"},
    "updates taken back, for the KL": {"taken_back": "taken back"},
    "rewards that the policy implies": {
        "chosen_reward": "chosen", "rejected_reward": "rejected", "desirable_reward": "good answers",
        "undesirable_reward": "bad answers",
    },
    "rewards that it implies, held out": {
        "held_out_chosen_reward": "chosen", "held_out_rejected_reward": "rejected",
        "held_out_desirable_reward": "good answers", "held_out_undesirable_reward": "bad answers",
    },
    "tokens said in a conversation": {"tokens": "tokens"},
    "turns of a conversation": {"turns": "turns"},
    "share of what is said that": {
        "unfinished": "is cut off", "repetition": "repeats in its turn (4 tokens)",
        "distinct": "is new in its update (2 tokens)", "identical": "equals another turn",
    },
    "return by the reward held out": {"gold_return": "return"},
    "return grew while that fell, in spreads": {"gold_lost": "fell"},
    "disagreement of the reward models": {"disagreement": "disagreement"},
    "monitor: 0 fine, 1 warns, 2 stops": {"monitor": "monitor"},
    "staleness: ΔQ": {"delta_q_first": "first row learnt from", "delta_q_last": "last row"},
    "age of start states, in updates": {"state_age": "mean", "state_age_max": "largest"},
    "priorities": {"priority_median": "median", "priority_90": "90 %", "priority_max": "largest"},
    "policy lag, in updates": {"policy_lag": "mean", "policy_lag_max": "largest"},
    "share of importance weights that are clipped": {"clipped_rho": "ρ", "clipped_c": "c"},
    "share of the clock": {"actor_utilisation": "actors act", "learner_utilisation": "learner does not wait"},
    "trajectories that wait": {"queue_depth": "queue"},
    "steps per second": {"steps_per_second": "steps/s"},
}  # fmt: skip
"""Each panel's metrics, by their names in metrics.jsonl, as many as `COLOURS`; a panel without any is left out.
Those of one panel have one unit and about one size: beside a larger one a curve lies flat and tells nothing."""
FROM_THE_BEGINNING = {"kl_estimate", "desirable_reward"}
"""Metrics of runs whose `kl` is not what an update moved, but how far the policy is from where it began."""
SUBJECTS = ("env", "task", "dataset", "dialogues", "preferences", "prompts", "thumbs")
"""What a run may have learnt from: the first that it names is its title."""
LOGARITHMIC = ("size of errors", "norm of the gradient", "staleness: ΔQ", "priorities")
"""Panels of what may span powers of ten."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00")


def read_settings(folder: Path) -> dict[str, Any]:
    """What config.json says, of any version of seqrl. Raises UserError where what pages quote of it is damaged."""
    config = read_json(folder, "config.json")
    names = ("type", "memory", "model", *SUBJECTS)
    kwargs = config.get("env_kwargs", [])
    quoted = [config.get(name) or "" for name in names] + (kwargs if isinstance(kwargs, list) else [kwargs])
    if not all(isinstance(text, str) for text in quoted):
        wrong = next(text for text in quoted if not isinstance(text, str))
        raise UserError(
            f"{folder / 'config.json'} is damaged ({reprlib.repr(wrong)} is no text): restore it from a copy"
        )
    return config


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each metric of a run, in the order in which they were first logged."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in read_metrics(folder):
        for name, value in line.items():
            if name != "step":
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def panels_of(curves: Collection[str]) -> dict[str, dict[str, str]]:
    """The panels of what was logged, as in `PANELS`: each with the label of each of its metrics, in their order."""
    panels = PANELS
    if FROM_THE_BEGINNING & set(curves):
        update, far = "KL of an update, nats", "KL from where it began, nats"
        without = {name: label for name, label in PANELS[update].items() if name != "kl"}
        label = "exact" if "kl_estimate" in curves else "learnt from"
        panels = PANELS | {update: without, far: {"kl": label} | PANELS[far]}
    logged = {
        title: {name: label for name, label in metrics.items() if name in curves} for title, metrics in panels.items()
    }
    return {title: metrics for title, metrics in logged.items() if metrics}


def panel_heading(name: str, labels: Collection[str], config: dict[str, Any]) -> str:
    """A panel's title, and of a single curve, which has no legend, its label where the title does not hold it."""
    title = panel_title(name, config)
    [first, *others] = labels
    return title if others or first in f"{title} steps/s" else f"{title}: {first}"


def is_logarithmic(title: str, curves: Iterable[Sequence[tuple[float, float]]]) -> bool:
    """Whether a panel has a logarithmic axis: one of less than a power of ten would hardly have a number beside it."""
    values = [value for curve in curves for _, value in curve]
    return title in LOGARITHMIC and min(values) > 0 and max(values) > 10 * min(values)


def problem(config: dict[str, Any]) -> str:
    """What a run learnt from, an environment with its arguments, of a file its name; empty where it names nothing."""
    named = next(filter(None, (config.get(name) for name in SUBJECTS)), "")
    name = Path(named).name if "/" in named and "-v" not in named else named
    return problem_name({**config, "env": name, "env_kwargs": config.get("env_kwargs", ())})


def x_axis(config: dict[str, Any]) -> str:
    """What a run counts its steps in."""
    return "updates" if {"dataset", "dialogues", "preferences"} & set(config) else "environment steps"


def panel_title(name: str, config: dict[str, Any]) -> str:
    """A panel's name in this run: what a metric is of depends on what is learnt from."""
    if config.get("preferences"):
        name = name.replace("logged actions foreseen", "pairs put in the right order")
    return name.replace("steps per", f"{x_axis(config).rpartition(' ')[2]} per")


def plot_run(folder: Path) -> Path:
    """Write report.png into a run's folder, and return its path. Raises UserError where nothing has been logged."""
    config = read_settings(folder)
    curves = read_curves(folder)
    panels = {
        title: {label: curves[name] for name, label in metrics.items()} for title, metrics in panels_of(curves).items()
    }
    if not panels:
        raise UserError(f"{folder} has logged nothing yet: wait for its first update, or train it")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), dpi=150, layout="constrained")
    flat = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, shown) in zip(flat, panels.items(), strict=False):
        _panel(axis, title, shown)
        axis.set_title(panel_heading(title, shown, config), fontsize=10)
        axis.set_xlabel(x_axis(config), fontsize=8)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    subject = filter(None, (config.get("type"), config.get("memory") or config.get("model"), problem(config)))
    headline = f"{' '.join(subject)} · seed {config.get('seed')}"
    figure.suptitle(headline.replace("$", r"\$"), fontsize=12, wrap=True)  # which would begin a formula
    path = folder / "report.png"
    write_atomically(path, png(figure))
    return path


def _panel(axis: Axes, title: str, shown: dict[str, list[tuple[float, float]]]) -> None:
    """Each curve in full, faint, and smoothed over five updates; evaluations, which are few, as they are."""
    for (label, curve), colour in zip(shown.items(), COLOURS, strict=False):
        steps, values = np.array(curve).T
        if label == EVALUATED:
            axis.plot(steps, values, "o-", color=colour, markersize=4, linewidth=1.2, label=label)
            continue
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        grid = np.linspace(steps[0], steps[-1], 200)
        marker = "o" if len(curve) == 1 else ""  # of which no line is seen
        axis.plot(grid, smooth(curve, grid), color=colour, linewidth=1.8, label=label, marker=marker, markersize=4)
    logged = [value for curve in shown.values() for _, value in curve]
    if is_logarithmic(title, shown.values()):
        axis.set_yscale("log")
        if max(logged) < 100 * min(logged):  # else one power of ten may be all that is named
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(lambda value, _: with_minus(f"{value:g}"))  # 0.1, not 10⁻¹
        axis.yaxis.set_minor_formatter(NullFormatter())
    if min(logged) == max(logged) == 0:
        axis.set_ylim(-0.06, 1.06)  # as on pages: what is never negative needs no axis below 0
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if max(logged) >= 10_000:
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.tick_params(which="both", labelsize=8)
    if len(shown) > 1:
        axis.legend(fontsize=8, frameon=False)
