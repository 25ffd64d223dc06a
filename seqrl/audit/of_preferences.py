"""Checks of preferences: what is known of each pair, from one pass over the file, a check at a time."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.audit.finding import Finding, Found, agreement, all_well, among, listed, repeating, sharing
from seqrl.data.dialogues import Turn, shown
from seqrl.data.preferences import Preference, cut_turns, numbered_preferences
from seqrl.statistics import percent


@dataclass(slots=True)
class Pair:
    """What is kept of one preference. Lengths are words between spaces, of the agent's turns."""

    line: int
    id: str
    labeller: str | None
    prompted: bool
    question: bytes
    """A hash of the prompt and both answers, whichever was chosen."""
    chosen: bytes
    rejected: bytes
    chosen_length: int
    rejected_length: int
    cut: bool
    """Whether either answer was cut off."""
    shown: object
    """Where the chosen answer stood, as `seqrl label` notes it: first or second."""


def read_pairs(path: str | Path) -> list[Pair]:
    """One pass. Raises what `read_preferences` raises."""
    return [_pair(line, preference) for line, preference in numbered_preferences(path)]


def _pair(line: int, preference: Preference) -> Pair:
    chosen, rejected = hashed(preference.chosen), hashed(preference.rejected)
    question = hashlib.blake2b(
        hashed(preference.prompt) + min(chosen, rejected) + max(chosen, rejected), digest_size=16
    )
    return Pair(
        line=line,
        id=preference.id,
        labeller=preference.labeller,
        prompted=bool(preference.prompt),
        question=question.digest(),
        chosen=chosen,
        rejected=rejected,
        chosen_length=words(preference.chosen, preference.agent),
        rejected_length=words(preference.rejected, preference.agent),
        cut=bool(cut_turns(preference, "cut_in_chosen") or cut_turns(preference, "cut_in_rejected")),
        shown=preference.meta.get("chosen_shown"),
    )


def words(answer: tuple[Turn, ...], agent: str) -> int:
    """How many the agent says."""
    return sum(len(turn.text.split()) for turn in answer if turn.speaker == agent)


def hashed(turns: tuple[Turn, ...]) -> bytes:
    """The same for the same turns."""
    content = repr([(turn.speaker, turn.text) for turn in turns])
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=16).digest()


def _of(bad: list[Pair], log: list[Pair]) -> str:
    return among(bad, log, "pairs")


def pairs(log: list[Pair]) -> Found:
    """How many there are, and whether any is there twice."""
    found = []
    same = sharing(log, lambda pair: (pair.id, pair.labeller))
    if same:
        message = f"{_of(same, log)} share their id with another of the same labeller: give each its own"
        found.append(Finding("pairs", "same_id", "wrong", message))
    copies = repeating(log, lambda pair: (pair.question, pair.chosen, pair.labeller))
    if copies:
        message = f"{_of(copies, log)} say what an earlier one says: held-out ones would be known already"
        found.append(Finding("pairs", "duplicates", "look", message))
    figures = {"pairs": len(log), "same_ids": len(same), "duplicates": len(copies)}
    return figures, all_well(found, "pairs", f"{len(log):,}, none twice")


def answers(log: list[Pair]) -> Found:
    """Are there two different answers, and is something said in each?"""
    found = []
    identical = [pair for pair in log if pair.chosen == pair.rejected]
    if identical:
        message = f"both answers are the same in {_of(identical, log)}: they teach nothing, leave them out"
        found.append(Finding("answers", "identical", "wrong", message))
    empty = [pair for pair in log if not (pair.chosen_length and pair.rejected_length)]
    if empty:
        message = f"an answer is empty in {_of(empty, log)}: was it lost, or is silence an answer?"
        found.append(Finding("answers", "empty", "look", message))
    cut = [pair for pair in log if pair.cut]
    if cut:
        message = f"an answer was cut off before its end in {_of(cut, log)}: enlarge --max-tokens where they are drawn"
        found.append(Finding("answers", "cut", "look", message))
    figures = {"identical": len(identical), "empty": len(empty), "cut": len(cut)}
    return figures, all_well(found, "answers", "two different ones in each, none empty or cut off")


def prompts(log: list[Pair]) -> Found:
    """Is it known what was answered?"""
    missing = [pair for pair in log if not pair.prompted]
    found = []
    if missing:
        message = f"there is no prompt in {_of(missing, log)}: answers to nothing, or a column that was lost?"
        found.append(Finding("prompts", "no_prompt", "look", message))
    return {"no_prompt": len(missing)}, all_well(found, "prompts", "each pair has one")


def labels(log: list[Pair]) -> Found:
    """Do the choices between the same two answers agree, a labeller's own and those of several?"""
    choices: dict[bytes, dict[str | None, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for pair in log:
        if pair.chosen != pair.rejected:
            choices[pair.question][pair.labeller].add(pair.chosen)
    against = [pair for pair in log if len(choices[pair.question][pair.labeller]) > 1]
    several, agreed = agreement(choices)
    names = sorted({shown(pair.labeller, 30) for pair in log if pair.labeller is not None})
    figures: dict[str, Any] = {
        "labellers": len(names),
        "contradictions": len(against),
        "asked_several": several,
        "agreed": agreed / several if several else None,
    }
    found = []
    if against:
        message = f"one labeller chose both ways in {_of(against, log)}: a share of choices is made at random"
        found.append(Finding("labels", "contradictions", "look", message))
    text = f"of {listed(names)}" if names else "labellers are not named"
    if several:
        text += f"; all agree on {percent(agreed / several)} of the {several:,} questions that several chose in"
    return figures, all_well(found, "labels", text)


def length(log: list[Pair]) -> Found:
    """Is the longer answer chosen more often than not? Then length is what will be learnt first."""
    different = [pair for pair in log if pair.chosen_length != pair.rejected_length]
    longer = sum(pair.chosen_length > pair.rejected_length for pair in different)
    share = longer / len(different) if different else None
    figures: dict[str, Any] = {"longer_chosen": share, "different_lengths": len(different)}
    if share is None:
        return figures, [Finding("length", "length", "ok", "both answers are of one length in each")]
    text = f"the longer answer was chosen in {percent(share)} of {len(different):,} pairs of different lengths"
    if _biased(longer, len(different)):
        message = f"{text}: length is learnt with the rest; see what a model says of answers of one length"
        return figures, [Finding("length", "length_bias", "look", message)]
    return figures, [Finding("length", "length", "ok", text)]


def place(log: list[Pair]) -> Found:
    """Is the answer that was shown first chosen more often than not?"""
    told = [pair.shown for pair in log if pair.shown in ("first", "second")]
    first = sum(where == "first" for where in told)
    figures: dict[str, Any] = {"first_chosen": first / len(told) if told else None}
    if not told:
        return figures, [Finding("place", "place", "ok", "which answer was shown first is not noted")]
    text = f"the answer shown first was chosen in {percent(first / len(told))} of {len(told):,} pairs"
    if _biased(first, len(told)):
        return figures, [Finding("place", "place_bias", "look", f"{text}: were they read to the end?")]
    return figures, [Finding("place", "place", "ok", text)]


def _biased(count: int, total: int) -> bool:
    """Whether a share is over a tenth from ½, and chance gives as much once in 370 times (3 standard deviations)."""
    return abs(count / total - 0.5) > 0.1 and abs(2 * count - total) > 3 * total**0.5


CHECKS = (pairs, answers, prompts, labels, length, place)
