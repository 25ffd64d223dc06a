"""Leduc hold'em against a fixed opponent: the smallest poker with a hidden card, a public one, and bets to read."""

import torch
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition
from seqrl.errors import UserError, nearest

FOLD, CALL, RAISE = range(3)
NUM_RANKS = 3
RAISES = (2, 4)
"""What a raise adds in the first and in the second round."""

# A round is told by what was done in it: these are the places where somebody has to act, and seat 0 acts first.
NODES = ("", "c", "r", "cr", "rr", "crr")
SHOWDOWN, FOLDED = len(NODES), len(NODES) + 1
TO_ACT = (0, 1, 1, 0, 0, 1)
LEGAL = tuple(("r" in node, True, node.count("r") < 2) for node in NODES)
"""`LEGAL[node][action]`: folding needs a raise to fold to; two raises a round are all."""


def next_node(node: int, action: int) -> int:
    """Where a legal `action` at `node` leads; SHOWDOWN stands for the end of either round."""
    told = NODES[node] + "fcr"[action]
    return FOLDED if action == FOLD else NODES.index(told) if told in NODES else SHOWDOWN


def uniform_policy() -> Tensor:
    """Every legal action alike: [own rank, public rank + 1 or 0, node, action]."""
    legal = torch.tensor(LEGAL, dtype=torch.float64)
    return (legal / legal.sum(1, keepdim=True)).expand(NUM_RANKS, NUM_RANKS + 1, -1, -1).clone()


# By hand: the chance to open with a raise, and those to fold, call and raise after one. Weak hands bluff now and then.
BEFORE_PUBLIC = ((0.1, (0.6, 0.3, 0.1)), (0.3, (0.15, 0.75, 0.1)), (0.8, (0.0, 0.3, 0.7)))
AFTER_PUBLIC = ((0.15, (0.8, 0.15, 0.05)), (0.2, (0.5, 0.45, 0.05)), (0.4, (0.2, 0.7, 0.1)))
PAIR = (0.9, (0.0, 0.2, 0.8))


def rules_policy() -> Tensor:
    """A player who bets what he holds, and bluffs a little; he forgets the first round. Shaped as `uniform_policy`."""
    policy = torch.zeros(NUM_RANKS, NUM_RANKS + 1, len(NODES), 3, dtype=torch.float64)
    for own in range(NUM_RANKS):
        for public in range(-1, NUM_RANKS):
            opens, answers = PAIR if own == public else (AFTER_PUBLIC if public >= 0 else BEFORE_PUBLIC)[own]
            for node, legal in enumerate(LEGAL):
                fold, call, again = answers if legal[FOLD] else (0.0, 1 - opens, opens)
                policy[own, public + 1, node] = torch.tensor(
                    [fold, call, again] if legal[RAISE] else [fold, call + again, 0]
                )
    return policy


OPPONENTS = {"uniform": uniform_policy, "rules": rules_policy}


