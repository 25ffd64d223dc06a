"""Leduc hold'em against a fixed opponent, exactly: what the best response brings, and what any policy with a memory.

Returns are expected chips a game. All that the agent does not know is the opponent's rank; so the game from its side is
a tree whose places are its information sets, each with the weights

    w(k) = P(the opponent holds k, the cards shown so far, the opponent's actions | the agent's own actions)

and the value of a place, counted with its weights, is the sum over what may follow it, or at the agent's own places the
maximum over its actions. OpenSpiel's exploitability is about the same numbers: its NashConv of a policy is the sum of
the values of the best responses to it from both seats, 2.0875 + 2.6597 = 4.7472 for the uniform policy (the tests
compare them), less those of the policy against itself, which cancel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from seqrl.envs.leduc import (
    CALL,
    FOLD,
    FOLDED,
    LEGAL,
    NUM_RANKS,
    OPPONENTS,
    RAISE,
    RAISES,
    SHOWDOWN,
    TO_ACT,
    next_node,
)

Policy = Callable[[Sequence[int], Sequence[bool], Any], tuple[Sequence[float], Any]]
"""(observation [5], action mask [3], what it remembers, None at first) -> (each action's chance [3], what it remembers
then): a policy that sees what `Leduc` shows."""


def best_response_return(opponent: str = "rules", seat: int | None = None) -> float:
    """What the best policy brings against `opponent` from `seat`, or from either with chance ½."""
    return _mean_over_deals(opponent, seat, None)


def policy_return(policy: Policy, opponent: str = "rules", seat: int | None = None) -> float:
    """What `policy` brings against `opponent` from `seat`, or from either with chance ½: a sum, not a sample."""
    return _mean_over_deals(opponent, seat, policy)


def policy_of(agent: Any, sample: bool = False) -> Policy:
    """What a trained agent does: the likeliest action, or with `sample` each by its chance. The agent is one that acts
    in `Leduc`; its memory's state is handed on, along every way that a game may take."""

    @torch.no_grad()
    def policy(seen: Sequence[int], legal: Sequence[bool], memory: Any) -> tuple[Sequence[float], Any]:
        observation = {"observation": torch.tensor([seen]), "action_mask": torch.tensor([legal])}
        inputs = agent.initial_input(observation)
        state = agent.initial_state(1) if memory is None else memory
        action = torch.tensor([max(seen[2] - 1, 0)])  # what it did last, as it is observed
        first = torch.tensor([memory is None])
        outputs, state = agent.step(inputs._replace(previous_action=action, is_first=first), state)
        chances = outputs["policy"].log_probs[0, 0].exp()
        if not sample:
            chances = torch.nn.functional.one_hot(chances.argmax(), 3)
        return chances.tolist(), state

    return policy


class _Place(NamedTuple):
    seat: int
    own: int
    public: int = -1
    node: int = 0
    paid: tuple[int, int] = (1, 1)  # the agent's chips, then the opponent's

    def after(self, mover: int, action: int) -> "_Place":
        """`action` of the agent (`mover` 0) or of the opponent (1). Between the rounds the node is SHOWDOWN too."""
        stake = self.paid[mover] if action == FOLD else max(self.paid)
        stake += RAISES[self.public >= 0] if action == RAISE else 0
        paid = (stake, self.paid[1]) if mover == 0 else (self.paid[0], stake)
        return self._replace(node=next_node(self.node, action), paid=paid)


class _Tree(NamedTuple):
    opponent: np.ndarray
    policy: Policy | None

    def value(self, place: _Place, weight: np.ndarray, seen: tuple[int, ...], last: int, memory: Any) -> float:
        """The value of `place`. `seen` is what has come since the agent's last decision: the own and the public card
        and its last action, as they are observed, then the opponent's actions; `last` moved last."""
        if place.node == FOLDED:
            return float(weight.sum()) * (place.paid[1] if last == 1 else -place.paid[0])
        if place.node == SHOWDOWN and place.public >= 0:
            return float(weight @ _signs(place)) * place.paid[0]
        if place.node == SHOWDOWN:
            return sum(
                self.value(
                    place._replace(public=card, node=0),
                    weight * _chances_of_public(place.own, card),
                    (seen[0], card + 1, *seen[2:]),
                    last,
                    memory,
                )
                for card in range(NUM_RANKS)
            )
        if TO_ACT[place.node] != place.seat:
            chances = self.opponent[:, place.public + 1, place.node]
            return sum(
                self.value(place.after(1, action), weight * chances[:, action], (*seen, action + 1), 1, memory)
                for action in (FOLD, CALL, RAISE)
                if chances[:, action].any()
            )
        return self._decided(place, weight, seen, memory)

    def _decided(self, place: _Place, weight: np.ndarray, seen: tuple[int, ...], memory: Any) -> float:
        legal, chances = LEGAL[place.node], None
        if self.policy is not None:
            chances, memory = self.policy((*seen, 0, 0)[:5], legal, memory)
        values = {
            action: self.value(place.after(0, action), weight, (0, 0, action + 1), 0, memory)
            for action in (FOLD, CALL, RAISE)
            if legal[action] and (chances is None or chances[action] > 0)
        }
        return max(values.values()) if chances is None else sum(chances[a] * value for a, value in values.items())


def _mean_over_deals(opponent: str, seat: int | None, policy: Policy | None) -> float:
    tree, seats = _Tree(OPPONENTS[opponent]().numpy(), policy), (0, 1) if seat is None else (seat,)
    return sum(
        tree.value(_Place(chosen, own), _chances_of_other(own), (own + 1, 0, 0), 0, None)
        for chosen in seats
        for own in range(NUM_RANKS)
    ) / (NUM_RANKS * len(seats))


def _chances_of_other(own: int) -> np.ndarray:
    return np.array([(2 - (rank == own)) / 5 for rank in range(NUM_RANKS)])


def _chances_of_public(own: int, card: int) -> np.ndarray:
    """P(card | own, the opponent's rank), by the opponent's rank."""
    return np.array([(2 - (card == own) - (card == rank)) / 4 for rank in range(NUM_RANKS)])


def _signs(place: _Place) -> np.ndarray:
    """Who wins the showdown, by the opponent's rank: 1 the agent, −1 the opponent, 0 neither."""

    def strength(rank: int) -> int:
        return rank + NUM_RANKS * (rank == place.public)

    return np.array([np.sign(strength(place.own) - strength(rank)) for rank in range(NUM_RANKS)])
