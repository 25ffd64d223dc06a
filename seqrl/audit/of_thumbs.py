"""Checks of thumbs, answers that were judged alone: from one pass over the file, a check at a time."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.audit.finding import Finding, Found, agreement, all_well, among, listed, repeating, sharing
from seqrl.audit.of_preferences import hashed, words
from seqrl.data.dialogues import shown
from seqrl.data.preferences import cut_turns, numbered_thumbs
from seqrl.statistics import percent

RARE = 0.1
"""A share of thumbs up or down below which the rarer ones hardly count, unless they are given weight."""

FEW = 10
"""Thumbs of one kind below which their lengths tell nothing."""


@dataclass(slots=True)
class Judged:
    """What is kept of one thumb. Lengths are words between spaces, of the agent's turns."""

    line: int
    id: str
    labeller: str | None
    prompt: bytes
    prompted: bool
    answer: bytes
    length: int
    label: bool
    cut: bool


def read_judged(path: str | Path) -> list[Judged]:
    """One pass. Raises what `read_thumbs` raises."""
    return [
        Judged(
            line=line,
            id=thumb.id,
            labeller=thumb.labeller,
            prompt=hashed(thumb.prompt),
            prompted=bool(thumb.prompt),
            answer=hashed(thumb.completion),
            length=words(thumb.completion, thumb.agent),
            label=thumb.label,
            cut=bool(cut_turns(thumb, "cut")),
        )
        for line, thumb in numbered_thumbs(path)
    ]


def _of(bad: list[Judged], log: list[Judged]) -> str:
    return among(bad, log, "answers")


def thumbs(log: list[Judged]) -> Found:
    """How many there are, and whether any is there twice."""
    found = []
    same = sharing(log, lambda each: (each.id, each.labeller))
    if same:
        message = f"{_of(same, log)} share their id with another of the same labeller: give each its own"
        found.append(Finding("thumbs", "same_id", "wrong", message))
    copies = repeating(log, lambda each: (each.prompt, each.answer, each.label, each.labeller))
    if copies:
        message = f"{_of(copies, log)} say what an earlier one says: they count twice"
        found.append(Finding("thumbs", "duplicates", "look", message))
    figures = {"thumbs": len(log), "same_ids": len(same), "duplicates": len(copies)}
    return figures, all_well(found, "thumbs", f"{len(log):,}, none twice")


def answers(log: list[Judged]) -> Found:
    """Is something said in each, to its end, and to a question that is known?"""
    found = []
    empty, cut = [each for each in log if not each.length], [each for each in log if each.cut]
    missing = [each for each in log if not each.prompted]
    if empty:
        message = f"nothing is said in {_of(empty, log)}: was it lost, or is silence an answer?"
        found.append(Finding("answers", "empty", "look", message))
    if cut:
        message = f"cut off before the end are {_of(cut, log)}: enlarge --max-tokens where they are drawn"
        found.append(Finding("answers", "cut", "look", message))
    if missing:
        message = f"there is no prompt in {_of(missing, log)}: answers to nothing, or a column that was lost?"
        found.append(Finding("answers", "no_prompt", "look", message))
    figures = {"empty": len(empty), "cut": len(cut), "no_prompt": len(missing)}
    return figures, all_well(found, "answers", "each has a prompt, none is empty or cut off")


def balance(log: list[Judged]) -> Found:
    """Are there thumbs of both kinds, and enough of each?"""
    up = sum(each.label for each in log)
    share = up / len(log)
    text = f"thumbs up are {percent(share)} of {len(log):,}"
    if up in (0, len(log)):
        message = f"{text}: nothing tells good from bad; cloning (seqrl train bc) learns from good answers alone"
        return {"up": share}, [Finding("balance", "one_kind", "wrong", message)]
    if min(share, 1 - share) < RARE:
        which = "undesirable" if share > 0.5 else "desirable"
        message = f"{text}: give the rarer ones weight (seqrl train kto --{which}-weight)"
        return {"up": share}, [Finding("balance", "rare", "look", message)]
    return {"up": share}, [Finding("balance", "balance", "ok", text)]


