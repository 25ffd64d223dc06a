"""Ship, or do not: what must hold before a policy replaces the one that was logged. Where unsure, it does not ship."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqrl.data.dialogues import shown
from seqrl.off_policy.evaluation import FITTED, Evaluation
from seqrl.statistics import percent

OF_THE_LOG = ("propensities", "rewards", "held out")
"""Checks that are alike for every β."""


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What is asked of an evaluation."""

    baseline: float | None = None
    """A mean return that must be exceeded, besides the logged one."""
    min_effective_size: float = 50.0
    """Dialogues of equal weight that the weighted ones must be worth."""
    max_share: float = 0.1
    """Of all weight, the most that one dialogue may have."""
    estimated_propensities: bool = False
    """Whether propensities that were not logged, but estimated, will do."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold, and what was found, in a sentence."""

    name: str
    passed: bool
    reason: str


def checks(
    found: Evaluation,
    wanted: Requirements,
    num_learnt_from: int = 0,
    not_found: Sequence[str] = (),
    steered: bool = False,
) -> list[Check]:
    """All that must hold. `num_learnt_from`: how many of the dialogues the policy is known to have learnt from;
    `not_found`: logs, or runs, of which that is not known; `steered`: whether less steering can be advised."""
    return [
        _better(found),
        *_above(found, wanted),
        _agreement(found, wanted),
        _size(found, wanted, steered),
        _share(found, wanted),
        _overlap(found),
        _propensities(found, wanted),
        _rewards(found),
        _held_out(found, num_learnt_from, not_found),
    ]


def ships(results: Sequence[Check]) -> bool:
    """Whether all hold."""
    return all(check.passed for check in results)


def chosen(judged: Mapping[float, tuple[Evaluation, Sequence[Check]]]) -> float | None:
    """Of several β, each with what was found, the one that ships and gains most at the lower end; of equal ones the
    smallest. None where none ships."""
    passed = sorted(beta for beta, (_, results) in judged.items() if ships(results))
    return max(passed, key=lambda beta: judged[beta][0].gain.low, default=None)


def _rounding(found: Evaluation) -> float:
    """What equal estimates may differ by: where all returns are the same, gains are not 0 to the last bit."""
    first = next(iter(found.estimates.values()))
    return 1e-9 * max(abs(number) for number in (*found.logged, *first))


def _better(found: Evaluation) -> Check:
    gain, logged = found.gain, found.logged.value
    passed = gain.low > _rounding(found)
    if passed:
        reason = f"It gains at least {gain.low:.3g} over the log's mean of {logged:.4g}."
    elif gain.high < -_rounding(found):
        reason = f"It loses at least {-gain.high:.3g} against the log's mean of {logged:.4g}."
    else:
        reason = (
            f"It may be no better than the log's mean of {logged:.4g}: the gain is {gain.low:.3g} to {gain.high:.3g}."
        )
    return Check(name="better than the log", passed=passed, reason=reason)


def _above(found: Evaluation, wanted: Requirements) -> list[Check]:
    if wanted.baseline is None:
        return []
    low = next(iter(found.estimates.values())).low
    passed = low > wanted.baseline
    reason = f"The lower end of its return, {low:.4g}, is {'above' if passed else 'not above'} {wanted.baseline:.4g}."
    return [Check(name="above the baseline", passed=passed, reason=reason)]


def _agreement(found: Evaluation, wanted: Requirements) -> Check:
    """Estimators err in different ways: where they differ by more than their intervals, none is to be trusted.

    One without an interval (NaN) need only be on the same side of the log's mean.
    """
    (first, best), *others = found.estimates.items()
    bar = max(found.logged.value, wanted.baseline if wanted.baseline is not None else found.logged.value)
    apart = [name for name, other in others if other.low > best.high or other.high < best.low]
    above = bar + _rounding(found)
    below = [name for name, other in found.estimates.items() if not other.value > above]  # NaN among them
    if apart:
        reason = f"Not within each other's intervals: {_quoted([first, *apart])}."
    elif below:
        reason = f"Not above {bar:.4g} by: {_quoted(below)}."
    else:
        reason = f"All {len(found.estimates)} estimates overlap, and each is above {bar:.4g}."
    if FITTED not in found.estimates:
        reason += " Values were not fitted."
    return Check(name="estimators agree", passed=not apart and not below, reason=reason)


