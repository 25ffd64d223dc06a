"""docs/table.md: every adjective that the approaches are usually given, and the figure that was measured for it.

A claim holds or does not by a rule that stands beside it in `CLAIMS`, never by hand. `found` is what
`benchmarks.table.gather` gives: `found["parts"][NAME]` is a comparison's results.json without curves, or None.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from seqrl.comparison import verdict
from seqrl.comparison.advice import num_lost
from seqrl.comparison.report import Horizon, Tried
from seqrl.comparison.report_offline import TOLERANCE, Score

HOLDS, NOT, OPEN, UNKNOWN = "holds", "**does not hold here**", "not settled", "not measured"
STEERABLE = 0.8
"""Rank correlation of what is asked for and what is got from which on asking has a hold."""
STALE = 0.05
"""ΔQ from which on stale start states count: a twentieth of the largest value."""


class Claim(NamedTuple):
    """An approach, what is said of it, the figure, and whether it holds."""

    approach: str
    adjective: str
    figure: str
    verdict: str


Parts = dict[str, Any]


def row(parts: Parts, part: str, approach: str) -> dict[str, Any] | None:
    rows = parts[part]["rows"] if parts.get(part) else []
    return next((one for one in rows if approach in (one.get("approach"), one.get("method"))), None)


def of_log(parts: Parts, part: str) -> dict[str, Any] | None:
    """The comparison of methods on a log, which is a part by itself or belongs to one."""
    found = parts.get(part)
    return found.get("offline", found) if found else None


def method(parts: Parts, part: str, name: str) -> dict[str, Any] | None:
    found = of_log(parts, part)
    return next((one for one in found["rows"] if one["method"] == name), None) if found else None


def score(one: dict[str, Any]) -> Score:
    """A method's returns, with the better target where targets were tried."""
    return Score.of((one["calibrated"] or one["returns"])["seeds"])


def span(found: dict[str, Any]) -> float:
    return found["data"]["highest"] - found["data"]["lowest"]


def more(difference: Score, found: dict[str, Any]) -> str:
    """Whether returns on a log are higher, by their difference seed by seed: holds, does not, or is not settled."""
    if difference.sign(TOLERANCE * span(found)) > 0:
        return HOLDS
    is_open = difference.sign(TOLERANCE * span(found)) == 0 and difference.may_be_more(verdict.OPEN * span(found))
    return OPEN if is_open else NOT


def opposite(answer: str) -> str:
    return {HOLDS: NOT, NOT: HOLDS}.get(answer, answer)


# ------------------------------------------------------------------------------------------- what the figures say


def memory_claim(approach: str, other: str, is_long: bool) -> Callable[[Parts], tuple[str, str]]:
    """How far back: the longest corridor solved, against another's; of several sources the first that has both. Without
    one, who solves the table's own corridor. A tie decides nothing."""

    def tell(parts: Parts) -> tuple[str, str]:
        for source, sweep in sweeps_of(parts):
            if sweep.tried.get(approach) and sweep.tried.get(other):
                figure = f"T-maze corridors solved{source}: {sweep.cell(approach)} ({other}: {sweep.cell(other)}), of "
                figure += ", ".join(f"{value:g}" for value in sweep.values)
                reach = [sum(one.solved for one in sweep.tried[name]) for name in (approach, other)]
                break
        else:
            one, two = row(parts, "tmaze", approach), row(parts, "tmaze", other)
            if one is None or two is None:
                return "", UNKNOWN
            reach = [sum(one["reached"]), sum(two["reached"])]
            figure = f"T-maze, a corridor of 10: {reach[0]} of {len(one['reached'])} seeds solve it, a mean return of "
            figure += f"{one['mean']:.3g} ({other}: {reach[1]}, {two['mean']:.3g})"
        if reach[0] == reach[1]:
            return figure, OPEN
        return figure, HOLDS if (reach[0] > reach[1]) == is_long else NOT

    return tell


def sweeps_of(parts: Parts) -> list[tuple[str, Horizon]]:
    """The table's own sweep, and that of `benchmarks.memory_length recall`, as far as each is known."""
    sweeps = []
    if found := (parts.get("tmaze") or {}).get("horizon"):
        tried = {name: [Tried(**one) for one in some] for name, some in found["tried"].items()}
        sweeps.append(("", Horizon(key=found["key"], values=found["values"], tried=tried)))
    if recall := parts.get("recall"):
        sweeps.append((" by `benchmarks.memory_length`", recalled(recall["runs"])))
    return sweeps


