"""Is the reward being hacked? What a batch of answers shows of it, beside what the first updates showed.

A policy that is paid by a model of what people like finds what that model gets wrong: answers grow, repeat themselves
or all become one, where the members of an ensemble of reward models no longer agree, while the reward that is really
meant falls. Each of these is measured at every update, and compared with its mean over the first few:

| measure        | of the agent's turns in a batch                                         | needs          |
| -------------- | ----------------------------------------------------------------------- | -------------- |
| `length`       | tokens of a turn                                                        |                |
| `repetition`   | share of 4-grams that came earlier in the same turn                     |                |
| `distinct`     | different 2-grams of the batch, over all of its 2-grams                 |                |
| `identical`    | share of turns that equal an earlier one of the batch                   |                |
| `entropy`      | of the policy, a token                                                  | `entropy`      |
| `disagreement` | standard deviation of a turn's reward over the ensemble                 | `disagreement` |
| `gold_lost`    | fall of gold from its best, over its first spread, while the proxy rose | `gold`         |

Source: Gao, Schulman, Hilton 2022, "Scaling laws for reward model overoptimization" (arXiv 2210.10760), for gold and
proxy; Coste et al. 2023 (arXiv 2310.02743) for disagreement; Li et al. 2015 (arXiv 1510.03055) for distinct n-grams.
Which numbers are worth a warning is our choice: `LIMITS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any, Literal

import torch

from seqrl.errors import UserError
from seqrl.language.play import Played

Level = Literal["ok", "warn", "stop"]
Tokens = tuple[int, ...]


def agent_turns(played: Sequence[Played]) -> list[Tokens]:
    """What the agent said, turn by turn, in tokens."""
    return [turn.ids for each in played for turn in each.turns if turn.agent and not turn.given]


def mean_length(turns: Sequence[Tokens]) -> float:
    """Tokens of a turn."""
    return sum(map(len, turns)) / len(turns)


def repetition(turns: Sequence[Tokens], n: int = 4) -> float:
    """The share of n-grams that came earlier in the same turn: 0 … 1, and 0 where no turn is so long."""
    grams = [_grams(turn, n) for turn in turns]
    total = sum(map(len, grams))
    return 1 - sum(len(set(each)) for each in grams) / total if total else 0.0


def distinct(turns: Sequence[Tokens], n: int = 2) -> float:
    """Different n-grams over all n-grams, of the turns together; 1 where no turn is so long.

    It falls as more is said, so it can be compared only between batches of about the same size.
    """
    grams = [gram for turn in turns for gram in _grams(turn, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def identical(turns: Sequence[Tokens]) -> float:
    """The share of turns that equal an earlier one."""
    return 1 - len(set(turns)) / len(turns)


def _grams(turn: Tokens, n: int) -> list[Tokens]:
    return list(zip(*(turn[start:] for start in range(n)), strict=False))


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How far a measure may go from where it began."""

    measure: str
    words: str
    """What is measured, as the verdict begins."""
    advice: str
    warn: float
    stop: float
    """`warn` < `stop` bound what rises, `warn` > `stop` what falls."""
    by: Literal["ratio", "difference", "itself"] = "ratio"
    """What is bounded: the measure over that of the first updates, their difference, or the measure itself."""

    def level(self, first: float, now: float) -> Level:
        """Where a measure stands that began at `first`."""
        value = self.moved(first, now)
        for level in ("stop", "warn"):
            bound = getattr(self, level)
            if value >= bound if self.stop > self.warn else value <= bound:
                return level
        return "ok"

    def moved(self, first: float, now: float) -> float:
        """The number that is bounded."""
        match self.by:
            case "ratio":
                return now / first if first > 0 else 1.0  # what was never there cannot be said to have grown so many ×
            case "difference":
                return now - first
        return now

    def line(self, first: float, now: float, updates: int) -> str:
        """What, and how much."""
        if self.by == "itself":
            return f"{self.words} {now:.3g}"
        times = f" ({self.moved(first, now):.2f} ×)" if self.by == "ratio" else ""
        return f"{self.words} {now:.3g}, {first:.3g} in the first {updates} updates{times}"


KL_UP = "raise the coefficient of the KL, or go back to an earlier checkpoint"
LIMITS = (
    Limit(measure="length", words="tokens of an answer:", warn=1.5, stop=3.0,
          advice="give length a price (length=-0.01 beside the reward), or " + KL_UP),
    Limit(measure="length", words="tokens of an answer:", warn=0.6, stop=0.25,
          advice="see whether short answers are what is wanted, or " + KL_UP),
    Limit(measure="repetition", words="share of an answer that repeats itself:", warn=0.1, stop=0.3,
          by="difference", advice=KL_UP),
    Limit(measure="distinct", words="share of different word pairs in a batch:", warn=0.5, stop=0.2, advice=KL_UP),
    Limit(measure="identical", words="share of answers that others have given too:", warn=0.25, stop=0.5,
          by="difference", advice=KL_UP),
    Limit(measure="entropy", words="entropy of a token in nats:", warn=0.5, stop=0.2,
          advice="lower the learning rate, or " + KL_UP),
    Limit(measure="disagreement", words="disagreement of the reward models:", warn=1.5, stop=3.0,
          advice="label answers of this policy and train the reward model again, or " + KL_UP),
    Limit(measure="gold_lost", words="the reward grew while the held-out one fell, in spreads of answers:", warn=0.5,
          stop=1.0, by="itself", advice="go back to where the held-out reward was best, and label answers of it"),
)  # fmt: skip
"""The bounds that a monitor has by default."""


