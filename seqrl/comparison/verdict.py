"""Should you use this method? What a comparison on a log says, in sentences; each rests on figures of results.json."""

from seqrl.comparison.approaches import OFFLINE
from seqrl.comparison.report_offline import TOLERANCE, MethodRow, OfflineComparison, Score
from seqrl.statistics import percent

FEW = 5
"""Episodes near the best below which the best is hardly shown."""
CHANCE = 0.05
"""Share of recurring observations and actions with different outcomes from which on chance counts; as `seqrl audit`."""
OPEN = 0.05
"""Share of the span of returns from which on a difference within its interval is not none, but not settled by so few
seeds; nor is one whose interval reaches five times as far."""
NATS = 0.01
"""Of log-likelihoods, the difference that counts, and that is open."""


def verdict(result: OfflineComparison) -> list[str]:
    """Sentences on chance, coverage, stitching, on what asking for a return buys, and on which method to take.

    A difference counts where it lies beyond its 95 % interval over seeds, taken seed by seed, and beyond `TOLERANCE`.
    """
    sentences = [_chance(result), *_luck(result), _coverage(result), _actions(result), *_stitching(result)]
    sentences += [*_asking(result), *_recommendation(result)] if result.env else _foreseeing(result)
    sentences += ["A single seed settles little: give more --num-seeds."] if result.num_seeds == 1 else []
    sentences += [f"A run failed, and what it belongs to is left out: {error}." for error in result.failed]
    return [sentence for sentence in sentences if sentence]


def _has_chance(result: OfflineComparison) -> bool | None:
    """Whether the same observation and action were followed by something else; None where too few came again."""
    seen_again = result.data["seen_again"]
    if seen_again < 0.01 or seen_again * result.data["decisions"] < 20:
        return None
    return result.data["followed_by_another"] > CHANCE


def _chance(result: OfflineComparison) -> str:
    again, differ = percent(result.data["seen_again"]), percent(result.data["followed_by_another"])
    match _has_chance(result):
        case None:
            return f"Chance: {again} of observations came again with the same action, too few to tell."
        case True:
            return (
                f"Chance: {differ} of recurring observations and actions were not always followed by the same. Either "
                "it is drawn by lot, and asking for a high return takes luck for skill, or something is hidden, which "
                "needs memory."
            )
        case _:
            but = "" if result.data["followed_by_another"] == 0 else f", but for {differ}"
            return f"Chance: none to see; the same observation and action were followed by the same{but}."


def _luck(result: OfflineComparison) -> list[str]:
    """Does asking for the log's best bring it, and does asking for less bring as much?"""
    row = result.row("decision_transformer")
    if row is None or row.returns is None or row.calibrated is None or row.asked_for is None:
        return []
    best, got = result.data["highest"], row.returns
    if best - got.mean <= 0.1 * result.span:
        return [
            f"Asked for the log's best, {best:.4g}, the Decision Transformer brings {got}: it can be had by asking."
        ]
    gain = result.differences["decision_transformer: calibrated over the log's best"].sign(_tolerance(result))
    said = f"Asked for the log's best, {best:.4g}, the Decision Transformer brings {got}"
    other = f"asked for {row.asked_for.mean:.4g} it brings {row.calibrated}"
    chance = _has_chance(result)
    if gain > 0:
        why = {
            None: "the highest returns may be luck",
            True: "the highest returns of this log are luck",
            False: "though not by chance, as far as the log shows",
        }
        return [f"{said}; {other}: {why[chance]}, so ask for less."]
    if row.asked_for.mean >= best - 0.1 * result.span:
        return [f"{said}, and no lower target brings more: it has not learnt to do what the best episodes did."]
    why = {
        None: "the rest is luck, or not learnt",
        True: "the rest may be luck",
        False: "as nothing shows chance, it lacks training, memory or data",
    }
    return [f"{said}; {other}: {why[chance]}."]


def _coverage(result: OfflineComparison) -> str:
    near, number = result.data["near_best"], result.data["episodes"]
    if result.span == 0:
        return f"Coverage: all episodes bring {result.data['highest']:.4g}: a return tells nothing apart."
    few = ": too few to learn the best from, log more like them" if near < FEW else ""
    return (
        f"Coverage: {near:,} of {number:,} episodes ({percent(near / number)}) come within a tenth of the span of "
        f"returns of the best, {result.data['highest']:.4g}{few}."
    )


def _actions(result: OfflineComparison) -> str:
    shares, width = result.data["action_shares"], result.data["action_range"]
    if width is not None:
        return f"Actions: each entry spans at least {percent(min(width, 1.0))} of its range."
    if not shares:
        return ""
    every = [share for part in shares for share in part]
    never = sum(share == 0 for share in every)
    if never:
        return f"Actions: {never} of {len(every)} were never taken: nothing says what they bring."
    return f"Actions: each was taken in at least {percent(min(every))} of decisions."