def _quoted(names: Sequence[str]) -> str:
    """Names that have commas themselves."""
    return ", ".join(f"'{name}'" for name in names)


def _size(found: Evaluation, wanted: Requirements, steered: bool) -> Check:
    """A self-normalised estimate and its interval are worth what the effective number of dialogues is."""
    passed = found.effective_size >= wanted.min_effective_size
    reason = (
        f"After weighting, {found.num_dialogues:,} dialogues are worth {found.effective_size:.1f}; "
        f"{wanted.min_effective_size:.4g} {'were' if passed else 'are'} needed."
    )
    if not passed:
        reason += " Log more, or steer less (a smaller --beta)." if steered else " Log more."
    return Check(name="enough dialogues", passed=passed, reason=reason)


def _share(found: Evaluation, wanted: Requirements) -> Check:
    passed = 0 < found.greatest_share <= wanted.max_share
    reason = f"The heaviest dialogue has {percent(found.greatest_share)} of all weight"
    return Check(
        name="no dialogue decides", passed=passed, reason=f"{reason}; at most {percent(wanted.max_share)} is allowed."
    )


def _overlap(found: Evaluation) -> Check:
    """E_μ[π/μ] is 1 less the probability with which π says what μ never would: the part that the log cannot judge."""
    weight = found.mean_weight
    told = f"Weights average {weight.value:.3g} ({weight.low:.3g} to {weight.high:.3g}), where 1 is expected"
    low, high = weight.high < 0.9, weight.low > 1.1
    passed = weight.high >= 0.9 and weight.low <= 1.1  # and no NaN
    if low:
        told += ": the policy says much that was never logged, which the log cannot judge"
    if high and found.num_propensities < found.num_turns:
        told += (
            ": the policy that stands in for propensities says too seldom what was logged; train it for longer, or "
            "name another (--behaviour)"
        )
    elif high:
        told += ": propensities are too small, or another policy's"
    return Check(name="overlap with the log", passed=passed, reason=f"{told}.")


def _propensities(found: Evaluation, wanted: Requirements) -> Check:
    missing = found.num_turns - found.num_propensities
    if not missing:
        reason = f"All {found.num_turns:,} turns were logged with the probability of what was said."
        return Check(name="propensities", passed=True, reason=reason)
    reason = (
        f"Estimated by a cloned policy for {missing:,} of {found.num_turns:,} turns: weights are as right as that is"
    )
    reason += "." if wanted.estimated_propensities else "; log them, or accept it (--estimated-propensities)."
    return Check(name="propensities", passed=wanted.estimated_propensities, reason=reason)


def _rewards(found: Evaluation) -> Check:
    missing = found.num_unrewarded
    reason = (
        f"{missing:,} of {found.num_dialogues:,} dialogues have no reward, and were taken for 0."
        if missing
        else "Every dialogue has a reward."
    )
    return Check(name="rewards", passed=not missing, reason=reason)


def _held_out(found: Evaluation, num_learnt_from: int, not_found: Sequence[str]) -> Check:
    if num_learnt_from:
        reason = f"The policy learnt from {num_learnt_from:,} of these {found.num_dialogues:,} dialogues: give others."
    elif not_found:
        names = ", ".join(shown(name, 200) for name in not_found)
        reason = f"Not known, as what it learnt from is not found: {names}. Ship from the folder it was trained in."
    else:
        reason = "None of the dialogues is known to have been learnt from."
    return Check(name="held out", passed=not (num_learnt_from or not_found), reason=reason)
