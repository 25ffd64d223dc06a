"""Key-to-door: credit for a key taken long before the door."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from seqrl.envs.base import State, TorchVectorEnv, Transition, require_at_least
from seqrl.errors import UserError


class KeyToDoor(TorchVectorEnv):
    """Take a key in the first room, cross an empty one, and open a door in the third: reward comes only at the end.

    Each room is a square grid of `room_size` cells a side. The agent stands at its centre and has `room_steps`
    decisions there, after which it is put at the centre of the next room. The key (room 0) and the door (room 2) are
    each at a uniformly drawn cell other than the centre; walking onto the key takes it. Nothing shows whether it was
    taken: the key stays in sight for as long as the agent is in the first room.

    Observation: float32 [room 0, room 1, room 2 (one-hot), target in sight, agent's row, agent's column, target's row,
    target's column], where the target is the key or the door and is 0, 0, 0 in the empty room; rows and columns count
    from the centre and are scaled to [−1, 1]. Action: 0 up, 1 down, 2 left, 3 right; bumping into a wall is staying.
    Reward: 1 on reaching the door with the key, else 0. End: `terminated` at the door or, by the task's own clock,
    after 3 room_steps decisions. Optimal return: 1, with or without memory: what is hard here is to give the credit. A
    uniformly random policy gets 0.0315 with the default sizes: the square of its chance to come upon the key.
    Source: after the key-to-door tasks of Mesnard et al. 2021 (arXiv 2011.09464) and Chen et al. 2021 (arXiv
    2106.01345); sizes and observation are ours.

    Raises: UserError unless room_size is odd and at least 3, and room_steps ≥ room_size − 1, the longest way.
    """

    def __init__(
        self,
        num_envs: int = 1,
        device: torch.device | str = "cpu",
        max_episode_steps: int | None = None,
        room_size: int = 7,
        room_steps: int = 15,
    ) -> None:
        require_at_least(3, room_size=room_size)
        if room_size % 2 == 0:
            raise UserError(f"room_size={room_size}: give an odd number, so that the room has a centre")
        if room_steps < room_size - 1:
            raise UserError(f"room_steps={room_steps}: give at least room_size - 1 = {room_size - 1}, the longest way")
        low = np.array([0, 0, 0, 0, -1, -1, -1, -1], np.float32)
        super().__init__(Box(low, np.ones(8, np.float32)), Discrete(4), num_envs, device, max_episode_steps)
        self.room_size = room_size
        self.room_steps = room_steps
        self._reach = room_size // 2
        # Positions count from the room's centre: small whole numbers, exact in float32.
        self._move = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], device=self.device)
        side = torch.arange(-self._reach, self._reach + 1.0, device=self.device)
        cells = torch.cartesian_prod(side, side)
        self._cells = cells[cells.abs().sum(1) > 0]  # all but the centre
        self._rows = torch.arange(num_envs, device=self.device)
        # By room: the first four numbers of the observation, of which the fourth says whether there is a target.
        self._room_features = torch.tensor(
            [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], device=self.device
        )
        self._scale = torch.tensor([1.0] * 4 + [1 / self._reach] * 4, device=self.device)

    def _room(self, state: State) -> Tensor:
        return (state["steps"] // self.room_steps).clamp(max=2)

    def _start(self) -> State:
        draws = torch.randint(len(self._cells), (self.num_envs, 3), generator=self.generator, device=self.device)
        target = self._cells[draws] * self._room_features[:, 3:]  # by room; the empty one shows 0, 0
        has_key = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return {"agent": torch.zeros_like(target[:, 0]), "target": target, "has_key": has_key}

    def _transition(self, state: State, action: Tensor) -> Transition:
        room, t = self._room(state), state["steps"] + 1
        agent = (state["agent"] + self._move[action]).clamp(-self._reach, self._reach)
        on_target = (agent == state["target"][self._rows, room]).all(1)
        has_key = state["has_key"] | (on_target & (room == 0))
        at_door = on_target & (room == 2)
        agent = agent * (t % self.room_steps != 0)[:, None]  # the next room begins at its centre
        new = {"agent": agent, "target": state["target"], "has_key": has_key}
        return new, (at_door & has_key).float(), at_door | (t >= 3 * self.room_steps)

    def _observe(self, state: State) -> Tensor:
        room = self._room(state)
        target = state["target"][self._rows, room]
        return torch.cat([self._room_features[room], state["agent"], target], 1) * self._scale
