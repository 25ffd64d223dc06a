"""The sentences under a comparison's table: which approach to take, and what the figures do not settle."""

import math
from collections.abc import Sequence

from seqrl.comparison.learning_curve import MUCH_CLIPPED
from seqrl.comparison.report import Comparison, Row
from seqrl.memory.make import simplicity
from seqrl.reports.common import mean_and_interval
from seqrl.statistics import is_above, percent


def advice(result: Comparison) -> str:
    """Which approach to take: the simplest that brings as much as the best, and which others may do so too.

    Of those that act, from the simplest memory on, and of one memory from the simplest algorithm on. As much is up to
    5 % of what the optimum, or the best approach where it is not known, is above the floor: the best without memory, or
    random actions where that is not known. Not settled is what lies within both intervals: a larger difference to a
    simpler approach, and five times that difference to a less simple one.
    """
    ordered = sorted(result.rows, key=_rank)
    best = max(ordered, key=lambda row: row.mean)
    enough = next(row for row in ordered if row.mean >= best.mean - _tolerance(result, best))
    place = ordered.index(enough)
    simpler = [row for row in ordered[:place] if _may_do(result, row, enough)]
    margin, most = 5 * _tolerance(result, best), math.inf if result.optimal is None else result.optimal
    better = [row for row in ordered[place + 1 :] if min(row.mean + _noise(row, enough), most) > enough.mean + margin]
    sentences = []
    if len(ordered) == 1:
        sentences.append(f"Only {result.name(best)} was tried: compare others with --memories.")
    if without := _nothing_learnt(result, best):
        sentences.append(
            f"None has learnt it yet: the best, {result.name(best)}, brings {_over_episodes(best)}, and {without}."
        )
        if not _is_short(result, best):
            by_chance = result.random is not None and best.mean > result.random
            or_tell = "; more --num-episodes would tell whether the difference is chance" if by_chance else ""
            sentences.append(f"Give more --num-steps{or_tell}.")
        simpler, better, enough = [], [], best
    elif len(ordered) > 1 and enough.memory == "none":
        yet = better or _is_short(result, best) or _misses_threshold(result)
        need = "Nothing shows a need for memory yet" if yet else "No memory is needed here within this budget"
        sentences.append(f"{need}: the agent without memory is as good as the best.")
    elif len(ordered) > 1:
        sentences += _take(result, enough, ordered[:place], [row for row in ordered[place + 1 :] if row not in better])
    if lost := num_lost(enough.reached, enough.earlier_kept, enough.final_means, result.threshold):
        seeds = len(enough.seed_means)
        sentences.append(f"Training lost it again on {lost} of {seeds} seeds; earlier agents are kept there.")
        sentences += [said] if enough.reach and (said := enough.reach.advice_on_discount()) else []
    sentences += _not_settled(result, enough, simpler, better)
    if result.optimal is not None and _is_short(result, best):
        sentences.append(_short_of(best, result.optimal))
    elif _misses_threshold(result):
        sentences.append(f"None reaches {result.threshold:.4g}: give more --num-steps, or try other --memories.")
    draws = any(drawn and run == enough.best_run for drawn, run in zip(enough.drawn, enough.runs, strict=False))
    sentences.append(f"Its best run is {enough.best_run}{', which acts by drawn actions' if draws else ''}.")
    sentences += _too_near(result) + _clipped(result)
    sentences += [f"A run failed, and what it belongs to is left out: {error}." for error in result.failed]
    return " ".join(sentences)


def _take(result: Comparison, enough: Row, simpler: Sequence[Row], no_better: Sequence[Row]) -> list[str]:
    against = ", ".join(f"{result.name(row)} reaches {row.mean:.4g}" for row in simpler)
    while_others = f", while {against}." if against else "."
    sentences = [f"Take {result.name(enough)}: it reaches {enough.mean:.4g}{while_others}"]
    if no_better:
        sentences.append(f"Nothing is gained by {' or '.join(_with_budget(result, row, enough) for row in no_better)}.")
    return sentences


def _not_settled(result: Comparison, enough: Row, simpler: Sequence[Row], better: Sequence[Row]) -> list[str]:
    """What so few seeds leave open."""
    seeds = len(enough.seed_means)
    questions = [f"{' or '.join(map(result.name, simpler))}, which is simpler, would do"] if simpler else []
    questions += [f"{' or '.join(map(result.name, better))} would bring more"] if better else []
    if questions:
        few = f"{seeds} seeds do" if seeds > 1 else "A single seed does"
        return [f"{few} not settle whether {', or whether '.join(questions)}: give more --num-seeds."]
    if seeds == 1 and result.rows[1:]:
        return ["A single seed settles little: give more --num-seeds."]
    return []


def _may_do(result: Comparison, row: Row, enough: Row) -> bool:
    """Whether a simpler approach that brought less may do as well: within the noise, and if theory allows it."""
    if row.memory == "none" and result.memoryless is not None and result.memoryless < _least(enough):
        return False
    return enough.mean - row.mean <= _noise(row, enough)


def _is_short(result: Comparison, best: Row) -> bool:
    """Whether the best approach misses the optimum by more than a tenth of it."""
    return result.optimal is not None and result.optimal - best.mean > 0.1 * abs(result.optimal)