def recalled(runs: list[dict[str, Any]]) -> Horizon:
    """Runs of `benchmarks.memory_length recall`, of PPO, as a sweep: up to the first length that is not solved."""
    values = sorted({float(run["length"]) for run in runs})
    tried: dict[str, list[Tried]] = {}
    for memory in dict.fromkeys(run["memory"] for run in runs):
        of_memory = tried.setdefault(f"ppo:{memory}", [])
        for value in values:
            means = [run["success"] for run in runs if (run["memory"], run["length"]) == (memory, value)]
            if not means or not all(one.solved for one in of_memory):
                break
            solved = sum(means) / len(means) >= 0.9
            of_memory.append(Tried(value=value, needed=0.9, seed_means=means, solved=solved))
    return Horizon(key="length", values=values, tried=tried)


def cost_claim(part: str, approach: str, other: str, is_cheap: bool) -> Callable[[Parts], tuple[str, str]]:
    """Steps until the threshold, median over seeds, against another's: cheap if fewer by a fifth, dear if more."""

    def tell(parts: Parts) -> tuple[str, str]:
        one, two = row(parts, part, approach), row(parts, part, other)
        if one is None or two is None:
            return "", UNKNOWN
        figure = f"{TITLES[part]}: {reached(one)}; {other}: {reached(two)}"
        steps = [median(r["steps_to_threshold"]) for r in (one, two)]
        share = [sum(r["reached"]) / len(r["reached"]) for r in (one, two)]
        if share[0] != share[1]:
            return figure, HOLDS if (share[0] > share[1]) == is_cheap else NOT
        if steps[0] is None or steps[1] is None:
            return figure, OPEN
        times = steps[0] / steps[1]
        figure += f" ({times:.2g} × the steps)"
        return figure, OPEN if 0.8 < times < 1.25 else HOLDS if (times < 1) == is_cheap else NOT

    return tell


def reached(one: dict[str, Any]) -> str:
    steps, seconds = median(one["steps_to_threshold"]), median(one["seconds_to_threshold"])
    said = f"{sum(one['reached'])} of {len(one['reached'])} seeds reach the threshold"
    if steps is None or seconds is None:
        return said
    return f"{said}, in {'about ' if one['exploring'] else ''}{steps:,.0f} steps, {seconds:.0f} s"


def median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def stability_claim(
    parts_and_names: tuple[tuple[str, str], ...], is_stable: bool
) -> Callable[[Parts], tuple[str, str]]:
    """Stable: every seed of every problem reaches the threshold, and so does its last agent, whichever is kept."""

    def tell(parts: Parts) -> tuple[str, str]:
        rows = [(part, row(parts, part, name)) for part, name in parts_and_names]
        known = [(part, one) for part, one in rows if one is not None]
        if not known:
            return "", UNKNOWN
        kept = ("earlier_kept", "final_means")
        lost = [
            num_lost(one["reached"], *(one.get(name, ()) for name in kept), parts[part]["threshold"])
            for part, one in known
        ]
        said = [
            f"{TITLES[part]}: {sum(one['reached'])} of {len(one['reached'])} seeds reach the threshold"
            f"{f', of which {k} lose it again by the end' if k else ''}, "
            f"the worst {min(one['seed_means']):.4g} of a mean {one['mean']:.4g}"
            for (part, one), k in zip(known, lost, strict=True)
        ]
        every = all(all(one["reached"]) and k == 0 for (_, one), k in zip(known, lost, strict=True))
        return "; ".join(said), HOLDS if every == is_stable else NOT

    return tell


def simple_claim(part: str, approach: str, other: str) -> Callable[[Parts], tuple[str, str]]:
    """Simple: fewer parameters, and as quick up to a tenth."""

    def tell(parts: Parts) -> tuple[str, str]:
        one, two = row(parts, part, approach), row(parts, part, other)
        if one is None or two is None:
            return "", UNKNOWN
        figure = (
            f"{TITLES[part]}: {one['num_parameters']:,} parameters, {one['steps_per_second']:,.0f} steps/s; {other}: "
        )
        figure += f"{two['num_parameters']:,}, {two['steps_per_second']:,.0f}"
        fewer = one["num_parameters"] < two["num_parameters"]
        return figure, HOLDS if fewer and one["steps_per_second"] > 0.9 * two["steps_per_second"] else NOT

    return tell


def quick_claim(part: str, approach: str, other: str, is_quick: bool) -> Callable[[Parts], tuple[str, str]]:
    """Steps per second of training against another's: a difference from a fifth on."""

    def tell(parts: Parts) -> tuple[str, str]:
        one, two = row(parts, part, approach), row(parts, part, other)
        if one is None or two is None:
            return "", UNKNOWN
        rates = one["steps_per_second"], two["steps_per_second"]
        figure = f"{TITLES[part]}: {rates[0]:,.0f} steps/s ({other}: {rates[1]:,.0f})"
        if 0.8 < rates[0] / rates[1] < 1.25:
            return figure, OPEN
        return figure, HOLDS if (rates[0] > rates[1]) == is_quick else NOT

    return tell


