"""Crossing corridors: the best way is the first half of one logged way and the second half of another."""

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least

FIRST, SECOND = range(2)
"""The action at a fork that enters its first corridor, A or B, and the one that enters its second, C or D."""

IN_REWARD, OUT_REWARD = (1.0, 0.0), (0.0, 2.0)
"""What leaving the last cell of A and of C pays, and leaving the last cell of B and of D."""


class CrossingCorridors(TorchVectorEnv):
    """Two corridors lead to a crossing and two lead on from it: the best of the first and the best of the second.

          A +1       B +0
        S      ──▶ X
          C +0       D +2

    The start S and the crossing X are forks; a corridor is `length` cells and pays on leaving the last. The best way is
    A, then D: 3. What makes it a problem is the log that one learns from: it holds A → X → B (return 1) and C → X → D
    (return 2), and never A → X → D. An agent that is asked for the most that the log shows goes C → X → D. One that is
    asked for 3 finds at S that C goes with the higher returns, and gets 2 as well, with a memory or without. Dynamic
    programming joins the halves: at X, D is worth 2 whatever came before, so that A is worth 3. Returns relabelled by
    such values lead there, too, if the past that the agent sees does not tell which way it came: in the log, those who
    came through A went on to B.

    Nothing is hidden: the cell says all. Observation: the cell; 0 is S, 1 … length are A, then C, X, B and D follow.
    Action, at a fork: 0 the first corridor (A, B), 1 the second (C, D); within a corridor both actions go on. Reward:
    1 on leaving A for X, 2 at the end of D, else 0. End: `terminated` on leaving B or D, after 2 (length + 1)
    decisions; the final observation is its last cell once more. Optimal return: 3.
    Source: ours, for the known failure of return-conditioned supervised learning where the best return needs stitching
    (Brandfonbrener et al. 2022, arXiv 2206.01079; Yamagata et al. 2023, arXiv 2209.03993).

    Raises: UserError if `length` is below 1.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        length: int = 3,
    ) -> None:
        require_at_least(1, length=length)
        super().__init__(Discrete(4 * length + 2), Discrete(2), num_envs, device, max_episode_steps)
        self.length = length
        self.crossing = 2 * length + 1
        next_cell, reward, last = self._table()
        self._next = torch.tensor(next_cell, device=self.device)
        self._reward = torch.tensor(reward, device=self.device)
        self._last = torch.tensor(last, device=self.device)

    def corridor(self, name: str) -> list[int]:
        """The cells of corridor A, B, C or D, in the order in which they are walked through."""
        begin = {"A": 1, "C": 1 + self.length, "B": self.crossing + 1, "D": self.crossing + 1 + self.length}[name]
        return list(range(begin, begin + self.length))

    def _table(self) -> tuple[list[list[int]], list[float], list[bool]]:
        """By cell: the next cell after each action, what leaving it pays, and whether leaving it ends the episode."""
        next_cell = [[0, 0] for _ in range(4 * self.length + 2)]
        reward, last = [0.0] * len(next_cell), [False] * len(next_cell)
        ways_in, ways_out = (self.corridor("A"), self.corridor("C")), (self.corridor("B"), self.corridor("D"))
        next_cell[0] = [way[0] for way in ways_in]
        next_cell[self.crossing] = [way[0] for way in ways_out]
        for way, paid in zip(ways_in, IN_REWARD, strict=True):
            for cell, after in zip(way, [*way[1:], self.crossing], strict=True):
                next_cell[cell] = [after, after]
            reward[way[-1]] = paid
        for way, paid in zip(ways_out, OUT_REWARD, strict=True):
            for cell, after in zip(way, [*way[1:], way[-1]], strict=True):
                next_cell[cell] = [after, after]
            reward[way[-1]], last[way[-1]] = paid, True
        return next_cell, reward, last

    def _start(self) -> State:
        return {"cell": torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        cell = state["cell"]
        return {"cell": self._next[cell, action]}, self._reward[cell], self._last[cell]

    def _observe(self, state: State) -> Tensor:
        return state["cell"].clone()
