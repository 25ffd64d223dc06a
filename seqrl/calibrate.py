"""Which return should be asked for? Targets against achieved returns, and what the log says without an environment."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from seqrl.algorithms.decision_transformer import Config, chosen_episodes, loss, relabelled
from seqrl.checkpoint import load_checkpoint, save_checkpoint, write_atomically, write_json
from seqrl.data import EpisodeDataset, Windows
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import Environment
from seqrl.errors import UserError
from seqrl.evaluate import evaluate
from seqrl.figures import png
from seqrl.run_folder import CHECKPOINT
from seqrl.statistics import mean_and_half_width
from seqrl.tables import plain_table
from seqrl.trajectory import tree_map

FEW = 5
"""Logged episodes below which a return counts as hardly supported."""


class Bin(NamedTuple):
    """Held-out decisions with returns-to-go from `low` to `high`: how many, and how well their actions are foreseen."""

    low: float
    high: float
    decisions: int
    log_likelihood: float
    accuracy: float | None
    """Of discrete actions: the share that is foreseen."""
    squared_error: float | None
    """Of continuous ones."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Achieved returns by target: means, half-widths of their 95 % intervals, and logged episodes that brought it."""

    targets: list[float]
    achieved: list[float]
    half_width: list[float]
    support: list[int]
    """Logged episodes with at least this return."""
    data_range: tuple[float, float]
    rank_correlation: float
    """Spearman's, of target and achieved return, over the targets within the log's range; NaN for less than three."""
    recommended: float
    num_episodes: int
    gamma: float = 1.0
    """Discount of targets; achieved returns are never discounted."""

    def warnings(self, promised: float = -math.inf) -> list[str]:
        """What a person should know before asking for the recommended return. `promised`: the highest that relabelled
        returns promise, where the agent learnt from these."""
        k = self.targets.index(self.recommended)
        said = []
        if self.support[k] == 0 and self.recommended <= promised:
            said.append(
                f"No logged episode brought {self.recommended:.4g} (the best {self.data_range[1]:.4g}): the values of "
                "the log promise it, of parts of several."
            )
        elif self.support[k] == 0:
            said.append(
                f"No logged episode brought {self.recommended:.4g} (the best {self.data_range[1]:.4g}): the agent was "
                "never shown how, and the figure is luck of extrapolation."
            )
        elif self.support[k] < FEW:
            said.append(f"Only {self.support[k]} logged episodes brought {self.recommended:.4g}: log more like them.")
        if self.rank_correlation < 0.5:
            said.append(
                "The achieved return does not follow the target: asking has no hold on this agent. Train longer; or "
                "returns are luck here (seqrl audit)."
            )
        short = self.recommended - self.achieved[k] > max(2 * self.half_width[k], 0.1 * abs(self.recommended))
        if short and self.gamma == 1:
            said.append(f"What is asked for is not reached: {self.achieved[k]:.4g} in place of {self.recommended:.4g}.")
        return said

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON: without a rank correlation, null."""
        follows = self.rank_correlation
        return asdict(self) | {"rank_correlation": follows if math.isfinite(follows) else None}

    def table(self, promised: float = -math.inf) -> Table:
        """A line for each target; `promised` as above."""
        table = plain_table("target and achieved return", caption=f"{self.num_episodes} episodes each")
        for name in ("target", "achieved (95 %)", "logged episodes with as much", ""):
            table.add_column(name, justify="right")
        for target, mean, half, support in zip(self.targets, self.achieved, self.half_width, self.support, strict=True):
            unseen = "" if support else "promised alone" if target <= promised else "out of support"
            note = "recommended" if target == self.recommended else unseen
            table.add_row(f"{target:.4g}", f"{mean:.4g} ± {half:.3g}", f"{support:,}", note)
        return table


def calibrate(
    agent: DecisionAgent,
    environment: Environment,
    dataset: EpisodeDataset,
    targets: list[float],
    num_episodes: int,
    seed: int,
    watch: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Play at least `num_episodes` for each target, all targets side by side, and say which to ask for.

    `environment` has a multiple of as many environments as there are targets, and each plays as many episodes as the
    others. The recommended target is the lowest whose achieved return is as good as the best one's, up to the latter's
    interval; the agent's own target stays. `watch` is told what `evaluate` tells.

    Raises UserError for an agent that no return can be asked of.
    """
    if not agent.conditioned:
        raise UserError("this agent clones behaviour (--condition none): there is no target to calibrate")
    each = environment.num_envs // len(targets)
    assert environment.num_envs == each * len(targets), "environments are dealt out to targets in equal numbers"
    before = agent.target_return
    agent.target_return = torch.tensor(targets).repeat_interleave(each)
    try:
        result = evaluate(agent, environment, environment.num_envs * -(-num_episodes // each), seed, watch=watch)
    finally:
        agent.target_return = before
    returns = result.returns.reshape(len(targets), -1)
    mean, half = np.array([mean_and_half_width(row) for row in returns.tolist()]).T
    best = int(mean.argmax())
    recommended = targets[int(np.flatnonzero(mean >= mean[best] - half[best])[0])]
    logged = first_returns(dataset)
    low, high = float(logged.min()), float(logged.max())
    within = [k for k, target in enumerate(targets) if low <= target <= high]
    follows = math.nan
    if len(within) > 2:
        from scipy.stats import spearmanr  # here, as it takes half a second, which every command would pay

        varies = mean[within].max() > mean[within].min()
        follows = float(spearmanr(np.array(targets)[within], mean[within]).statistic) if varies else 0.0
    return Calibration(
        targets=targets,
        achieved=mean.tolist(),
        half_width=half.tolist(),
        support=[int((logged >= target - 1e-5 * max(1, abs(target))).sum()) for target in targets],
        data_range=(low, high),
        rank_correlation=follows,
        recommended=recommended,
        num_episodes=returns.shape[1],
        gamma=agent.gamma,
    )


def first_returns(dataset: EpisodeDataset) -> np.ndarray:
    """[N]: what each episode brought as it would have been asked for at its beginning: discounted, if they are."""
    return dataset.return_to_go[dataset.starts[:-1]]


def target_grid(dataset: EpisodeDataset, number: int) -> list[float]:
    """`number` targets: evenly over the log's returns, the last a tenth of their range above the highest."""
    logged = first_returns(dataset)
    low, high = float(logged.min()), float(logged.max())
    above = high + 0.1 * (high - low or abs(high) or 1.0)
    return [*np.linspace(low, high, number - 1).tolist(), above] if high > low else [high, above]


@torch.no_grad()
def by_return(
    agent: DecisionAgent, dataset: EpisodeDataset, config: Config, num_bins: int = 5, num_decisions: int = 2048
) -> list[Bin]:
    """How well an agent foresees the logged actions of `dataset`, held-out episodes, by their returns-to-go.

    Nothing is played: each decision, or `num_decisions` drawn of them, is foreseen from the rows before it that acting
    would read. An agent that heeds the return foresees the actions of good and of bad decisions alike; one that does
    not, those that are common.
    """
    length = min(config.context_length, 256)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(2)).numpy()
    decisions = np.sort(order[:num_decisions])
    before = np.append(0, np.cumsum(dataset.lengths))
    episode = np.searchsorted(before, decisions, side="right") - 1
    timestep = decisions - before[episode]
    windows = dataset.windows_at(episode, timestep - (length - 1), length)
    asked = windows.mask & (windows.timestep == torch.from_numpy(timestep))  # one row of each window
    bins = []
    for low, high in bin_bounds(windows.return_to_go[asked], num_bins):
        chosen = asked & (windows.return_to_go >= low) & (windows.return_to_go <= high)
        total: dict[str, float] = {}
        columns = chosen.any(0).nonzero()[:, 0]
        for part in columns.split(256):
            rows: Windows = tree_map(lambda leaf, part=part: leaf[:, part], windows)
            _, metrics = loss(agent, rows, config, chosen[:, part])
            for name, value in metrics.items():
                total[name] = total.get(name, 0.0) + len(part) * float(value)
        means = {name: value / len(columns) for name, value in total.items()}
        accuracy, error = means.get("accuracy"), means.get("squared_error")
        bins.append(Bin(low, high, len(columns), means["log_likelihood"], accuracy, error))
    return bins


def bin_bounds(values: Tensor, num_bins: int) -> list[tuple[float, float]]:
    """The least and the greatest of `values` [n] in each of at most `num_bins` bins, from low to high.

    Of few different values each has its own bin. Else the bins hold about equal shares, equal values always together:
    a value goes where the middle of its ranks falls, so that one that makes up most of them is not mixed with others.
    """
    different, counts = values.unique(return_counts=True)
    if len(different) <= num_bins:
        return [(float(value), float(value)) for value in different]
    middle = (counts.cumsum(0) - counts / 2) / counts.sum()
    place = (middle * num_bins).long()
    groups = [different[place == k] for k in place.unique()]
    return [(float(group[0]), float(group[-1])) for group in groups]


def bins_table(bins: list[Bin], held_out: bool, is_relabelled: bool = False) -> Table:
    """A line for each bin."""
    which = "held-out" if held_out else "logged (none was held out)"
    asked = "relabelled return-to-go" if is_relabelled else "return-to-go"
    table = plain_table(f"how well {which} actions are foreseen, by {asked}")
    measure = "accuracy" if bins and bins[0].accuracy is not None else "squared error"
    for name in (asked, "decisions", "log-likelihood", measure):
        table.add_column(name, justify="right")
    for b in bins:
        value = b.accuracy if b.accuracy is not None else b.squared_error
        span = f"{b.low:.4g}" if b.low == b.high else f"{b.low:.4g} to {b.high:.4g}"
        table.add_row(span, f"{b.decisions:,}", f"{b.log_likelihood:.3f}", f"{value:.3f}")
    return table


def held_out_or_all(dataset: EpisodeDataset, config: Config) -> tuple[EpisodeDataset, bool]:
    """The run's held-out episodes, or where it held none out, all of them; and which of the two.

    With returns-to-go relabelled, where it learnt from these: it was not trained to be asked for those that were
    logged. Then, where none was held out, these are the episodes that it learnt from.
    """
    learnt, held_out = chosen_episodes(dataset, config)
    if config.relabel == "values":
        dataset, held_out = relabelled(learnt, held_out, config)
    return (held_out, True) if held_out is not None else (dataset, False)


def write(
    folder: Path, calibration: Calibration | None, bins: list[Bin], dataset: EpisodeDataset, is_relabelled: bool = False
) -> list[Path]:
    """calibration.json and, where targets were played, calibration.png, into a run's folder. `is_relabelled`: whether
    the bins are of relabelled returns."""
    content: dict[str, Any] = {"calibration": calibration.as_dict() if calibration else None}
    content |= {"bins": [b._asdict() for b in bins], "relabelled": is_relabelled}
    path = folder / "calibration.json"
    write_json(path, content)
    if calibration is None:
        return [path]
    picture = folder / "calibration.png"
    _plot(calibration, dataset, picture)
    return [path, picture]


def set_target(folder: Path, target: float) -> None:
    """Make `target` the default of the agent in a run's folder."""
    path = folder / CHECKPOINT
    tree, counters = load_checkpoint(path)
    tree["agent"]["target"] = torch.tensor(float(target))
    save_checkpoint(path, tree, counters)


def _plot(calibration: Calibration, dataset: EpisodeDataset, path: Path) -> None:
    """Achieved return by target with its interval, above a histogram of the log's returns."""
    figure = Figure(figsize=(6.4, 6), dpi=150, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    targets, achieved = np.array(calibration.targets), np.array(calibration.achieved)
    _, high = calibration.data_range
    if calibration.gamma == 1:
        axes.plot(targets, targets, color="#888888", linestyle="--", linewidth=1, label="what is asked for")
    axes.errorbar(
        targets, achieved, yerr=calibration.half_width, color="#0072b2", marker="o", markersize=4, capsize=3,
        linewidth=1.8, label="what is achieved (95 %)",
    )  # fmt: skip
    k = calibration.targets.index(calibration.recommended)
    axes.plot(targets[k], achieved[k], marker="*", markersize=16, color="#d55e00", linestyle="none", zorder=3,
              markeredgecolor="white", label=f"recommended: {targets[k]:.4g}")  # fmt: skip
    beyond = axes.get_xlim()[1]
    for panel in (axes, below):
        panel.axvspan(high, max(beyond, high), color="#cc79a7", alpha=0.12, linewidth=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    axes.set_xlim(right=beyond)
    follows = calibration.rank_correlation
    told = f" (rank correlation {follows:.2f})" if math.isfinite(follows) else ""
    axes.set(ylabel="achieved return", title=f"does the return follow the target?{told}")
    axes.legend(frameon=False, fontsize=9)
    below.hist(first_returns(dataset), bins=40, color="#009e73")
    below.set(xlabel="target return (shaded: beyond the log)", ylabel="logged episodes")
    write_atomically(path, png(figure))
