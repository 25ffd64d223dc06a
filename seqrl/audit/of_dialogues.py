"""Checks of logged dialogues: what is known of each, from one pass over the file, a check at a time."""

import re
from collections.abc import Callable
from typing import Any, Literal

from seqrl.audit.finding import Finding, Found, all_well, among, lines, listed, repeating, sharing
from seqrl.audit.reading_dialogues import Facts, Log
from seqrl.data.dialogues import shown
from seqrl.statistics import percent


def _of(bad: list[Facts], log: Log) -> str:
    return among(bad, log.dialogues, "dialogues")


def dialogues(log: Log) -> Found:
    """How many there are, and whether any is a copy of another."""
    found = []
    same = sharing(log.dialogues, lambda facts: facts.id)
    if same:
        message = f"{_of(same, log)} share their id with another: give each its own"
        found.append(
            Finding("dialogues", "same_id", "wrong", message, lines(repeating(log.dialogues, lambda facts: facts.id)))
        )
    copies = repeating(log.dialogues, lambda facts: facts.words)
    if copies:
        message = f"{_of(copies, log)} say word for word what an earlier one says: held-out ones would be known already"
        found.append(Finding("dialogues", "duplicates", "look", message))
    number, turns = len(log.dialogues), sum(speaker.turns for speaker in log.speakers.values())
    figures = {"dialogues": number, "turns": turns, "same_ids": len(same), "duplicates": len(copies)}
    return figures, all_well(found, "dialogues", f"{number:,} with {turns:,} turns, none twice")


def speakers(log: Log) -> Found:
    """Does the agent speak, and is everybody who speaks known?"""
    found = []
    silent = [facts for facts in log.dialogues if not facts.mine]
    if silent:
        names = listed([f"'{shown(name, 30)}'" for name in sorted(silent[0].speakers)])
        agent = shown(silent[0].agent, 30)
        message = f"the agent says nothing in {_of(silent, log)}: '{agent}' is to be learnt, who speaks is {names}"
        found.append(Finding("speakers", "silent_agent", "wrong", message, lines(silent)))
    strange = _strange(log)
    if strange:
        where = next(facts for facts in log.dialogues if strange[0] in facts.speakers)
        names = listed([f"'{shown(name, 30)}'" for name in strange])
        message = (
            f"{names} spoke in under 1 % of dialogues (first: line {where.line}): who is that, or a name misspelt?"
        )
        found.append(Finding("speakers", "unknown_speakers", "look", message))
    names = listed([f"'{shown(name, 30)}'" for name in sorted(log.agents)])
    text = f"{len(log.speakers):,} speakers; to be learnt: {names}"
    return {"silent_agents": len(silent), "unknown_speakers": strange[:100]}, all_well(found, "speakers", text)


def _strange(log: Log) -> list[str]:
    """Speakers of under 1 % of dialogues, where the rest say 90 % of all; and names that differ by case or space."""
    plain: dict[str, str] = {}
    for name in sorted(log.speakers, key=lambda name: -log.speakers[name].turns):
        plain.setdefault(_plain(name), name)
    misspelt = {name for name in log.speakers if plain[_plain(name)] != name}
    limit = len(log.dialogues) / 100
    rare = {name for name, speaker in log.speakers.items() if speaker.dialogues < limit}
    turns = sum(speaker.turns for speaker in log.speakers.values())
    if sum(log.speakers[name].turns for name in rare) > turns / 10:  # such as customers by name
        rare = set()
    return sorted(rare | misspelt)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def rewards(log: Log) -> Found:
    """Are there rewards, in all dialogues, and do they agree with the outcome?"""
    rewarded = [facts for facts in log.dialogues if facts.rewards]
    feedback = [facts for facts in log.dialogues if facts.feedback]
    totals = [facts.total for facts in rewarded]
    figures: dict[str, Any] = {"rewarded": len(rewarded), "with_feedback": len(feedback)}
    if not rewarded:
        points = sum(facts.points is not None for facts in log.dialogues)
        source = [f"{len(feedback):,} dialogues have thumbs or clicks"] if feedback else []
        source += [f"{points:,} have points"] if points else []
        if source:
            message = f"none, but {' and '.join(source)}: make rewards of these (seqrl reward)"
            return figures, [Finding("rewards", "only_feedback", "look", message)]
        return figures, [
            Finding("rewards", "no_rewards", "look", "none, nor thumbs, clicks or points: only imitation is left")
        ]
    figures |= {"return_low": min(totals), "return_mean": sum(totals) / len(totals), "return_high": max(totals)}
    found = [*_missing(log, rewarded), *_against_points(log)]
    if not any(totals) and not any(any(facts.rewards) for facts in rewarded):
        found.append(Finding("rewards", "all_zero", "wrong", "all are 0: there is nothing to learn from"))
    text = f"in all dialogues; returns {min(totals):.4g} to {max(totals):.4g}, mean {figures['return_mean']:.4g}"
    return figures, all_well(found, "rewards", text)