def _misses_threshold(result: Comparison) -> bool:
    """Whether no seed of any approach has the return that counts as reached, which was asked for as a number then."""
    given = result.optimal is None and not math.isnan(result.threshold)
    return given and not any(any(row.reached) for row in result.rows)


def num_lost(
    reached: Sequence[bool], earlier_kept: Sequence[bool], final_means: Sequence[float | None], threshold: float
) -> int:
    """On how many seeds the kept agent, an earlier one, brings the threshold, and that of the last step does not."""
    seeds = zip(reached, earlier_kept, final_means, strict=False)  # runs without evaluations have none of the latter
    return sum(ok and earlier and end is not None and end < threshold for ok, earlier, end in seeds)


def _too_near(result: Comparison) -> list[str]:
    """What, other than too few steps, may have kept approaches from learning it, or from bridging more in a sweep."""
    swept = result.horizon.tried if result.horizon else {}
    sentences = []
    for row in result.rows:
        tried = swept.get(row.approach)
        failed = [one.reach for one in (tried or ())[-1:] if not one.solved]
        failed += [row.reach] if row.mean < result.threshold or math.isnan(result.threshold) else []
        if failed and failed[0] and (said := failed[0].advice_on_gradients(result.name(row))):
            sentences.append(said)
    return sentences


def _clipped(result: Comparison) -> list[str]:
    """Where clipped rewards may have another optimum than those that are paid."""
    clipped = [row for row in result.rows if row.rewards_clipped > MUCH_CLIPPED]
    if not clipped:
        return []
    flags = {
        "--no-normalize-rewards" if row.algorithm == "ppo" else f"--override {row.algorithm}.normalize_rewards=false"
        for row in clipped
    }
    most, names = percent(max(row.rewards_clipped for row in clipped)), " and ".join(map(result.name, clipped))
    return [
        f"Clipping moved up to {most} of the rewards' sum from large to small ones with {names}: if large ones must "
        f"count in full, compare with {' '.join(sorted(flags))}."
    ]


def _short_of(best: Row, optimal: float) -> str:
    optimum = f"optimum, {optimal:.4g}, is"
    if best.mean + _of_episodes(best) >= optimal:
        return f"Whether the {optimum} reached these episodes do not settle: compare anew with more --num-episodes."
    return f"The {optimum} not reached: give more --num-steps, or try other --memories."


def _nothing_learnt(result: Comparison, best: Row) -> str:
    """What can be had without having learnt anything, if the best approach is not clearly above it; else nothing.

    By the interval over episodes: where one seed of three fails, the others have learnt, whatever the seeds' interval.
    """
    number, width = len(result.rows), _of_episodes(best)
    if result.memoryless is not None:
        lost = _is_short(result, best) and not is_above(best.mean, width, result.memoryless, among=number)
        return f"{result.memoryless:.4g} can be had without memory" if lost else ""
    if result.random is not None and not is_above(best.mean, width, result.random, result.random_half_width, number):
        return f"random actions bring {mean_and_interval(result.random, result.random_half_width)}"
    return ""


def _tolerance(result: Comparison, best: Row) -> float:
    floor = result.random if result.memoryless is None else result.memoryless
    if floor is None:
        return 0.02 * abs(best.mean)  # written before random actions were played
    if floor == result.optimal:  # where nothing is hidden, as in key to door, no memory has all
        floor = 0.0
    return 0.05 * abs((best.mean if result.optimal is None else result.optimal) - floor)


def _with_budget(result: Comparison, row: Row, other: Row) -> str:
    """A row's name, and its steps where it was given fewer than another."""
    fewer = row.num_steps < other.num_steps
    return result.name(row) + (f" (in {row.num_steps:,} steps, not {other.num_steps:,})" if fewer else "")


def _rank(row: Row) -> tuple[int, int, bool, bool, str]:
    """From the simplest on; PPO comes before what learns from replayed or late rows, ours before one's own, and of one
    memory what reads observations alone: whoever reads rewards has to be told them for ever after."""
    memory, *inputs = row.memory.split("+")
    return simplicity(memory), len(inputs), ":" in row.algorithm, row.algorithm != "ppo", row.algorithm


def _over_episodes(row: Row) -> str:
    """Its mean with the interval that is judged by, which is another than the table's over seeds, and is called so."""
    wide = bool(row.seed_means[1:]) and not math.isnan(row.episodes_half_width)
    return mean_and_interval(row.mean, _of_episodes(row)) + (" over its episodes" if wide else "")


def _of_episodes(row: Row) -> float:
    """Half the interval of the mean over episodes; over seeds in results that were written before it was known."""
    return row.half_width if math.isnan(row.episodes_half_width) else row.episodes_half_width


def _least(row: Row) -> float:
    """The lower end of that interval of the mean."""
    return row.mean - (0.0 if math.isnan(width := _of_episodes(row)) else width)


def _noise(*rows: Row) -> float:
    """Half the 95 % interval of the difference of rows' means: over seeds, or over episodes where there is one seed."""
    widths = (row.half_width if row.seed_means[1:] else row.episodes_half_width for row in rows)
    return math.hypot(*(width for width in widths if not math.isnan(width)))