def _stitching(result: OfflineComparison) -> list[str]:
    """Do values of the log promise more than was logged, and does one who learns from these promises get it?"""
    row, plain = result.row("qdt"), result.row("decision_transformer")
    if row is None or row.promise is None:
        return []
    promised, logged = row.promise["promised"], row.promise["logged"]
    rise = (promised - logged).sign(max(0.1 * result.span, TOLERANCE * abs(logged.mean))) > 0
    said = f"Stitching: values of the log promise {promised} at the start, the best logged from there is {logged}"
    doubt = " (of luck they promise too much)" if rise and _has_chance(result) else ""
    if not rise:
        said += ": no sign that halves of different episodes would make a better one"
    if plain is None or row.returns is None:
        return [f"{said}{doubt}."]
    by = f"qdt, which joins episodes, brings {row.best} against the Decision Transformer's {plain.best}"
    difference = result.differences["qdt over decision_transformer"]
    match difference.sign(_tolerance(result)), rise:
        case 1, True:
            return [f"{said}, and {by}: this log needs stitching."]
        case 1, False:
            return [f"{said}; yet {by}."]
        case 0, True if difference.may_be_more(OPEN * result.span):
            return [f"{said}{doubt}, and {by}: {result.num_seeds} seeds do not settle it, give more --num-seeds."]
        case _, True:
            return [f"{said}{doubt}, but {by}: the promise is not kept."]
        case _:
            return [f"{said}; {by}."]


def _asking(result: OfflineComparison) -> list[str]:
    """Does asking for a return buy anything over cloning the best episodes?"""
    row, clone = result.row("decision_transformer"), result.row("filtered_bc")
    if row is None or clone is None:
        return []
    said = f"the Decision Transformer brings {row.best}{_at(row)}, cloning the best {100 * result.best_share:.3g} % "
    said += f"of episodes {clone.best}"
    difference = result.differences["decision_transformer over filtered_bc"]
    match difference.sign(_tolerance(result)):
        case 1:
            return [f"Asking pays: {said}."]
        case -1:
            return [f"Asking costs: {said}."]
        case 0 if any(each.may_be_more(OPEN * result.span) for each in (difference, -difference)):
            return [f"Asking or filtering: {said}; {result.num_seeds} seeds do not settle it, give more --num-seeds."]
        case _:
            return [f"Asking buys nothing that filtering does not: {said}."]


def _at(row: MethodRow) -> str:
    return f" (asked for {row.asked_for.mean:.4g})" if row.asked_for is not None else ""


def _recommendation(result: OfflineComparison) -> list[str]:
    """The simplest method as good as the best, up to a standard error; against the log's own mean and best."""
    best = max(result.rows, key=lambda row: row.best.mean)

    def as_good(row: MethodRow) -> bool:
        less = best.best - row.best
        return row is best or less.mean <= _tolerance(result) or less.mean < less.standard_error

    from_simple = sorted(result.rows, key=lambda row: OFFLINE.index(row.method))
    enough = next(row for row in from_simple if as_good(row))
    mean, highest = result.data["mean"], result.data["highest"]
    against = f"the log's episodes bring {mean:.4g} on average and {highest:.4g} at best"
    gain = enough.best.mean - mean
    if gain <= max(_tolerance(result), enough.best.standard_error):
        said = f"From the log alone, take none yet: the best here, {enough.method}, brings {enough.best}{_at(enough)}"
        return [f"{said}; {against}. Give more --num-steps, or log better episodes."]
    name = {"behaviour_cloning": "simplest of all", "filtered_bc": "simpler than asking for a return"}
    why = f" ({name[enough.method]})" if enough.method in name and len(result.rows) > 1 else ""
    target = ""
    if enough.calibrated and enough.returns and enough.calibrated.mean > enough.returns.mean + _tolerance(result):
        target = f" Its default target is not the best: seqrl calibrate {enough.best_run} --set-target."
    doubt = ""
    if Score.of([seed - mean for seed in enough.best.seeds]).sign(_tolerance(result)) == 0:
        doubt = (
            f" {result.num_seeds} seeds do not settle whether it brings more than the average: give more --num-seeds."
        )
    return [
        f"From the log alone, take {enough.method}{why}: it brings {enough.best}{_at(enough)}; {against}.{doubt} "
        f"Its best run is {enough.best_run}.{target}"
    ]


def _foreseeing(result: OfflineComparison) -> list[str]:
    """Without an environment: does knowing the return help to foresee logged actions?"""
    said = ["Nothing was played: how much any method would bring is not known (give an environment with --env)."]
    row, clone = result.row("decision_transformer"), result.row("behaviour_cloning")
    if row is None or clone is None:
        return said
    one, other = row.held_out["log_likelihood"], clone.held_out["log_likelihood"]
    figures = f"held-out actions have the log-likelihood {one} with it and {other} without"
    difference = one - other
    if difference.sign(NATS) > 0:
        return [*said, f"The return tells actions apart: {figures}, so asking for one can have a hold."]
    if difference.sign(NATS) == 0 and difference.may_be_more(NATS):
        settles = f"{result.num_seeds} seeds do not settle it, give more --num-seeds"
        return [*said, f"Whether the return tells actions apart is open: {figures}; {settles}."]
    return [*said, f"The return says nothing of actions: {figures}. Asking for one will have no hold; clone instead."]


def _tolerance(result: OfflineComparison) -> float:
    return TOLERANCE * result.span