def _missing(log: Log, rewarded: list[Facts]) -> list[Finding]:
    found = []
    missing = [facts for facts in log.dialogues if not facts.rewards and facts.mine]
    if missing:
        message = (
            f"{_of(missing, log)} have none, and the others do: write 0 where nothing was earned, or leave them out"
        )
        found.append(Finding("rewards", "missing", "wrong", message, lines(missing)))
    gaps = [facts for facts in rewarded if 0 < len(facts.rewards) < facts.mine]
    if gaps and 2 * len(gaps) < len(rewarded):  # else only some turns are ever rewarded
        message = f"{_of(gaps, log)} have none on some of the agent's turns, most have them on all: lost, or 0?"
        found.append(Finding("rewards", "gaps", "look", message))
    return found


def _against_points(log: Log) -> list[Finding]:
    """Points that were copied to each turn, and returns that are not the points."""
    known = [facts for facts in log.dialogues if facts.points is not None and facts.rewards]
    copied = [f for f in known if len(f.rewards) > 1 and f.points and all(reward == f.points for reward in f.rewards)]
    if copied:
        message = f"{_of(copied, log)} have all the points on every turn: they count several times; keep the last"
        return [Finding("rewards", "copied", "wrong", message, lines(copied))]
    other = [facts for facts in known if facts.points is not None and abs(facts.total - facts.points) > 1e-6]
    if other:
        first = other[0]
        example = f"{first.total:.6g} for {first.points:.6g}"
        message = f"{_of(other, log)} have other returns than points ({example}): is that meant?"
        return [Finding("rewards", "other_points", "look", message)]
    return []


def leaks(log: Log) -> Found:
    """Rewards where they cannot be learnt from, or known too early."""
    found = []
    theirs = [facts for facts in log.dialogues if facts.rewarded_theirs]
    if theirs:
        message = (
            f"rewards on turns that are not the agent's in {_of(theirs, log)}: put them on the agent's turn before"
        )
        found.append(Finding("leaks", "rewards_of_others", "wrong", message, lines(theirs)))
    early = [facts for facts in log.dialogues if facts.early_feedback]
    if early:
        message = f"thumbs or clicks before the agent's first turn in {_of(early, log)}: they reward nothing of its"
        found.append(Finding("leaks", "early_feedback", "look", f"{message}, take them out"))
    told = [facts for facts in log.dialogues if facts.reward_in_text]
    if told:
        message = f"texts of {_of(told, log)} tell a reward or score, such as 'reward: 1': take it out"
        found.append(Finding("leaks", "reward_in_text", "look", message))
    known = _meta_that_tells(log)
    if known:
        names = listed([f"meta.{shown(name, 30)}" for name in known])
        message = (
            f"{names} is the return or the points in every dialogue, known before the first turn: move it to outcome"
        )
        found.append(Finding("leaks", "meta_tells", "wrong", message))
    figures = {
        "rewards_of_others": len(theirs), "early_feedback": len(early), "reward_in_text": len(told),
        "meta_that_tells": known,
    }  # fmt: skip
    return figures, all_well(found, "leaks", "rewards only on the agent's turns, none told before")


def _meta_that_tells(log: Log) -> list[str]:
    """Keys of meta whose number is the return, or the points, wherever both are known, for three values or more."""
    keys: dict[str, set[float]] = {}
    wrong: set[str] = set()
    for facts in log.dialogues:
        for key, value in facts.meta.items():
            target = {facts.points, facts.total if facts.rewards else None} - {None}
            if isinstance(value, bool | str) or not target:
                continue
            keys.setdefault(key, set()).add(value)
            if value not in target:
                wrong.add(key)
    return sorted(key for key, values in keys.items() if key not in wrong and len(values) >= 3)


