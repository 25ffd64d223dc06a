"""The most points that can be had of a `Negotiation`, and the speaker that gets them."""

from collections.abc import Iterable, Iterator
from itertools import permutations

from seqrl.errors import UserError
from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_counterparts import SHARES, NegotiationState, Part, Points, after, worth
from seqrl.text.negotiation_parsing import ITEMS, Said, parse
from seqrl.text.negotiation_words import WORDS, briefed_points, briefing, offers, priorities, rest

Belief = tuple[NegotiationState, ...]


class NegotiationOptimum:
    """The exact optimum of a `Negotiation`, and the speaker that attains it.

    Counterparts are deterministic but for their wordings, so what the agent knows is a set B of states, all as likely:
    those to which the replies so far may have led. With W as the points of B's states, summed up,

        W(B) = max over acts of Σ over states in which it ends of the agent's points + Σ over parts of B of W(part)

    where a part has the states that give one reply. Acts are those that `parse` tells apart: 64 offers, a rejection,
    both also courteous, acceptance, a question, and priorities in any order, true or not. What no counterpart minds is
    left out (courtesy, priorities), and so are insults, greetings and what is not understood, which only lose a turn,
    and walking away, which is worth as much as letting the time run out. Acts are tried in the order of a bound, what
    could be had if B's states were told apart at once, and no further once the bound is below the best. If B is one
    state, only the best for the agent is looked at of offers that give the counterpart as much. Nothing else is left
    out, so the value is exact. Of ways to as many points it takes the one with the fewest turns.

    Renaming items renames shares, offers and replies, so the value is the same for all the agent's priorities.

    Answers from any history whose replies are the task's own; raises UserError for others.
    """

    def __init__(self, task: Negotiation) -> None:
        self._task = task
        manners = task.counterparts.values()
        tells = [Said(act="tell", tells=(order[0], order[2])) for order in permutations(range(len(ITEMS)))]
        tones = (False, True) if any(manner.courtesy for manner in manners) else (False,)
        self._acts = [
            Said(act="accept"),
            *(Said(act="reject", courteous=tone) for tone in tones),
            Said(act="ask"),
            *(tells if any(manner.helps for manner in manners) else ()),
        ]
        self._offers = [Said(act="offer", share=share, courteous=tone) for tone in tones for share in SHARES]
        self._offers_to: dict[tuple[Points, Points], tuple[Said, ...]] = {}
        self._meanings: dict[tuple[object, ...], Said] = {}
        self._known: dict[Belief, tuple[int, Said]] = {}

    @property
    def expected_points(self) -> float:
        """The most that an agent can get that knows neither the counterpart's priorities nor, if mixed, which it is."""
        states = self._first((5, 4, 3))
        parts = _by_reply((self._opening(state), state) for state in states)
        return sum(self._points(part) for part in parts) / len(states)

    @property
    def points_if_all_were_known(self) -> float:
        """Of an agent that knew them: no speaker gets more."""
        states = self._first((5, 4, 3))
        return sum(self._points((state,)) for state in states) / len(states)

    def __call__(self, texts: tuple[str, ...]) -> str:
        return worded(self._solve(self.belief(texts))[1])

    def belief(self, texts: tuple[str, ...]) -> Belief:
        """The states that may have given `texts`."""
        heard = parse(texts[0])
        belief = tuple(state for state in self._first(briefed_points(texts[0])) if self._opening(state) == heard)
        for utterance, reply in zip(texts[1::2], texts[2::2], strict=True):
            said, heard = parse(utterance), parse(reply)
            belief = tuple(state for answer, state in self._answers(belief, said) if answer == heard)
        if not belief:
            raise UserError("no counterpart of this task gives such replies: they are another task's, or were changed")
        return belief

    def _first(self, mine: Points) -> Belief:
        return tuple(state for state in self._task.states if state.mine == mine)

    def _opening(self, state: NegotiationState) -> Said:
        return parse(f"{briefing(state.mine)} {self._words(state, self._task.opening(state))}")

    def _words(self, state: NegotiationState, parts: list[Part]) -> str:
        """The first wording of a reply: all wordings mean the same."""
        return " ".join(wordings[0] for wordings in self._task.wordings(state, parts))

    def _meaning(self, state: NegotiationState, parts: list[Part]) -> Said:
        if state.ended:
            return _ENDED
        key = (*parts, state.table, state.theirs, state.counterpart)
        if key not in self._meanings:
            self._meanings[key] = parse(self._words(state, parts))
        return self._meanings[key]

    def _answers(self, belief: Belief, said: Said) -> Iterator[tuple[Said, NegotiationState]]:
        for state in belief:
            manner = self._task.counterparts[state.counterpart]
            state, parts = after(manner, state, said, self._task.max_turns)
            yield self._meaning(state, parts), state

    def _points(self, belief: Belief) -> int:
        return -(-self._solve(belief)[0] // _POINT)

    def _solve(self, belief: Belief) -> tuple[int, Said]:
        """W of a belief, less a little for each turn, and the best act."""
        if belief not in self._known:
            self._known[belief] = self._solved(belief)
        return self._known[belief]

    def _solved(self, belief: Belief) -> tuple[int, Said]:
        if len(belief) == 1:
            return self._solved_known(belief[0])
        ways = []
        for said in (*self._acts, *self._offers):
            total, parts = 0, []
            for part in _by_reply(self._answers(belief, said)):
                if part[0].ended:
                    total += sum(_value(state) for state in part)
                else:
                    parts.append(part)
            bound = total + sum(self._solve((state,))[0] for part in parts for state in part)
            ways.append((bound, said, total, parts))
        ways.sort(key=lambda way: -way[0])
        best, act = -_POINT, Said()
        for bound, said, total, parts in ways:
            if bound <= best:
                break
            total += sum(self._solve(part)[0] for part in parts)
            if total > best:
                best, act = total, said
        return best, act

    def _solved_known(self, state: NegotiationState) -> tuple[int, Said]:
        """The same where only one state is left: what it replies tells nothing."""
        manner, best, act = self._task.counterparts[state.counterpart], -_POINT, Said()
        for said in (*self._acts, *self._best_offers(state.mine, state.theirs)):
            following, _ = after(manner, state, said, self._task.max_turns)
            points = _value(following) if following.ended else self._solve((following,))[0]
            if points > best:
                best, act = points, said
        return best, act

    def _best_offers(self, mine: Points, theirs: Points) -> tuple[Said, ...]:
        """For each number of points that an offer may give the counterpart, the one best for the agent."""
        key = mine, theirs
        if key not in self._offers_to:
            best: dict[tuple[int, bool], Said] = {}
            for said in sorted(self._offers, key=lambda said: worth(said.share or (0, 0, 0), mine)):
                best[worth(rest(said.share or (0, 0, 0)), theirs), said.courteous] = said
            self._offers_to[key] = tuple(best.values())
        return self._offers_to[key]


_ENDED = Said(act="walk")
_POINT = 1_000_000
"""So much more than a turn is a point, that no number of turns in all states of a belief weighs as much."""


def _value(state: NegotiationState) -> int:
    return state.points * _POINT - state.turns


def _by_reply(answers: Iterable[tuple[Said, NegotiationState]]) -> list[Belief]:
    parts: dict[Said, list[NegotiationState]] = {}
    for reply, state in answers:
        parts.setdefault(reply, []).append(state)
    return [tuple(part) for part in parts.values()]


def worded(said: Said) -> str:
    """An utterance that means `said`: one that `NegotiationOptimum` looks at."""
    match said.act:
        case "offer":
            assert said.share is not None
            text = offers(said.share)[0]
        case "tell":
            points = [5 if item == said.tells[0] else 3 if item == said.tells[1] else 4 for item in range(len(ITEMS))]
            text = priorities(points)[0]
        case act:
            text = WORDS[act][0]
    return f"{WORDS['courtesy'][0]} {text}" if said.courteous else text
