"""What both sides of a negotiation say: for each act several wordings, all of which `parse` understands alike."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from seqrl.text.negotiation_parsing import INSULTS, ITEMS, PACKAGES, Share

OFFERS = (
    "I take {mine} and you get the rest.",
    "You get {yours} and I take the rest.",
    "How about {mine} for me and {yours} for you?",
    "I would like {mine}. You can have {yours}.",
)
PRIORITIES = (
    "I need {most} most and {least} least.",
    "{Most} is my highest priority, {least} is my lowest.",
    "My priorities are {most}, then {middle}, then {least}.",
)
WORDS: dict[str, tuple[str, ...]] = {
    "ask": ("What do you need most?", "Which packages are most important to you?", "What are your priorities?"),
    "greet": ("Hello, nice to meet you.", "Hi, how are you?", "Good morning. It is a fine day to camp."),
    "accept": ("I accept. It is a deal.", "I agree.", "Accept-Deal"),
    "reject": ("I cannot accept that.", "No deal.", "Reject-Deal"),
    "walk": ("I walk away.", "Walk-Away"),
    "courtesy": ("Thank you.", "I appreciate that you talk to me.", "Please be so kind."),
    "insult": ("You are a fool.", "Do not be silly.", "You are greedy.", "That is stupid.", "What nonsense."),
}
"""Said by either side."""
REPLIES: dict[str, tuple[str, ...]] = {
    "closed": ("I accept. It is a deal.", "I accept. We have a deal."),
    "sealed": ("Good. It is a deal.",),
    "no": ("I cannot accept that.", "That is too little for me, I must decline."),
    "no_table": ("There is no offer from me yet.",),
    "partial": ("You left something open. How would you share out all of the packages?",),
    "wrong": ("That does not add up. There are three of each.",),
    "heard": ("Good to know.",),
    "hurt": ("There is no need to be rude.",),
    "puzzled": ("I do not understand.",),
    "left": ("I walk away.", "I will not listen to that. I walk away."),
    "gone": ("So there is no deal.",),
    "time": ("Our time is over, so there is no deal.",),
}
"""Said by counterparts alone."""


def packages(share: Share) -> str:
    """ "2 food, 1 water and 0 firewood"."""
    food, water, firewood = (f"{number} {item}" for number, item in zip(share, ITEMS, strict=True))
    return f"{food}, {water} and {firewood}"


def rest(share: Share) -> Share:
    """What the other gets."""
    food, water, firewood = (PACKAGES - number for number in share)
    return food, water, firewood


def offers(share: Share) -> tuple[str, ...]:
    """All wordings of an offer by which the speaker would get `share`."""
    worded = tuple(words.format(mine=packages(share), yours=packages(rest(share))) for words in OFFERS)
    food, water, firewood = share
    return (*worded, f"Submit-Deal Firewood={firewood} Food={food} Water={water}")


def priorities(points: Sequence[int]) -> tuple[str, ...]:
    """All wordings of priorities, given by the items' points."""
    most, middle, least = sorted(range(len(ITEMS)), key=lambda item: -points[item])
    names = {"most": ITEMS[most], "middle": ITEMS[middle], "least": ITEMS[least], "Most": ITEMS[most].capitalize()}
    return tuple(words.format(**names) for words in PRIORITIES)


def briefing(points: Sequence[int]) -> str:
    """What the agent is told at first: its own points a package."""
    food, water, firewood = (f"{item} {number}" for item, number in zip(ITEMS, points, strict=True))
    return f"There are 3 packages of each. Your points: {food}, {water}, {firewood}."


def briefed_points(text: str) -> tuple[int, int, int]:
    """The points that a briefing told."""
    words = text.partition("Your points: ")[2].partition(".")[0].split(", ")
    food, water, firewood = (int(word.split()[1]) for word in words)
    return food, water, firewood


def any_of(wordings: Sequence[str], generator: torch.Generator) -> str:
    """One of several wordings, each as likely."""
    return wordings[int(torch.randint(len(wordings), (), generator=generator))]


def all_words() -> Iterator[str]:
    """Texts that have all words which either side says: what a vocabulary is made of."""
    orders = [(5, 4, 3), (4, 3, 5), (3, 5, 4)]
    for points in orders:
        yield f"- {briefing(points)} Hello"
        for text in priorities(points):
            yield f"{text} - {text}"
    for number, item in product(range(PACKAGES + 1), ITEMS):
        share = (number,) * 3
        yield from (f"{text} - {text} {item}" for text in offers(share))
    for wordings in (*WORDS.values(), *REPLIES.values(), INSULTS):
        yield from (f"{text} - {text}" for text in wordings)
