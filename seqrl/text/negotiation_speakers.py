"""Scripted speakers of negotiations, of every quality and tone: who plays into logs."""

from dataclasses import dataclass
from itertools import permutations

import torch

from seqrl.errors import UserError, nearest
from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_counterparts import NO_DEAL, SHARES, asked, worth
from seqrl.text.negotiation_parsing import Share, parse
from seqrl.text.negotiation_words import WORDS, any_of, briefed_points, offers, priorities, rest


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a scripted speaker negotiates: in its own points, as counterparts do (`Manner`)."""

    first: int
    """What it demands at first."""
    last: int
    """The least that it accepts."""
    step: int
    """What it gives up at each of its offers."""
    asks: bool = False
    """It asks what the other needs, and offers what suits both."""
    tells: bool = False
    """It says what it needs itself, truly."""
    random: float = 0.0
    """How often its offer is any, each as likely."""
    heeds_time: bool = False
    """In the last turn it accepts whatever is on the table, if that is more than no deal."""
    walks: float = 0.0
    """How often it walks away instead of making an offer."""
    courtesies: float = 0.0
    """How often it is courteous."""
    insults: float = 0.0
    """How often it insults the other."""


STYLES: dict[str, Style] = {
    "good": Style(first=28, last=16, step=2, asks=True, tells=True, heeds_time=True, courtesies=0.5),
    "mediocre": Style(first=22, last=12, step=3, courtesies=0.2),
    "bad": Style(first=14, last=0, step=4, random=0.5, walks=0.1),
    "rude": Style(first=24, last=12, step=3, asks=True, insults=0.6),
}


class ScriptedNegotiator:
    """Speaks in the `style` named or given, in any wordings. A speaker for `converse`.

    It asks and tells first, where its style does, and then at each turn accepts the offer on the table if it is worth
    its demand, and else makes an offer that is, having given up a step.
    """

    def __init__(self, task: Negotiation, generator: torch.Generator, style: str | Style = "good") -> None:
        if isinstance(style, str) and style not in STYLES:
            raise UserError(f"unknown style '{style}': {nearest(style, STYLES)}")
        self._style = STYLES[style] if isinstance(style, str) else style
        self._last_turn, self._generator = task.max_turns - 1, generator

    def __call__(self, texts: tuple[str, ...]) -> str:
        text = self._act(texts)
        if self._happens(self._style.insults):
            return f"{self._any('insult')} {text}"
        return f"{self._any('courtesy')} {text}" if self._happens(self._style.courtesies) else text

    def _act(self, texts: tuple[str, ...]) -> str:
        style, mine = self._style, briefed_points(texts[0])
        said, heard = [parse(text) for text in texts[1::2]], [parse(text) for text in texts[2::2]]
        if style.asks and not any(each.asks for each in said):
            return self._any("ask")
        if style.tells and not any(each.act == "tell" for each in said):
            return any_of(priorities(mine), self._generator)
        made = sum(each.act == "offer" for each in said)
        hurries = style.heeds_time and len(said) == self._last_turn
        demand = NO_DEAL + 1 if hurries else max(style.last, style.first - style.step * made)
        table = next((rest(each.share) for each in reversed(heard) if each.share is not None), None)
        if table is not None and worth(table, mine) >= demand:
            return self._any("accept")
        if self._happens(style.walks):
            return self._any("walk")
        told = next((each.tells for each in heard if each.tells != (None, None)), (None, None))
        share = self._random_share() if self._happens(style.random) else asked(mine, demand, style.asks, told)
        return any_of(offers(share), self._generator)

    def _random_share(self) -> Share:
        return SHARES[int(torch.randint(len(SHARES), (), generator=self._generator))]

    def _any(self, act: str) -> str:
        return any_of(WORDS[act], self._generator)

    def _happens(self, probability: float) -> bool:
        return bool(torch.rand((), generator=self._generator) < probability)


def all_utterances() -> tuple[str, ...]:
    """All that scripted speakers say, but for their tone: what a random speaker draws from."""
    acts = ("ask", "greet", "accept", "reject", "walk")
    wordings = [*map(offers, SHARES), *map(priorities, permutations((5, 4, 3))), *(WORDS[act] for act in acts)]
    return tuple(text for texts in wordings for text in texts)
