"""Dark Key-to-Door: a key and a door that nothing shows, in this order."""

import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from seqrl.envs.base import State, require_at_least
from seqrl.envs.dark_room import check_goals, moves, part_of, rows_and_columns, towards
from seqrl.envs.trials import InnerStep, TrialVectorEnv
from seqrl.errors import UserError


class DarkKeyToDoor(TrialVectorEnv):
    """Find a key and then a door that nothing shows, and go straight to both in the episodes that follow.

    The room is a square of `size` cells a side. Key and door are each in any cell, also in the same one, so that there
    are size⁴ tasks, 6,561 for 9 × 9; each trial draws another. An inner episode begins in a cell that is drawn
    uniformly (with `random_start=False` in the centre). Reward: 1, once, after the decision that leaves the agent on
    the key, and 1 after a later one that leaves it on the door with the key, which ends the inner episode; else it ends
    after `episode_steps` decisions. `goals` says which pairs are drawn from: "all", or "train" or "held_out", a fixed
    fifth of them, the same always. Single cells are all seen in training: what is new is the pair.

    Observation: the cell's row and column, MultiDiscrete([size, size]); that the key was taken, only its
    reward tells. Action: 0 stay, 1 up, 2 down, 3 left, 4 right; bumping into a wall is staying. End: `terminated` after
    the last inner episode. Optimal for who knows the pair, an inner episode: 2, where episode_steps ≥ 4 (size − 1),
    twice the longest way.

    Source: Laskin et al. 2022 (Algorithm Distillation, arXiv 2210.14215), section 4: size, rewards, 50 steps and drawn
    starts. Ours: that the door ends the inner episode, that key and door are never reached by one decision, and which
    pairs are held out. Some replications start from the centre.

    Raises: UserError unless size ≥ 3 (and odd, where the centre is asked for), `goals` is known, episode_steps and
    num_episodes ≥ 1.
    """

    held_out = {"goals": "held_out"}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        size: int = 9,
        episode_steps: int = 50,
        num_episodes: int = 20,
        goals: str = "all",
        random_start: bool = True,
        reveal: bool = False,
    ) -> None:
        require_at_least(3, size=size)
        require_at_least(1, episode_steps=episode_steps)
        if size % 2 == 0 and not random_start:
            raise UserError(f"size={size}: give an odd number, so that the room has a centre, or random_start=True")
        check_goals(goals)
        super().__init__(
            MultiDiscrete([size, size]), Discrete(5), num_envs, device, max_episode_steps, num_episodes, reveal
        )
        self.size, self.episode_steps, self.random_start = size, episode_steps, random_start
        cells = torch.arange(size * size)
        self.pairs = part_of(torch.cartesian_prod(cells, cells), goals).to(self.device)
        self._move = moves(self.device)

    def _draw_task(self) -> State:
        draw = torch.randint(len(self.pairs), (self.num_envs,), generator=self.generator, device=self.device)
        key, door = self.pairs[draw].unbind(1)
        return {"key": rows_and_columns(key, self.size), "door": rows_and_columns(door, self.size)}

    def _begin(self, task: State) -> State:
        if self.random_start:
            cells = self.size * self.size
            cell = torch.randint(cells, (self.num_envs,), generator=self.generator, device=self.device)
        else:
            cell = torch.full((self.num_envs,), self.size * self.size // 2, device=self.device)
        has_key = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return {"agent": rows_and_columns(cell, self.size), "has_key": has_key}

    def _act(self, state: State, action: Tensor) -> InnerStep:
        agent = (state["agent"] + self._move[action]).clamp(0, self.size - 1)
        on_key, on_door = ((agent == state[target]).all(1) for target in ("key", "door"))
        takes, opens = on_key & ~state["has_key"], on_door & state["has_key"]
        ended = opens | (state["inner_steps"] + 1 >= self.episode_steps)
        return {"agent": agent, "has_key": state["has_key"] | on_key}, (takes | opens).float(), ended

    def _look(self, state: State) -> Tensor:
        return state["agent"].clone()

    def _optimal_action(self, state: State) -> Tensor:
        target = torch.where(state["has_key"][:, None], state["door"], state["key"])
        return towards(state["agent"], target)
