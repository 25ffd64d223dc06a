"""An agent: encoder, memory and heads put together. No algorithm in it."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from seqrl.acting import ActingModule
from seqrl.memory.base import Memory, State
from seqrl.nets import ActionEncoder, Encoder
from seqrl.nets.functions import side_by_side, tanh
from seqrl.nets.heads import is_plain
from seqrl.trajectory import AgentInput, Trajectory, action_mask, tree_map


class Agent(ActingModule):
    """Reads a history row by row and says, at each row, what its heads say.

        x_t = tanh(encode(o_t) + embed(a_{t−1}) + embed(r_{t−1})),   y_t = memory(x_{≤t}),   output_t = heads(y_t)

    Training calls `unroll` on [T, B] rows, acting calls `step`, which is `unroll` with T = 1.

    `heads` maps a name to a module called as head(features, allowed). The previous action and reward are two separate
    inputs, each on only where asked for; both are zero at the first row of an episode. With `autocast`, the memory runs
    under autocast of that type; encoder and heads do not.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        encoder: Encoder,
        memory: Memory,
        heads: Mapping[str, nn.Module],
        *,
        use_previous_action: bool = False,
        use_previous_reward: bool = False,
        autocast: torch.dtype | None = None,
    ):
        super().__init__(observation_space, action_space)
        self.encoder, self.memory, self.heads = encoder, memory, nn.ModuleDict(heads)
        size = encoder.output_size
        self.previous_action = ActionEncoder(action_space, size) if use_previous_action else None
        self.previous_reward = nn.Linear(1, size, bias=False) if use_previous_reward else None
        self.autocast = autocast

    @property
    def reads_reward(self) -> bool:  # type: ignore[override]
        return self.previous_reward is not None

    def initial_state(self, batch_size: int) -> State:
        return self.memory.initial_state(batch_size)

    def unroll(self, inputs: AgentInput, state: State, going_on: Tensor | None = None) -> tuple[dict[str, Any], State]:
        """What each head says at each of T rows (leaves [T, B, ...]), and the memory's state after them.

        `going_on` [T, B] says on which rows the previous action and reward are read, by default those that are not
        `is_first`. A window of a longer episode tells them of its first row too, where the memory begins.
        """
        x = self.encoder.project(inputs.observation)
        going_on = (~inputs.is_first if going_on is None else going_on).unsqueeze(-1)
        if self.previous_action is not None:
            x = x + self.previous_action.project(inputs.previous_action) * going_on
        if self.previous_reward is not None:
            x = x + self.previous_reward(inputs.previous_reward.unsqueeze(-1)) * going_on
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            y, state = self.memory.unroll(tanh(x), state, inputs.is_first)
        y = y.to(x.dtype)
        return self._outputs(y, action_mask(inputs.observation)), state

    def _outputs(self, y: Tensor, allowed: Tensor | None) -> dict[str, Any]:
        linear = {name: head for name, head in self.heads.items() if is_plain(head)}
        if len(linear) < 2:
            return {name: head(y, allowed) for name, head in self.heads.items()}
        read = side_by_side(y, [head.linear for head in linear.values()])
        outputs = {name: head.read(out, allowed) for (name, head), out in zip(linear.items(), read, strict=True)}
        return outputs | {name: head(y, allowed) for name, head in self.heads.items() if name not in linear}

    def update_statistics(self, trajectory: Trajectory) -> None:
        """Take a rollout's observations into the running statistics. Only between updates: see RunningNorm."""
        observation = tree_map(lambda leaf: leaf[:-1], trajectory.inputs.observation)
        self.encoder.update_statistics(observation, trajectory.mask)
