"""Whom one negotiates with: counterparts that differ in what they ask for, give up, tell and mind."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal

from seqrl.text.negotiation_parsing import ITEMS, PACKAGES, Said, Share
from seqrl.text.negotiation_words import rest
from seqrl.text.task import TaskState

Points = tuple[int, int, int]
"""Of a package of food, water and firewood: a permutation of 5, 4 and 3."""
NO_DEAL = 5
"""Points of each side where no deal is made, as CaSiNo's participants were paid."""
SHARES: tuple[Share, ...] = tuple(product(range(PACKAGES + 1), repeat=len(ITEMS)))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a counterpart negotiates: in points of its own, of which 36 are all packages.

    It has a demand. It accepts every offer that gives it as much, and otherwise offers a share that does.
    """

    first: int
    """What it demands at first."""
    last: int
    """The least that it ever agrees to."""
    step: int = 1
    """What it gives up whenever the agent makes an offer, or rejects one that it made."""
    mirrors: bool = False
    """It gives up instead as many points as the agent's offer gives it more than the best one before."""
    helps: bool = False
    """Of the shares that are worth its demand it offers the one that is best for the agent, by what the agent said to
    need most and least (5 and 3 points, 4 for what was not said); else one that gives it no more than its demand."""
    lies: bool = False
    """It says to need most what it needs least, and the reverse. Its offers go by the truth."""
    courtesy: int = 0
    """What it gives up more when an offer or a rejection is courteous."""
    insult: int = 0
    """What it demands more after an insult; it gives up nothing then."""
    patience: int = 0
    """At this many insults it walks away; 0: never."""
    rude: bool = False
    """It insults the agent in every reply."""


COUNTERPARTS: dict[str, Manner] = {
    "fair": Manner(first=21, last=17, helps=True, insult=2),
    "stubborn": Manner(first=33, last=20),
    "conceder": Manner(first=27, last=9, step=3, insult=3),
    "tit_for_tat": Manner(first=27, last=10, mirrors=True, insult=3, patience=3),
    "liar": Manner(first=24, last=14, step=2, helps=True, lies=True),
    "rude": Manner(first=27, last=15, courtesy=2, insult=3, patience=2, rude=True),
}


@dataclass(frozen=True, kw_only=True)
class NegotiationState(TaskState):
    """What the counterpart knows, and what it has been told."""

    counterpart: str
    mine: Points
    """The agent's."""
    theirs: Points
    demand: int
    table: Share | None = None
    """What the agent would get by the counterpart's last offer."""
    offered: int | None = None
    """The most points that an offer of the agent gave the counterpart; only of counterparts that mirror."""
    told: tuple[int | None, int | None] = (None, None)
    """What the agent said to need most and least; only of counterparts that help."""
    insults: int = 0
    deal: Share | None = None
    """What the agent gets."""

    @property
    def points(self) -> int:
        """The agent's, as things stand."""
        return NO_DEAL if self.deal is None else worth(self.deal, self.mine)

    @property
    def their_points(self) -> int:
        return NO_DEAL if self.deal is None else worth(rest(self.deal), self.theirs)


Part = Literal[
    "greet", "ask", "sealed", "closed", "no", "no_table", "partial", "wrong", "heard", "hurt", "puzzled", "left",
    "gone", "time", "insult", "priorities", "offer",
]  # fmt: skip
"""What a reply consists of; "offer" says what is on the table."""


def worth(share: Share, points: Points) -> int:
    """The points of a share: its numbers of each thing, times what one is worth."""
    return sum(number * each for number, each in zip(share, points, strict=True))


def after(manner: Manner, state: NegotiationState, said: Said, max_turns: int) -> tuple[NegotiationState, list[Part]]:
    """What `said` leads to, and the parts of the counterpart's reply. Nothing is drawn: only words differ."""
    state = replace(state, turns=state.turns + 1)
    if said.act == "walk":
        return replace(state, ended=True), ["gone"]
    if said.act == "accept" and state.table is not None:
        return replace(state, ended=True, deal=state.table), ["sealed"]
    parts: list[Part] = []
    if said.insults:
        demand = min(state.demand + manner.insult, max(state.demand, manner.first))
        state = replace(state, insults=state.insults + 1, demand=demand)
        if manner.insult:
            parts.append("hurt")
        if manner.patience and state.insults >= manner.patience:
            return replace(state, ended=True), ["left"]
    if manner.helps and said.tells != (None, None):
        state = replace(state, told=said.tells)
    state, answer = _answer(manner, state, said)
    parts += answer
    if not state.ended and state.turns == max_turns:
        return replace(state, ended=True), ["time"]
    return state, [*parts, "insult"] if manner.rude else parts


def _answer(manner: Manner, state: NegotiationState, said: Said) -> tuple[NegotiationState, list[Part]]:
    """To what is neither a walk nor an acceptance of an offer."""
    match said.act:
        case "offer":
            assert said.share is not None
            given = worth(rest(said.share), state.theirs)
            best = given if state.offered is None else max(given, state.offered)
            gained = 0 if state.offered is None else best - state.offered
            demand = _conceded(manner, state.demand, said, gained)
            state = replace(state, offered=best if manner.mirrors else None, demand=demand)
            if given >= state.demand:
                return replace(state, ended=True, deal=said.share), ["closed"]
            return _counter(manner, state), ["no", "offer"]
        case "reject":
            if state.table is not None:
                state = replace(state, demand=_conceded(manner, state.demand, said, 0))
            return _counter(manner, state), ["offer"]
        case "accept":
            return state, ["no_table"]
        case "ask":
            return state, ["priorities"]
        case "tell":
            return _counter(manner, state), ["heard", "offer"]
        case "greet":
            return state, ["greet", "ask"]
        case "partial" | "wrong":
            return state, [said.act]
    return state, ["puzzled"]


def _conceded(manner: Manner, demand: int, said: Said, gained: int) -> int:
    if said.insults:
        return demand
    step = (gained if manner.mirrors else manner.step) + manner.courtesy * said.courteous
    return min(demand, max(manner.last, demand - step))


def _counter(manner: Manner, state: NegotiationState) -> NegotiationState:
    return replace(state, table=rest(asked(state.theirs, state.demand, manner.helps, state.told)))


@cache
def asked(theirs: Points, demand: int, helps: bool, told: tuple[int | None, int | None]) -> Share:
    """The share that a counterpart asks for itself: worth `demand` or more to it, see `Manner.helps`.

    Of equal ones it takes that with the most of what it needs most. So renaming the items renames the share.
    """
    points = tuple(5 if item == told[0] else 3 if item == told[1] else 4 for item in range(len(ITEMS)))
    order = sorted(range(len(ITEMS)), key=lambda item: -theirs[item])

    def badness(share: Share) -> tuple[int, ...]:
        mine = worth(rest(share), points) if helps else 0  # type: ignore[arg-type]
        over = worth(share, theirs)
        return (-mine, -over if helps else over, *(-share[item] for item in order))

    return min((share for share in SHARES if worth(share, theirs) >= demand), key=badness)
