"""The agent that acts on a wish: a transformer that reads (action, return-to-go, observation) and predicts actions."""

import math
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import torch
from torch import Tensor, nn

from seqrl.acting import ActingModule
from seqrl.errors import UserError
from seqrl.memory.base import Memory, State
from seqrl.memory.reencoded import Reencoded
from seqrl.memory.transformer import Transformer
from seqrl.nets import ActionEncoder, Encoder, PolicyHead, RunningNorm
from seqrl.trajectory import AgentInput, Tree, action_mask

Timestep = Literal["sinusoidal", "learned", "none"]
Context = Literal["reencode", "cache"]


class DecisionState(NamedTuple):
    """The memory's state; the return still asked for, [B] float32; decisions since the episode began, [B] int64."""

    memory: State
    return_to_go: Tensor
    timestep: Tensor


class DecisionAgent(ActingModule):
    """Predicts each action from the last `context_length` rows of (a_{t−1}, R_t, o_t), three tokens a row.

        token_t^k = norm(embed_k(·) + embed(t)),   y = memory(…, token_t^a, token_t^R, token_t^o),   π(a_t | y_t)

    Acting begins an episode with R_0 = `target_return` and goes on with R_{t+1} = (R_t − r_t) / γ: what is left of the
    wish. Training reads the logged returns-to-go in its place (`unroll_rows`); on rows of a log whose first R is given,
    the two are the same numbers. Without `conditioned` the token of the return is left out: behaviour cloning.

    *What is read of the past.* "reencode" reads the last `context_length` rows afresh at every step, as training does.
    "cache" keeps keys and values, `context_length` times cheaper: deep layers then see beyond it (`Transformer`).
    *Timesteps* are added to every token: "sinusoidal" ones go on for ever; "learned" ones end with `max_timestep`, and
    acting beyond is refused; with "none" rotary positions tell the rows' order, and nothing the episode's age.

    `statistics` of returns and observations, `target_return` and the `return_range` of the log are buffers: they travel
    with the weights. `target_return` may be set, to a number or to one for each environment, [B].

    Source: Chen et al. 2021, arXiv 2106.01345. Differs: a row begins with the action before it, and all its tokens have
    its timestep, so that acting adds whole rows; no dropout, so that acting and training compute the same function;
    norms come first in each block; returns are standardised by the log's mean and deviation, not divided by a constant.
    Raises UserError where an episode outlasts learned timesteps, and for spaces without encoder or head.
    """

    target: Tensor
    return_range: Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        hidden_size: int = 128,
        num_layers: int = 3,
        num_heads: int = 1,
        context_length: int = 20,
        context: Context = "reencode",
        timestep: Timestep = "sinusoidal",
        max_timestep: int = 0,
        gamma: float = 1.0,
        conditioned: bool = True,
        normalize_observations: bool = True,
    ):
        super().__init__(observation_space, action_space)
        self.gamma, self.conditioned, self.max_timestep = gamma, conditioned, max_timestep
        self.reads_reward = conditioned
        self.encoder = Encoder(observation_space, hidden_size, normalize=normalize_observations)
        self.previous_action = ActionEncoder(action_space, hidden_size)
        self.return_to_go = nn.Linear(1, hidden_size) if conditioned else None
        self.timestep = None if timestep == "none" else _Timestep(timestep, hidden_size, max_timestep)
        num_tokens = 3 if conditioned else 2
        self.kinds = nn.Parameter(0.02 * torch.randn(num_tokens, hidden_size))
        self.norm = nn.LayerNorm(hidden_size)
        memory = Transformer(
            num_tokens * hidden_size,
            hidden_size,
            num_layers,
            num_heads,
            window=context_length,
            tokens_per_row=num_tokens,
            rotary=timestep == "none",
            activation="relu",
        )
        self.memory: Memory = Reencoded(memory, context_length) if context == "reencode" else memory
        self.heads = nn.ModuleDict({"policy": PolicyHead(hidden_size, action_space)})
        self.return_norm = RunningNorm(1)
        self.register_buffer("target", torch.zeros(()))
        self.register_buffer("return_range", torch.tensor([-math.inf, math.inf]))

    @property
    def target_return(self) -> Tensor:
        """What an episode is asked to bring: one number, or one for each environment of a batch, [B]."""
        return self.target

    @target_return.setter
    def target_return(self, value: Tensor | float) -> None:
        self.target = torch.as_tensor(value, dtype=torch.float32, device=self.target.device)

    def initial_state(self, batch_size: int) -> DecisionState:
        timestep = torch.full((batch_size,), -1, dtype=torch.int64, device=self.device)
        return DecisionState(self.memory.initial_state(batch_size), self._target(batch_size), timestep)

    def unroll(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], DecisionState]:
        """What the policy says at each of T rows, and the state after them; returns-to-go follow from the rewards."""
        asked, steps = [], []
        return_to_go, timestep = state.return_to_go, state.timestep
        target = self._target(len(timestep))
        for is_first, reward in zip(inputs.is_first, inputs.previous_reward, strict=True):
            timestep = torch.where(is_first, 0, timestep + 1)
            return_to_go = torch.where(is_first, target, (return_to_go - reward) / self.gamma)
            asked.append(return_to_go)
            steps.append(timestep)
        outputs, memory = self.unroll_rows(inputs, torch.stack(asked), torch.stack(steps), state.memory)
        return outputs, DecisionState(memory, return_to_go, timestep)

    def unroll_rows(
        self, inputs: AgentInput, return_to_go: Tensor, timestep: Tensor, state: State
    ) -> tuple[dict[str, Any], State]:
        """`unroll` with given returns-to-go [T, B] and timesteps [T, B]; `state` is the memory's."""
        begun = (timestep > 0).unsqueeze(-1)  # and not `is_first`: a window's first row has an action before it too
        tokens = [self.previous_action.project(inputs.previous_action) * begun]
        if self.return_to_go is not None:
            tokens.append(self.return_to_go(self.return_norm(return_to_go.unsqueeze(-1))))
        tokens.append(self.encoder.project(inputs.observation))
        x = torch.stack(tokens, 2) + self.kinds
        if self.timestep is not None:
            x = x + self.timestep(timestep).unsqueeze(2)
        y, state = self.memory.unroll(self.norm(x).flatten(2), state, inputs.is_first)
        allowed = action_mask(inputs.observation)
        return {name: head(y, allowed) for name, head in self.heads.items()}, state

    def update_statistics(self, observation: Tree, return_to_go: Tensor, mask: Tensor) -> None:
        """Take rows of the log into the statistics: leaves [T, B, ...]; those count where `mask`."""
        self.encoder.update_statistics(observation, mask)
        self.return_norm.update(return_to_go[mask].unsqueeze(-1))

    def _target(self, batch_size: int) -> Tensor:
        if self.target.ndim and len(self.target) != batch_size:
            raise UserError(f"{len(self.target)} target returns for {batch_size} environments: give one, or one each")
        return self.target.expand(batch_size)


class _Timestep(nn.Module):
    """A vector [..., H] for each number of decisions [...] since the episode began."""

    def __init__(self, kind: Timestep, hidden_size: int, max_timestep: int):
        super().__init__()
        self.table = nn.Embedding(max_timestep + 1, hidden_size) if kind == "learned" else None
        self.hidden_size = hidden_size

    def forward(self, timestep: Tensor) -> Tensor:
        if self.table is None:
            frequency = 10_000 ** -torch.arange(0, 1, 2 / self.hidden_size, dtype=torch.float64, device=timestep.device)
            angle = timestep.unsqueeze(-1) * frequency[: self.hidden_size // 2]
            return torch.cat([angle.sin(), angle.cos()], -1).float()
        if not torch.compiler.is_compiling() and int(timestep.max()) >= len(self.table.weight):
            raise UserError(
                f"an episode has lasted {int(timestep.max())} steps, and learned timesteps end at "
                f"{len(self.table.weight) - 1}, the longest of the log: train with --timestep sinusoidal"
            )
        return self.table(timestep)