def stale_claim(parts: Parts) -> tuple[str, str]:
    """ΔQ of R2D2 in the table, and that of `benchmarks.staleness` with the same kind of start state: do all count?"""
    one = row(parts, "tmaze", "r2d2:gru")
    known = {"T-maze": one["delta_q"]} if one and one["delta_q"] is not None else {}
    for each in (parts.get("staleness") or {}).get("summary", []):
        if each["strategy"] == "stored_burn_in":
            name = f"T-maze of 30, a replay of {each['capacity']:,} (`benchmarks.staleness`)"
            known[name] = each["delta_q"]["own"]["all"]["stored_burn_in"][0]["mean"]
    if not known:
        return "", UNKNOWN
    figure = "; ".join(f"{name}: ΔQ {value:.2g} of the largest value" for name, value in known.items())
    count = [value >= STALE for value in known.values()]
    return figure, HOLDS if all(count) else OPEN if any(count) else NOT


def stitching_claim(name: str, does: bool) -> Callable[[Parts], tuple[str, str]]:
    """Does it exceed the best logged episode, where halves of two make a better one?"""

    def tell(parts: Parts) -> tuple[str, str]:
        one, found = method(parts, "corridors", name), of_log(parts, "corridors")
        if one is None or found is None:
            return "", UNKNOWN
        highest = found["data"]["highest"]
        beyond = more(Score.of([seed - highest for seed in score(one).seeds]), found)
        figure = f"corridors: {score(one)}; the best logged episode has {highest:.4g}, the best possible 3"
        return figure, beyond if does else opposite(beyond)

    return tell


def steerable_claim(parts: Parts) -> tuple[str, str]:
    known = [
        (part, one["follows"]["mean"])
        for part in ("tmaze", "corridors", "gamble")
        if (one := method(parts, part, "decision_transformer")) and one["follows"]
    ]
    if not known:
        return "", UNKNOWN
    figure = "rank correlation of asked and got: " + "; ".join(f"{TITLES[part]} {value:.2f}" for part, value in known)
    return figure, HOLDS if all(value >= STEERABLE for _, value in known) else NOT


def luck_claim(parts: Parts) -> tuple[str, str]:
    one, found = method(parts, "gamble", "decision_transformer"), of_log(parts, "gamble")
    if one is None or found is None or not one["calibrated"]:
        return "", UNKNOWN
    asked, better = Score.of(one["returns"]["seeds"]), Score.of(one["calibrated"]["seeds"])
    gain, tolerance = better - asked, TOLERANCE * span(found)
    figure = f"gamble: asked for the log's best, {found['data']['highest']:.4g}, it brings {asked}; "
    figure += f"for {one['asked_for']['mean']:.3g}, {better}"
    return figure, HOLDS if gain.sign(tolerance) > 0 else OPEN if gain.mean > tolerance else NOT


def against_log(name: str, figure_of: str, expects_more: bool) -> Callable[[Parts], tuple[str, str]]:
    """A method's return on the T-maze's log against a figure of the log's."""

    def tell(parts: Parts) -> tuple[str, str]:
        one, found = method(parts, "tmaze", name), of_log(parts, "tmaze")
        if one is None or found is None:
            return "", UNKNOWN
        level = found["data"][figure_of]
        answer = more(Score.of([seed - level for seed in score(one).seeds]), found)
        said = f"T-maze: {score(one)}; the log's {figure_of} is {level:.4g}"
        return said, answer if expects_more else opposite(answer)

    return tell


def offline_stability_claim(parts: Parts) -> tuple[str, str]:
    """Stable: seeds differ by less than a tenth of the span of the log's returns."""
    said, stable = [], []
    for part in ("tmaze", "corridors", "gamble"):
        one, found = method(parts, part, "decision_transformer"), of_log(parts, part)
        if one is not None and found is not None:
            seeds = score(one).seeds
            said.append(f"{TITLES[part]}: seeds {', '.join(f'{seed:.3g}' for seed in seeds)}")
            stable.append(max(seeds) - min(seeds) < 0.1 * span(found))
    return ("; ".join(said), HOLDS if all(stable) else NOT) if said else ("", UNKNOWN)


def cloning_claim(parts: Parts) -> tuple[str, str]:
    """Does asking for a return bring more than cloning the best episodes? By seed, on every log."""
    said, answers = [], []
    for part in ("tmaze", "corridors", "gamble"):
        one, two = method(parts, part, "decision_transformer"), method(parts, part, "filtered_bc")
        found = of_log(parts, part)
        if one is not None and two is not None and found is not None:
            said.append(f"{TITLES[part]}: {score(one)} against {score(two)}")
            answers.append(more(score(one) - score(two), found))
    return ("; ".join(said), max(answers, key=[HOLDS, OPEN, NOT].index)) if said else ("", UNKNOWN)


