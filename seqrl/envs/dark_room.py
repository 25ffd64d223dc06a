"""Dark rooms: a goal that nothing shows, to be found once and remembered."""

import numpy as np
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from seqrl.envs.base import State, require_at_least
from seqrl.envs.trials import InnerStep, TrialVectorEnv
from seqrl.errors import UserError

GOALS = ("all", "train", "held_out")
HELD_OUT_SHARE = 0.2


class DarkRoom(TrialVectorEnv):
    """Find a cell that nothing shows, and go straight back to it in the episodes that follow; each trial has another.

    The agent starts at the centre of a square of `size` cells a side and sees its own cell alone. Reward: 1 after each
    decision that leaves it on the goal, any cell but the centre. An inner episode has `episode_steps` decisions.
    `goals` says which goals are drawn from: "all", or "train" or "held_out", a fixed fifth of them, the same always.

    Observation: the cell's row and column, MultiDiscrete([size, size]). Action: 0 stay, 1 up, 2 down, 3 left, 4 right;
    bumping into a wall is staying. End: `terminated` after the last inner episode. Optimal for who knows the goal, an
    inner episode: episode_steps + 1 − its distance (never below 0), 16.5 on average for 9 × 9 and 20 steps, 18.5 for
    5 × 5. A uniformly random policy gets 0.2353 and 0.7767.

    Source: Laskin et al. 2022 (Algorithm Distillation, arXiv 2210.14215), section 4; which goals are held out is ours.

    Raises: UserError unless size is odd and at least 3, `goals` is known, episode_steps and num_episodes ≥ 1.
    """

    held_out = {"goals": "held_out"}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        size: int = 9,
        episode_steps: int = 20,
        num_episodes: int = 20,
        goals: str = "all",
        reveal: bool = False,
    ) -> None:
        require_at_least(3, size=size)
        require_at_least(1, episode_steps=episode_steps)
        if size % 2 == 0:
            raise UserError(f"size={size}: give an odd number, so that the room has a centre")
        check_goals(goals)
        super().__init__(
            MultiDiscrete([size, size]), Discrete(5), num_envs, device, max_episode_steps, num_episodes, reveal
        )
        self.size, self.episode_steps = size, episode_steps
        self.goals = goal_cells(size, goals).to(self.device)
        self._move = moves(self.device)

    def _draw_task(self) -> State:
        draw = torch.randint(len(self.goals), (self.num_envs,), generator=self.generator, device=self.device)
        return {"goal": rows_and_columns(self.goals[draw], self.size)}

    def _begin(self, task: State) -> State:
        return {"agent": torch.full((self.num_envs, 2), self.size // 2, device=self.device)}

    def _act(self, state: State, action: Tensor) -> InnerStep:
        agent = (state["agent"] + self._move[action]).clamp(0, self.size - 1)
        reward = (agent == state["goal"]).all(1).float()
        return {"agent": agent}, reward, state["inner_steps"] + 1 >= self.episode_steps

    def _look(self, state: State) -> Tensor:
        return state["agent"].clone()

    def _optimal_action(self, state: State) -> Tensor:
        return towards(state["agent"], state["goal"])


def goal_cells(size: int, goals: str) -> Tensor:
    """The cells that goals are drawn from, [N] int64: all but the centre, or a part of them that is always the same."""
    cells = torch.arange(size * size)
    cells = cells[cells != size * size // 2]
    return part_of(cells, goals)


def part_of(tasks: Tensor, goals: str) -> Tensor:
    """The tasks [N, ...] that `goals` names: "all", or of a fixed shuffle the first fifth ("held_out") or the rest."""
    if goals == "all":
        return tasks
    # RandomState, since its draws stay the same in all versions: what was held out must remain so.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(tasks)))
    number = round(HELD_OUT_SHARE * len(tasks))
    return tasks[order[:number] if goals == "held_out" else order[number:]]


def check_goals(goals: str) -> None:
    """Raise UserError unless `goals` is a part that `part_of` knows."""
    if goals not in GOALS:
        raise UserError(f"goals={goals!r}: choose one of {', '.join(GOALS)}")


def rows_and_columns(cell: Tensor, size: int) -> Tensor:
    """Where cells [B] are, that are counted row by row: [B, 2]."""
    return torch.stack([cell // size, cell % size], 1)


def moves(device: torch.device) -> Tensor:
    """What the actions add to the agent's row and column, [5, 2]: stay, up, down, left, right."""
    return torch.tensor([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], device=device)


def towards(agent: Tensor, target: Tensor) -> Tensor:
    """The action [B] that brings `agent` [B, 2] nearer to `target` [B, 2], its row first; 0 (stay) on it."""
    down, right = (target - agent).unbind(1)
    along = torch.where(right > 0, 4, 3) * (right != 0)
    return torch.where(down == 0, along, torch.where(down > 0, 2, 1))
