"""A negotiation over packages: offers in words, which are read and scored."""

from collections.abc import Mapping
from itertools import permutations, product

import torch

from seqrl.errors import UserError, nearest
from seqrl.text.negotiation_counterparts import COUNTERPARTS, Manner, NegotiationState, Part, Points, after
from seqrl.text.negotiation_parsing import ITEMS, parse
from seqrl.text.negotiation_words import REPLIES, WORDS, all_words, any_of, briefing, offers, priorities, rest
from seqrl.text.task import TextTask, Turn
from seqrl.text.tokenizer import Tokenizer

PRIORITIES: tuple[Points, ...] = tuple(permutations((5, 4, 3)))  # type: ignore[arg-type]


class Negotiation(TextTask[NegotiationState]):
    """Share out 3 packages of food, 3 of water and 3 of firewood with a counterpart.

    To each side one of the items is worth 5 points a package, one 4 and one 3, all orders as likely. The opening tells
    the agent its own; the counterpart's are hidden. Both speak in words (`negotiation_words` has what scripted
    speakers say), and any text is read by `parse`:

    ================================  ==================================================================================
    an offer of all nine packages     it is accepted, which ends the talk, or rejected and another is offered
    a rejection                       another is offered
    an acceptance                     of the counterpart's last offer, which ends the talk; where there is none yet, the
                                      counterpart says so
    telling priorities                the counterpart says what it would agree to, and may mind them (`Manner.helps`)
    asking for priorities             they are told, or lied about (`Manner.lies`)
    an offer that leaves an item      the counterpart says that
    open, or does not add up
    a greeting                        is given back, with a question for the agent's priorities
    walking away                      ends the talk
    any other text                    is not understood
    an insult with any of these       may raise the counterpart's demand, or make it walk away (`Manner`)
    ================================  ==================================================================================

    Each takes one of `max_turns` turns; after the last the time is over. Reward: on the agent's last turn its points,
    0 on the others; without a deal both sides get 5.

    `counterpart` names one of `counterparts`, or "mixed": any of them, drawn anew each time and not told. They are
    deterministic but for their wordings, so that the best that can be got is known (`NegotiationOptimum`).

    Source: the domain of CaSiNo (Chawla et al., NAACL 2021), its points, its pay without a deal and its form of written
    deals. Differs: there people negotiate, and say why they need things; the deal is submitted in a form besides what
    is said, here what is said is the deal.

    Raises: UserError for a counterpart that is not known, demands out of order or out of 0 … 36, `max_turns` below 1.
    """

    def __init__(
        self, counterpart: str = "fair", max_turns: int = 8, counterparts: Mapping[str, Manner] = COUNTERPARTS
    ) -> None:
        if max_turns < 1:
            raise UserError(f"max_turns is {max_turns}: a negotiation needs at least one turn")
        if counterpart != "mixed" and counterpart not in counterparts:
            raise UserError(f"unknown counterpart '{counterpart}': {nearest(counterpart, [*counterparts, 'mixed'])}")
        for name, manner in counterparts.items():
            if not 0 <= manner.last <= manner.first <= 36:
                raise UserError(f"counterpart '{name}' demands {manner.first}, then {manner.last}: give 36 ≥ … ≥ 0")
        self.counterpart, self.max_turns = counterpart, max_turns
        chosen = counterparts if counterpart == "mixed" else {counterpart: counterparts[counterpart]}
        self.counterparts = dict(chosen)
        """Those who may sit opposite."""
        self.states = tuple(
            NegotiationState(counterpart=name, mine=mine, theirs=theirs, demand=manner.first)
            for name, manner in chosen.items()
            for mine, theirs in product(PRIORITIES, repeat=2)
        )
        """All first states, each as likely."""
        self.tokenizer = Tokenizer.of_words(all_words(), byte_fallback=True)  # which reads what people wrote, too

    def start(self, generator: torch.Generator) -> tuple[NegotiationState, str]:
        state = self.states[int(torch.randint(len(self.states), (), generator=generator))]
        return state, f"{briefing(state.mine)} {self._said(state, self.opening(state), generator)}"

    def opening(self, state: NegotiationState) -> list[Part]:
        return ["greet", "insult"] if self.counterparts[state.counterpart].rude else ["greet"]

    def wordings(self, state: NegotiationState, parts: list[Part]) -> list[tuple[str, ...]]:
        """All wordings of each part of a reply."""
        known: list[tuple[str, ...]] = []
        for part in parts:
            if part == "offer":
                assert state.table is not None
                known.append(offers(rest(state.table)))
            elif part == "priorities":
                lies = self.counterparts[state.counterpart].lies
                known.append(priorities([8 - points for points in state.theirs] if lies else state.theirs))
            else:
                known.append(REPLIES[part] if part in REPLIES else WORDS[part])
        return known

    def _said(self, state: NegotiationState, parts: list[Part], generator: torch.Generator) -> str:
        return " ".join(any_of(wordings, generator) for wordings in self.wordings(state, parts))

    def _reply(self, state: NegotiationState, utterance: str, generator: torch.Generator) -> Turn[NegotiationState]:
        manner = self.counterparts[state.counterpart]
        state, parts = after(manner, state, parse(utterance), self.max_turns)
        reward = float(state.points) if state.ended else 0.0
        return Turn(state=state, text=self._said(state, parts, generator), reward=reward)

    def outcome(self, state: NegotiationState) -> dict[str, str | bool | int | float]:
        """How a talk that ended in `state` came out: agreement, points, partner_points, and the agent's packages."""
        result: dict[str, str | bool | int | float] = {
            "agreement": state.deal is not None,
            "points": state.points,
            "partner_points": state.their_points,
        }
        if state.deal is not None:
            result |= dict(zip(ITEMS, state.deal, strict=True))
        return result

    def facts(self, state: NegotiationState) -> dict[str, str | bool | int | float]:
        """What holds from the beginning: both sides' priorities, and who sits opposite."""
        levels = {5: "high", 4: "medium", 3: "low"}
        mine = {levels[points]: item.capitalize() for item, points in zip(ITEMS, state.mine, strict=True)}
        theirs = {
            f"partner_{levels[points]}": item.capitalize() for item, points in zip(ITEMS, state.theirs, strict=True)
        }
        return {"counterpart": state.counterpart, **mine, **theirs}
