"""What learning cost: the steps and the seconds until a return was reached, from a run's log."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqrl.config import require
from seqrl.errors import UserError
from seqrl.reports.common import smooth
from seqrl.run_folder import read_json, read_last_metrics, read_metrics

MUCH_CLIPPED = 0.1
"""What clipping may move from large rewards to small ones before it is told: sparse rewards of one size have 0, and a
bet of 2,000 that is won once in 1,000 times, against 1 for sure, had 0.12 to 0.36: it was no longer learnt."""


class Reached(NamedTuple):
    """Where a training curve reached a level; None where it never did."""

    steps: float | None
    seconds: float | None
    exploring: bool = False
    """Whether the curve never got there because the agent explores while it trains; then where it got to nine tenths
    of its own highest."""


class Threshold(NamedTuple):
    """A return, or a share: of the optimum, or of the way from random actions to the best that any approach reached."""

    value: float
    is_share: bool

    def of(self, best: float, floor: float = 0.0) -> float:
        """The return that counts as reached: best − (1 − share) |best − floor|, or the number."""
        return best - (1 - self.value) * abs(best - floor) if self.is_share else self.value


def read_threshold(text: str) -> Threshold:
    """`90%` or `475` as a `Threshold`. Raises UserError for anything else."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number)
    except ValueError:
        raise UserError(f"--threshold '{text}': give a return, or a share of the best such as 90%") from None
    require(not rest and np.isfinite(value), f"--threshold '{text}': give a return, or a share of the best such as 90%")
    require(not percent or 0 < value <= 100, f"--threshold '{text}': a share is above 0 and at most 100 %")
    return Threshold(value / 100 if percent else value, bool(percent))


def reached(folder: Path, threshold: float, floor: float = 0.0) -> Reached:
    """Where a run's training curve, each point the mean of five updates around it, first was at `threshold`.

    For an agent that reaches it when evaluated. A curve that stays below has nine tenths of the way from `floor` to its
    own highest instead. Seconds are those of the clock, with the steps per second that the run's log has at this point.
    """
    lines = _of_whole_episodes(folder)
    if not lines:
        return Reached(None, None)
    steps = np.array([line["step"] for line in lines])
    curve = smooth([(line["step"], line["episode_return"]) for line in lines], steps)
    highest = float(curve.max())
    exploring = highest < threshold
    level = highest - 0.1 * abs(highest - floor) if exploring else threshold
    first = int(np.flatnonzero(curve >= level)[0])
    return Reached(float(steps[first]), float(steps[first] / lines[first]["steps_per_second"]), exploring)


def _of_whole_episodes(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log in which episodes ended, from where long ones can have: what ends first is short, such
    as what found a goal by luck, while all that will fail go on to their time limit."""
    lines = [line for line in read_metrics(folder) if "episode_return" in line]
    config = read_json(folder, "config.json") if (folder / "config.json").is_file() else {}
    copies = config.get("num_envs", 0) * config.get("num_actors", 1)
    longest = max((line.get("episode_length", 0.0) for line in lines), default=0.0)
    return [line for line in lines if line["step"] >= copies * longest] or lines[-1:]


def last_evaluation(folder: Path) -> tuple[float | None, bool]:
    """What the agent of a finished run's last step brought, None where it was not evaluated in training; and whether
    an earlier agent is kept in its place."""
    last = read_last_metrics(folder)
    brought = last.get("eval_return")
    return brought, brought is not None and last.get("kept_return", brought) > brought


def rewards_clipped(folder: Path) -> float:
    """The highest mean, over a tenth of a run's updates, of what clipping moved from large rewards to small ones: once
    the large ones are no longer sought, nothing is clipped. 0 where rewards are learnt from as they are."""
    shares = [line["rewards_clipped"] for line in read_metrics(folder) if "rewards_clipped" in line]
    tenth = -(-len(shares) // 10)
    return max((float(np.mean(shares[k : k + tenth])) for k in range(0, len(shares), tenth or 1)), default=0.0)


def mean_of_second_half(folder: Path, metric: str) -> float | None:
    """The mean of a metric over the second half of a run's steps; None where it was not logged."""
    lines = [(line["step"], line[metric]) for line in read_metrics(folder) if metric in line]
    late = [value for step, value in lines if step >= lines[-1][0] / 2]
    return float(np.mean(late)) if late else None