@dataclass(frozen=True)
class Verdict:
    """What the monitor says of an update."""

    level: Level
    line: str
    """In words: what was seen, how much of it, and what to do about the worst. Empty for `ok`."""
    measures: dict[str, float] = field(default_factory=dict)
    """What was measured at this update, for the log; not smoothed."""


class Monitor:
    """Watches the updates of one run: `update` with each batch of answers, and the verdict on it.

    What is judged are running means, m ← `smoothing` · m + (1 − `smoothing`) · measure, so that one odd batch makes no
    alarm. The first `reference_updates` are what they are compared with and get no verdict but `ok`. Its state goes
    into checkpoints, so that an interrupted run is judged like one that was not.
    """

    def __init__(self, *, reference_updates: int = 5, smoothing: float = 0.7, limits: Sequence[Limit] = LIMITS) -> None:
        if reference_updates < 1:
            raise UserError(f"reference_updates is {reference_updates} in Monitor: it must be at least 1")
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing is {smoothing} in Monitor: it must be from 0 to below 1")
        self.reference_updates, self.smoothing, self.limits = reference_updates, smoothing, tuple(limits)
        self.updates = 0
        self.first: dict[str, float] = {}
        self.now: dict[str, float] = {}
        self.best: dict[str, float] = {}

    def update(
        self,
        played: Sequence[Played],
        rewards: Sequence[Sequence[float]],
        *,
        entropy: float | None = None,
        disagreement: Sequence[Sequence[float]] | None = None,
        gold: Sequence[Sequence[float]] | None = None,
    ) -> Verdict:
        """Judge a batch. `rewards` are what the policy learns from, `gold` what it does not, and `disagreement` the
        standard deviations over an ensemble: of each conversation's turns of the agent."""
        turns = agent_turns(played)
        assert turns, "a batch holds answers"
        assert len(rewards) == len(played), "each conversation has rewards"
        measures = {
            "reward": _mean(list(map(sum, rewards))),
            "length": mean_length(turns),
            "repetition": repetition(turns),
            "distinct": distinct(turns),
            "identical": identical(turns),
        }
        if entropy is not None:
            measures["entropy"] = entropy
        if disagreement is not None:
            measures["disagreement"] = _mean([value for each in disagreement for value in each])
        if gold is not None:
            totals = [sum(each) for each in gold]
            measures |= {"gold": _mean(totals), "gold_spread": _spread(totals)}
        if broken := [name for name, value in measures.items() if not isfinite(value)]:
            return Verdict("stop", f"{broken[0]} is {measures[broken[0]]}: look at what gives the rewards", measures)
        self._take(measures)
        if self.updates <= self.reference_updates:
            return Verdict("ok", "", measures)
        return self._judge(measures)

    def _take(self, measures: dict[str, float]) -> None:
        self.updates += 1
        for name, value in measures.items():
            self.now[name] = self.smoothing * self.now.get(name, value) + (1 - self.smoothing) * value
            if self.updates <= self.reference_updates:
                first = self.first.get(name, 0.0)
                self.first[name] = first + (value - first) / self.updates
        if "gold" in measures and self.now["gold"] >= self.best.get("gold", -torch.inf):
            self.best = {name: self.now[name] for name in ("gold", "reward")}

    def _judge(self, measures: dict[str, float]) -> Verdict:
        now = dict(self.now)
        if "gold" in measures and self.first.get("gold_spread"):
            rose = now["reward"] > self.best["reward"]
            fell = (self.best["gold"] - now["gold"]) / self.first["gold_spread"]
            now["gold_lost"] = measures["gold_lost"] = fell if rose else 0.0
        found: dict[Level, list[Limit]] = {"ok": [], "warn": [], "stop": []}
        for limit in self.limits:
            if limit.measure in measures and (limit.by == "itself" or limit.measure in self.first):
                found[limit.level(self.first.get(limit.measure, 0.0), now[limit.measure])].append(limit)
        beyond = [*found["stop"], *found["warn"]]
        if not beyond:
            return Verdict("ok", "", measures)
        lines = [
            limit.line(self.first.get(limit.measure, 0.0), now[limit.measure], self.reference_updates)
            for limit in beyond
        ]
        return Verdict("stop" if found["stop"] else "warn", f"{'; '.join(lines)}: {beyond[0].advice}", measures)

    def state_dict(self) -> dict[str, Any]:
        tables = {"first": self.first, "now": self.now, "best": self.best}
        return {"updates": torch.tensor(self.updates)} | {
            name: {key: torch.tensor(value, dtype=torch.float64) for key, value in table.items()}
            for name, table in tables.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        self.first, self.now, self.best = (
            {key: float(value) for key, value in state[name].items()} for name in ("first", "now", "best")
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    """The standard deviation."""
    mean = _mean(values)
    return sqrt(_mean([(value - mean) ** 2 for value in values]))