class Leduc(TorchVectorEnv):
    """Two players, six cards (three ranks in two suits), two rounds of bets; the other one plays a fixed policy.

    Each puts in 1 and gets a card. Seat 0 begins both rounds; a player calls (checks, where there is nothing to call),
    raises, by 2 in the first round and by 4 in the second, twice a round at most, or folds to a raise. Before the
    second round a public card is shown. At the showdown a pair with it wins, then the higher rank.

    Observation: {"observation": MultiDiscrete [own card, public card, the agent's last action, the opponent's first and
    second since], "action_mask": bool [3]}, each of the five 0 for nothing, else rank + 1 or action + 1. A card is
    shown once, when it is dealt: what was seen must be remembered. Action: 0 fold, 1 call, 2 raise; one that is not
    allowed is a call. Reward: at the end, the chips won, or minus those lost. End: `terminated`, after two decisions a
    round at most. `seat` is 0 or 1, or None for a coin's choice in each game; `opponent` is a name of `OPPONENTS`.
    Optimal return: the exact best response (`seqrl.envs.leduc_exact`).
    Source: Southey et al. 2005, "Bayes' Bluff" (arXiv 1207.1411), whose rules these are.

    Raises: UserError for an unknown `opponent`, or a `seat` other than 0 and 1.
    """

    draws_only_at_starts = True

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        opponent: str = "rules",
        seat: int | None = None,
    ) -> None:
        if opponent not in OPPONENTS:
            raise UserError(f"unknown opponent '{opponent}': {nearest(opponent, list(OPPONENTS))}")
        if seat not in (None, 0, 1):
            raise UserError(f"seat={seat}: give 0 (who begins), 1, or none for either")
        seen = MultiDiscrete([NUM_RANKS + 1, NUM_RANKS + 1, 4, 4, 4])
        super().__init__(
            Dict(observation=seen, action_mask=MultiBinary(3)), Discrete(3), num_envs, device, max_episode_steps
        )
        self.opponent, self.seat = opponent, seat
        ends = [[False, True, False]] * 2  # nothing is decided at the end, but a mask must leave something
        self._legal = torch.tensor([*LEGAL, *ends], device=self.device)
        self._next = torch.tensor(
            [[next_node(n, a) for a in range(3)] for n in range(SHOWDOWN)] + [[SHOWDOWN] * 3, [FOLDED] * 3],
            device=self.device,
        )
        self._to_act = torch.tensor([*TO_ACT, -1, -1], device=self.device)
        self._up_to = OPPONENTS[opponent]().cumsum(3)[..., :2].float().to(self.device)

    def _start(self) -> State:
        own, other, public = (self._integers(n) for n in (6, 5, 4))
        other = other + (other >= own)  # the n-th card of those that are left
        public = public + (public >= torch.minimum(own, other))
        public = public + (public >= torch.maximum(own, other))
        node = torch.zeros_like(own)
        state = {
            "cards": torch.stack([own, other, public], 1) // 2,
            "seat": self._integers(2) if self.seat is None else torch.full_like(own, self.seat),
            "round": node,
            "node": node,
            "paid": torch.ones(self.num_envs, 2, device=self.device),  # the agent's chips, then the opponent's
            "reward": torch.zeros(self.num_envs, device=self.device),
        }
        state, first = self._answer(state)
        return state | {"seen": torch.stack([state["cards"][:, 0] + 1, node, node, first, node], 1)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        after, own = self._play(state, action.long(), 0, state["node"] < SHOWDOWN)
        after, first = self._answer(after)
        after, second = self._answer(after)  # who answers a raise by a call may have to begin the next round
        shown = (after["cards"][:, 2] + 1) * (after["round"] > state["round"])
        seen = torch.stack([torch.zeros_like(shown), shown, own, first, second], 1)
        return after | {"seen": seen}, after["reward"], after["node"] >= SHOWDOWN

    def _observe(self, state: State) -> dict[str, Tensor]:
        return {"observation": state["seen"].clone(), "action_mask": self._legal[state["node"]]}

    def _answer(self, state: State) -> tuple[State, Tensor]:
        """The opponent acts where it is its turn; else nothing changes. Also what it did, + 1."""
        cards, node = state["cards"], state["node"]
        up_to = self._up_to[cards[:, 1], (cards[:, 2] + 1) * state["round"], node.clamp(max=SHOWDOWN - 1)]
        draw = torch.rand(self.num_envs, 1, generator=self.generator, device=self.device)
        turn = self._to_act[node] == 1 - state["seat"]
        return self._play(state, (draw >= up_to).sum(1), 1, turn)

    def _play(self, state: State, action: Tensor, mover: int, turn: Tensor) -> tuple[State, Tensor]:
        """`action` of the agent (`mover` 0) or the opponent (1) in the rows `turn`, and what it came to there, + 1."""
        cards, node, paid = state["cards"], state["node"], state["paid"]
        action = torch.where(self._legal[node].gather(1, action[:, None])[:, 0], action, CALL)
        raised = (action == RAISE) * (RAISES[0] + (RAISES[1] - RAISES[0]) * state["round"])
        stake = torch.where(action == FOLD, paid[:, mover], paid.amax(1) + raised)
        paid = torch.stack([stake, paid[:, 1]] if mover == 0 else [paid[:, 0], stake], 1)
        after = self._next[node, action]
        next_round = (after == SHOWDOWN) & (state["round"] == 0)
        strength = cards[:, :2] + NUM_RANKS * (cards[:, :2] == cards[:, 2:])
        won = torch.sign(strength[:, 0] - strength[:, 1]) * stake
        folded = paid[:, 1] if mover else -paid[:, 0]
        reward = torch.where(after == FOLDED, folded, won) * ((after >= SHOWDOWN) & ~next_round)
        changed = {
            "node": after.masked_fill(next_round, 0),
            "round": state["round"] + next_round,
            "paid": paid,
            "reward": reward,
        }
        kept = {
            name: torch.where(turn[:, None] if leaf.ndim == 2 else turn, leaf, state[name])
            for name, leaf in changed.items()
        }
        return state | kept, (action + 1) * turn

    def _integers(self, below: int) -> Tensor:
        return torch.randint(below, (self.num_envs,), generator=self.generator, device=self.device)