def failures(log: Log) -> Found:
    """Failed dialogues must not keep the rewards of what was nearly agreed on."""
    known = [facts for facts in log.dialogues if "agreement" in facts.outcome]
    failed = [facts for facts in known if facts.failed]
    kept = [facts for facts in failed if facts.total > 0]
    figures = {"agreement_known": len(known), "failed": len(failed), "rewarded_failures": len(kept)}
    if not kept:
        text = "no outcome tells of an agreement, so none is known to have failed"
        if known:
            text = f"{percent(len(failed) / len(known))} of dialogues ended without an agreement"
        if failed:
            low, high = min(facts.total for facts in failed), max(facts.total for facts in failed)
            text += f", with returns of {low:.6g}" + (f" to {high:.6g}" if low < high else "")
        return figures, [Finding("failures", "failures", "ok", text)]
    low, high = min(facts.total for facts in kept), max(facts.total for facts in kept)
    severity: Literal["look", "wrong"] = "look"
    if low < high or any(facts.points is None or facts.points != facts.total for facts in kept):
        severity = "wrong"
    amount = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
    why = "set them to 0" if severity == "wrong" else "the outcome says so too; is that the rule for failures?"
    message = f"no agreement, but rewards of {amount} in {_of(kept, log)}: {why}"
    return figures, [Finding("failures", "kept_rewards", severity, message, lines(kept))]


def endings(log: Log) -> Found:
    """Dialogues that were cut off."""
    without = [facts for facts in log.dialogues if not facts.outcome]
    theirs = [facts for facts in log.dialogues if not facts.mine_is_last]
    cut = [facts for facts in without if not facts.mine_is_last]
    share = percent(len(theirs) / len(log.dialogues))
    figures = {"without_outcome": len(without), "end_with_others": len(theirs), "cut_off": len(cut)}
    found = []
    if cut:
        # Where most end so, that is how such conversations end: the other thanks, and goes.
        severity: Literal["look", "wrong"] = "look"
        message = f"{_of(cut, log)} end on another's turn: that may be their end, such as thanks; an outcome would tell"
        if len(without) < len(log.dialogues) and 2 * len(cut) <= len(log.dialogues):
            severity = "wrong"
            message = f"{_of(cut, log)} end on another's turn without an outcome: cut off? Leave them out"
        found.append(Finding("endings", "truncated", severity, message, lines(cut)))
    if without and len(without) < len(log.dialogues) and len(without) > len(cut):
        message = f"{_of(without, log)} have no outcome, and the others do: cut off?"
        found.append(Finding("endings", "no_outcome", "look", message))
    if len(without) == len(log.dialogues):
        found.append(
            Finding("endings", "no_outcomes", "look", "no outcome is logged: whether dialogues are whole is unknown")
        )
    return figures, all_well(found, "endings", f"all have an outcome; {share} end on another's turn")


def turns(log: Log) -> Found:
    """Turns twice, several of one speaker in a row, without text, cut off, back in time."""
    found = []
    checks: tuple[tuple[str, str, Literal["look", "wrong"], str], ...] = (
        ("repeated", "repeated", "look", "say the same twice in a row: logged twice?"),
        ("in_a_row", "in_a_row", "look", "have two turns of one speaker in a row: join them, or was one lost between?"),
        ("empty_mine", "empty_mine", "wrong", "have turns of the agent without text: there is no token to learn from"),
        ("empty_theirs", "empty_theirs", "look", "have turns of others without text: was it lost?"),
        ("cut_mine", "cut_mine", "look", "have turns of the agent that were cut off: draw with more --max-tokens"),
        ("back_in_time", "back_in_time", "wrong", "have turns before the one above them in time: sort them"),
    )
    figures: dict[str, Any] = {}
    for attribute, kind, severity, problem in checks:
        bad = [facts for facts in log.dialogues if getattr(facts, attribute)]
        figures[kind] = sum(getattr(facts, attribute) for facts in bad)
        if bad:
            found.append(
                Finding("turns", kind, severity, f"{_of(bad, log)} {problem} ({figures[kind]:,} turns)", lines(bad))
            )
    return figures, all_well(found, "turns", "speakers take turns, none is empty or twice")


def propensities(log: Log) -> Found:
    """Probabilities of the logging policy: needed for importance weights, on all of the agent's turns."""
    bad = [facts for facts in log.dialogues if facts.bad_propensities]
    given, mine = (sum(getattr(facts, name) for facts in log.dialogues) for name in ("propensities", "mine"))
    figures = {"propensities": given, "bad_propensities": sum(len(facts.bad_propensities) for facts in bad)}
    found = []
    if bad:
        value = bad[0].bad_propensities[0]
        message = (
            f"{_of(bad, log)} have some outside (0, 1], such as {value:.6g}: log probabilities were logged, or percent?"
        )
        found.append(Finding("propensities", "outside", "wrong", message, lines(bad)))
    if 0 < given < mine:
        message = f"on {percent(given / mine)} of the agent's turns: importance weights need them on all"
        found.append(Finding("propensities", "partial", "look", message))
    text = "on all of the agent's turns" if given else "none: importance weights need a fitted policy"
    return figures, all_well(found, "propensities", text)


CHECKS: tuple[Callable[[Log], Found], ...] = (
    dialogues, speakers, rewards, leaks, failures, endings, turns, propensities,
)  # fmt: skip