def labels(log: list[Judged]) -> Found:
    """Do thumbs on the same answer agree, a labeller's own and those of several?"""
    judged: dict[tuple[bytes, bytes], dict[str | None, set[bool]]] = defaultdict(lambda: defaultdict(set))
    for each in log:
        judged[each.prompt, each.answer][each.labeller].add(each.label)
    against = [each for each in log if len(judged[each.prompt, each.answer][each.labeller]) > 1]
    several, agreed = agreement(judged)
    names = sorted({shown(each.labeller, 30) for each in log if each.labeller is not None})
    figures: dict[str, Any] = {
        "labellers": len(names),
        "contradictions": len(against),
        "judged_by_several": several,
        "agreed": agreed / several if several else None,
    }
    found = []
    if against:
        message = f"one labeller judged both ways in {_of(against, log)}: a share of thumbs is given at random"
        found.append(Finding("labels", "contradictions", "look", message))
    text = f"of {listed(names)}" if names else "labellers are not named"
    if several:
        text += f"; all agree on {percent(agreed / several)} of the {several:,} answers that several judged"
    return figures, all_well(found, "labels", text)


def prompts(log: list[Judged]) -> Found:
    """Does the prompt alone say what the thumb is? Then questions are learnt, and not what to say to them."""
    kinds: dict[bytes, set[bool]] = defaultdict(set)
    number: Counter[bytes] = Counter()
    for each in log:
        kinds[each.prompt].add(each.label)
        number[each.prompt] += 1
    often = [prompt for prompt, count in number.items() if count > 1]
    figures: dict[str, Any] = {"prompts": len(kinds), "judged_twice": len(often)}
    if not often:
        return figures, [Finding("prompts", "prompts", "ok", f"{len(kinds):,}, each with one answer")]
    one_sided = sum(len(kinds[prompt]) == 1 for prompt in often) / len(often)
    figures["one_sided"] = one_sided
    text = f"{len(kinds):,}; of {len(often):,} with several answers, {percent(one_sided)} have thumbs of one kind alone"
    if one_sided > 0.9 and len(often) > 10:
        message = f"{text}: the question tells the thumb, whatever is answered"
        return figures, [Finding("prompts", "one_sided", "look", message)]
    return figures, [Finding("prompts", "prompts", "ok", text)]


def length(log: list[Judged]) -> Found:
    """Are good answers longer than bad ones? Then length is what will be learnt first."""
    good, bad = ([each.length for each in log if each.label == label] for label in (True, False))
    if not good or not bad:
        return {}, [Finding("length", "length", "ok", "there is nothing to compare")]
    means = [sum(part) / len(part) for part in (good, bad)]
    squares = sum((x - mean) ** 2 for part, mean in zip((good, bad), means, strict=True) for x in part)
    # Of both kinds together, as where length tells nothing: the few of the rarer kind would understate their spread.
    error = (squares / max(len(log) - 2, 1) * (1 / len(good) + 1 / len(bad))) ** 0.5
    difference = means[0] - means[1]
    text = f"good answers have {means[0]:.3g} words, bad ones {means[1]:.3g} (means)"
    figures = {"length_up": means[0], "length_down": means[1]}
    # A fifth of the shorter, and more than chance gives once in 370 times (3 standard errors).
    if min(len(good), len(bad)) >= FEW and abs(difference) > 0.2 * max(min(means), 1.0) and abs(difference) > 3 * error:
        message = f"{text}: length is learnt with the rest; see what is said of answers of one length"
        return figures, [Finding("length", "length_bias", "look", message)]
    return figures, [Finding("length", "length", "ok", text)]


CHECKS = (thumbs, answers, balance, labels, prompts, length)
