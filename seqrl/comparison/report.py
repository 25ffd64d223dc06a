"""What a person looks at after approaches were compared on an environment: a table, and a sentence of advice.

`results.json` is `Comparison` as JSON (NaN is null), so its fields are described there. Beside it lie the folders of
all runs: `rows[i].runs`, whose `metrics.jsonl` has every curve in full; `rows[i].curves` holds the returns of training
episodes. `offline`, where methods learnt from what the others played, is what `offline/results.json` holds as well.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import EngFormatter
from rich.table import Table

from seqrl.comparison.reach import Reach
from seqrl.comparison.report_offline import MethodRow, OfflineComparison
from seqrl.reports.common import WIDTH, fitting_table, markdown_table, mean_and_interval
from seqrl.statistics import percent

LEFT_OUT = (
    "seconds", "parameters", "sd", "last agent", "steps/s", "beyond log", "worst seed", "seconds to it", "asked/got",
    "steps to it",
)  # fmt: skip
"""Columns that the terminal does without where there are too many, in this order. `table.md` has them all."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One value of the horizon's sweep."""

    value: float
    needed: float
    """The mean return over seeds from which on it counts as solved; NaN where none is clearly above random actions."""
    seed_means: list[float]
    solved: bool
    random: float | None = None
    """The mean return of random actions there, where what is needed is measured from it."""
    reach: Reach | None = None
    """How far back and ahead its runs look there."""


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The longest delay still solved: an argument of the environment, and what each approach brought at its values."""

    key: str
    values: list[float]
    tried: dict[str, list[Tried]]
    """By approach, up to the first value that it did not solve."""
    steps: float = 1.0
    """Steps of each run, as a multiple of the comparison's own; but for the comparison's own value."""

    def cell(self, approach: str) -> str:
        """The largest value solved; `≥` where no larger was tried, `<` where the smallest was not."""
        tried = self.tried.get(approach, [])
        solved = [t.value for t in tried if t.solved]
        if not tried:
            return "–"
        if not solved:
            return f"< {self.values[0]:g}"
        return f"≥ {solved[-1]:g}" if len(solved) == len(tried) else f"{solved[-1]:g}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One approach's figures. Lists over seeds are in the order of `runs`."""

    approach: str
    """ALGORITHM:MEMORY."""
    memory: str
    mean: float
    half_width: float
    """Half the 95 % interval of the mean over seeds, by Student's t; NaN for a single one."""
    seed_means: list[float]
    steps_per_second: float
    num_parameters: int
    seconds: float
    best_run: str
    curves: list[list[tuple[float, float]]]
    """For each seed, (step, mean return of the training episodes that ended)."""
    num_steps: int = 0
    """Steps that each run was given."""
    runs: list[str] = field(default_factory=list)
    """The run folders."""
    reached: list[bool] = field(default_factory=list)
    """For each seed, whether the evaluated agent brings the threshold."""
    final_means: list[float | None] = field(default_factory=list)
    """For each seed, what the agent of the last step brought when it was evaluated in training; the agent that is kept,
    of which all else tells, may be an earlier one. Null without evaluations."""
    earlier_kept: list[bool] = field(default_factory=list)
    """For each seed, whether it is."""
    steps_to_threshold: list[float | None] = field(default_factory=list)
    """For each seed, the steps after which training was there; null where the evaluated agent is not."""
    seconds_to_threshold: list[float | None] = field(default_factory=list)
    exploring: bool = False
    """Whether a training curve stays below the threshold, as its agent explores, though the evaluated agent does not;
    its steps are those to nine tenths of its own highest."""
    episodes_half_width: float = math.nan
    """Half the 95 % interval of the mean over all episodes: what is known of a single seed."""
    reach: Reach | None = None
    """How far back and ahead its runs look."""
    delta_q: float | None = None
    """How far stale start states lead the values astray at the first row learnt from, where the algorithm measures it;
    the mean over the second half of training."""
    num_cut: int = 0
    """Episodes that had not ended when they were cut, of all seeds."""
    rewards_clipped: float = 0.0
    """What clipping moved from large rewards to small ones, the most of all seeds."""
    drawn: list[bool] = field(default_factory=list)
    """For each seed, whether the agent acts by actions drawn from its policy."""

    @property
    def algorithm(self) -> str:
        return self.approach.removesuffix(f":{self.memory}")

    @property
    def deviation(self) -> float:
        """Over seeds; NaN for a single one."""
        return float(np.std(self.seed_means, ddof=1)) if len(self.seed_means) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The figures of several approaches on one problem."""

    env: str
    """Its id, with its arguments behind it."""
    num_steps: int
    num_episodes: int
    optimal: float | None
    """The best return possible, where it is known, and the best of one without memory."""
    memoryless: float | None
    rows: list[Row]
    threshold: float = math.nan
    """The return that counts as reached; NaN where no approach is clearly above random actions."""
    share: float | None = None
    """What share this is: of the optimum, or where that is not known, of the way from random actions to the best
    approach; null where it was given as a number."""
    random: float | None = None
    """The mean return of random actions, where the best without memory is not known, and half its 95 % interval."""
    random_half_width: float = 0.0
    offline: OfflineComparison | None = None
    verdict: list[str] = field(default_factory=list)
    """What the comparison of methods on the log says, in sentences."""
    horizon: Horizon | None = None
    failed: list[str] = field(default_factory=list)
    """What was wrong with runs that failed. Approaches without all of their runs are left out of `rows`."""

    @property
    def only_ppo(self) -> bool:
        return all(row.approach.startswith("ppo:") for row in self.rows)

    def name(self, row: Row) -> str:
        """The memory alone, where PPO is the only algorithm."""
        return row.memory if self.only_ppo else row.approach

    def columns(self) -> dict[str, list[str]]:
        """Every column that something was measured for, by its header: a cell for each row, and then each method."""
        methods = self.offline.rows if self.offline else []
        columns = {name: [cell(row) for row in self.rows] for name, cell in self._cells().items()}
        for name, cells in columns.items():
            make = self._method_cells().get(name)
            cells += [make(row) if make else "–" for row in methods]
        found = {name: cells for name, cells in columns.items() if set(cells) != {"–"}}
        return {"memory" if self.only_ppo and not methods else "approach": found.pop("approach")} | found

    def _cells(self) -> dict[str, Callable[[Row], str]]:
        """How each column's cell is made of a row, in the table's order."""
        sweep = self.horizon
        return {
            "approach": self.name,
            "return (95 %)": lambda row: mean_and_interval(row.mean, row.half_width),
            "% of optimal": lambda row: self.percent(row.mean),
            "worst seed": lambda row: f"{min(row.seed_means):.4g}" if row.seed_means[1:] else "–",
            "sd": lambda row: f"{row.deviation:.3g}" if row.seed_means[1:] else "–",
            "reached": lambda row: f"{sum(row.reached)}/{len(row.reached)}" if row.reached else "–",
            "last agent": lambda row: _mean_of_known(row.final_means),
            "steps to it": lambda row: _engineering(row, row.steps_to_threshold),
            "seconds to it": lambda row: _middle(row.seconds_to_threshold, "{:.3g}"),
            f"horizon ({sweep.key if sweep else ''})": lambda row: sweep.cell(row.approach) if sweep else "–",
            "ΔQ": lambda row: "–" if row.delta_q is None else f"{row.delta_q:.2g}",
            "beyond log": lambda row: "–",
            "asked/got": lambda row: "–",
            "steps/s": lambda row: f"{row.steps_per_second:,.0f}",
            "parameters": lambda row: f"{row.num_parameters:,}",
            "seconds": lambda row: f"{row.seconds:.1f}",
        }

    def _method_cells(self) -> dict[str, Callable[[MethodRow], str]]:
        """The same of a method that learnt from the log, where its cell means something."""
        return {
            "approach": lambda row: row.method,
            "return (95 %)": lambda row: str(row.best),
            "% of optimal": lambda row: self.percent(row.best.mean),
            "worst seed": lambda row: f"{min(row.best.seeds):.4g}" if row.best.seeds[1:] else "–",
            "sd": lambda row: f"{np.std(row.best.seeds, ddof=1):.3g}" if row.best.seeds[1:] else "–",
            "reached": lambda row: f"{sum(r >= self.threshold for r in row.best.seeds)}/{len(row.best.seeds)}",
            "beyond log": self.beyond_log,
            "asked/got": lambda row: "–" if row.follows is None else f"{row.follows.mean:.2f}",
            "parameters": lambda row: f"{row.num_parameters:,}",
            "seconds": lambda row: f"{row.seconds:.1f}",
        }

    def beyond_log(self, row: MethodRow) -> str:
        """Whether a method brings more than the best logged episode; – where nothing could."""
        assert self.offline is not None
        return self.offline.beyond(row, self.optimal)

    def percent(self, mean: float) -> str:
        return f"{100 * mean / self.optimal:.0f} %" if self.optimal and self.optimal > 0 and mean >= 0 else "–"

    def markdown(self, advice: str) -> str:
        """The whole table as Markdown, with what was measured above it and the advice below."""
        columns = self.columns()
        lines = [f"# {self.env}", "", self.caption(), "", *markdown_table(columns), "", advice]
        lines += ["", *(f"- {sentence}" for sentence in self.verdict)] if self.verdict else []
        return "\n".join([*lines, ""])

    def caption(self) -> str:
        seeds = len(self.rows[0].seed_means)
        others = sorted(
            {(row.approach, row.num_steps) for row in self.rows if row.num_steps not in (0, self.num_steps)}
        )
        given = ", ".join(f"{approach} {steps:,}" for approach, steps in others)
        parts = [
            f"{self.num_steps:,} steps" + (f" ({given})" if given else ""),
            f"{seeds} seed{'s' if seeds > 1 else ''}",
            f"{self.num_episodes} episodes each",
        ]
        parts += [f"optimal return {self.optimal:.3g}"] if self.optimal is not None else []
        parts += [f"best without memory {self.memoryless:.3g}"] if self.memoryless is not None else []
        parts += [f"random actions {self.random:.4g}"] if self.random is not None else []
        parts += self._what_counts()
        if any(row.exploring for row in self.rows):
            parts.append("~: its training curve, which explores, stays below; nine tenths of the way to its highest")
        drawing = [f"{self.name(row)} {sum(row.drawn)}/{len(row.drawn)}" for row in self.rows if any(row.drawn)]
        if drawing:
            parts.append(f"seeds that act by drawn actions, which bring more than the likeliest: {', '.join(drawing)}")
        if num_cut := sum(row.num_cut for row in self.rows):
            limit = "a time limit ends them, --env-kwargs max_episode_steps=1000"
            parts.append(f"{num_cut:,} episodes had not ended and were cut: {limit}")
        return "; ".join(parts) + "."

    def _what_counts(self) -> list[str]:
        """What is reached, and what a sweep's value is solved by."""
        parts, share = [], self._share_in_words()
        is_open = math.isnan(self.threshold)
        if not is_open:
            parts.append(", ".join(filter(None, (f"reached: at least {self.threshold:.4g}", share))))
        elif share:
            parts.append("reached: by none, as none is clearly above random actions")
        if self.horizon is not None and (tried := [t for of_one in self.horizon.tried.values() for t in of_one]):
            runs, times = len(tried[0].seed_means), self.horizon.steps
            mean = f"the mean of {runs} runs" if runs > 1 else "a run"
            mean += "" if times == 1 else f" of {times:g} times the steps"
            enough = (share if is_open else "the same share") if share else "as much"
            parts.append(f"horizon: the largest {self.horizon.key} at which {mean} reaches {enough}")
        return parts

    def _share_in_words(self) -> str:
        """What the threshold is a share of; nothing where it was given as a number."""
        if self.share is None:
            return ""
        if self.optimal is None:
            return f"{percent(self.share)} of the way from random actions to the best approach"
        if self.optimal > 0:
            return f"{percent(self.share)} of the optimum"
        return f"the optimum less {percent(1 - self.share)} of its size"

    def table(self, width: int = WIDTH) -> Table:
        """The table for a terminal of that `width`: as many columns as fit it."""
        ends = {len(self.rows) - 1} if self.offline else set()
        return fitting_table(self.columns(), self.env, self.caption(), LEFT_OUT, ends, width)


def _mean_of_known(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.4g}" if known else "–"


def _middle(values: list[float | None], form: str) -> str:
    """The median over the seeds that got there."""
    known = [value for value in values if value is not None]
    return form.format(float(np.median(known))) if known else "–"


def _engineering(row: Row, values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    mark = "~" if row.exploring else ""
    return mark + EngFormatter(places=1, sep="")(float(np.median(known))) if known else "–"