TITLES = {"tmaze": "T-maze", "cartpole": "masked CartPole", "corridors": "corridors", "gamble": "gamble"}
STACK, GRU, LSTM = "ppo:frame_stack", "ppo:gru", "ppo:lstm"
BOTH = ("cartpole", "tmaze")
CLAIMS: list[tuple[str, str, Callable[[Parts], tuple[str, str]]]] = [
    ("frame stacking (4)", "short memory", memory_claim(STACK, GRU, False)),
    ("frame stacking (4)", "simple", simple_claim("cartpole", STACK, GRU)),
    ("frame stacking (4)", "easy to train, where four frames are enough", cost_claim("cartpole", STACK, GRU, True)),
    ("frame stacking (4)", "stable, where four frames are enough", stability_claim((("cartpole", STACK),), True)),
    ("recurrent RL (GRU)", "long memory", memory_claim(GRU, STACK, True)),
    ("recurrent RL (GRU)", "hard to train", cost_claim("cartpole", GRU, STACK, False)),
    ("recurrent RL (GRU)", "unstable", stability_claim(tuple((part, GRU) for part in BOTH), False)),
    ("recurrent RL (LSTM)", "unstable", stability_claim(tuple((part, LSTM) for part in BOTH), False)),
    ("linear recurrence", "longer memory than a GRU's", memory_claim("ppo:linear", GRU, True)),
    ("linear recurrence", "sooner trained than a GRU", cost_claim("tmaze", "ppo:linear", GRU, True)),
    ("transformer as memory", "longer memory than a GRU's", memory_claim("ppo:transformer", GRU, True)),
    ("transformer as memory", "hard to train", cost_claim("tmaze", "ppo:transformer", GRU, False)),
    ("transformer as memory", "slow", quick_claim("tmaze", "ppo:transformer", GRU, False)),
    ("transformer as memory", "unstable", stability_claim((("tmaze", "ppo:transformer"),), False)),
    ("R2D2", "sample efficient", cost_claim("tmaze", "r2d2:gru", GRU, True)),
    ("R2D2", "slow", quick_claim("tmaze", "r2d2:gru", GRU, False)),
    ("R2D2", "its start states go stale", stale_claim),
    ("R2D2", "unstable", stability_claim((("tmaze", "r2d2:gru"),), False)),
    ("IMPALA", "quick, by steps a second", quick_claim("cartpole", "impala:gru", GRU, True)),
    ("IMPALA", "unstable", stability_claim(tuple((part, "impala:gru") for part in BOTH), False)),
    ("IMPALA", "needs more samples than PPO", cost_claim("cartpole", "impala:gru", GRU, False)),
    ("Decision Transformer", "stable", offline_stability_claim),
    ("Decision Transformer", "brings what it is asked for", steerable_claim),
    ("Decision Transformer", "no stitching", stitching_claim("decision_transformer", False)),
    ("Decision Transformer", "takes luck for skill", luck_claim),
    ("Decision Transformer", "better than its log is on average", against_log("decision_transformer", "mean", True)),
    ("Decision Transformer", "better than cloning the best episodes (%BC)", cloning_claim),
    ("QDT", "stitches", stitching_claim("qdt", True)),
    ("behaviour cloning", "no better than its log is on average", against_log("behaviour_cloning", "mean", False)),
]
"""Approach, adjective, and the rule that tells its figure and whether it holds."""


def preference_claim(data: dict[str, Any] | None) -> Claim:
    """What labels cost, from {"curve": [{"pairs": n, "reward": r}, …], "before": r₀}: the fewest pairs that brought
    nine tenths of the most that was gained over the reward before."""
    approach, adjective = "RLHF", "costly labels"
    curve = (data or {}).get("curve")
    if not data or not curve:
        return Claim(approach, adjective, "", UNKNOWN)
    before, best = float(data.get("before", curve[0]["reward"])), max(point["reward"] for point in curve)
    enough = min(point["pairs"] for point in curve if point["reward"] - before >= 0.9 * (best - before))
    figure = f"reward {before:.4g} before, {best:.4g} at best; {enough:,} labelled pairs bring 90 % of the gain"
    return Claim(approach, adjective, figure, HOLDS if enough >= 1000 else NOT)


def claims(parts: Parts) -> list[Claim]:
    told = [Claim(approach, adjective, *rule(parts)) for approach, adjective, rule in CLAIMS]
    return [*told, preference_claim(parts.get("preferences"))]
