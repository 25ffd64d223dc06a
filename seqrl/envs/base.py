"""The base of seqrl's own environments: a batch of B partially observed problems, stepped as tensors on one device."""

from abc import ABC, abstractmethod
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float
from torch import Tensor

from seqrl.actions import is_mixed
from seqrl.errors import UserError
from seqrl.trajectory import Tree, tree_map, where_rows

State = dict[str, Tensor]
"""The states of all rows, by name; leaves are [B, ...]. Three names are the base's: it adds `steps` [B] int64, the
decisions taken so far in the episode (0 at its first observation), and `ended` [B] bool, whether the last step ended
it; `generator` stands for the generator's state in `state_dict`."""

RESERVED = ("steps", "ended", "generator")
"""The names in `State` that a subclass does not give."""

Transition = tuple[State, Float[Tensor, "B"], Bool[Tensor, "B"]]
"""Next states, rewards (float32), and where the task itself ended."""


def require_at_least(minimum: int, **arguments: int) -> None:
    """Raise UserError for the first argument that is less than `minimum`."""
    for name, value in arguments.items():
        if value < minimum:
            raise UserError(f"{name}={value}: give at least {minimum}")


class TorchVectorEnv(VectorEnv, ABC):
    """B copies of one problem. Observations, rewards and flags are tensors [B, ...] on `device`.

    A subclass gives the spaces of one copy and three functions of the states:

    - `_start() -> State`: fresh states for all B rows, by names of its own (a dict of tensors [B, ...] on
      `self.device`). Called at every step, since a row whose episode has ended starts anew in it; the others' are
      thrown away.
    - `_transition(state, action) -> (State, reward, terminated)`: `action` is [B] int64 for a Discrete space, else
      [B, *shape]; the next states have the names, shapes and types of `_start`'s; `reward` is [B] float32,
      `terminated` [B] bool. Rows whose episode has ended come along: their outcome is thrown away.
    - `_observe(state) -> Tree`: what the agent sees, leaves [B, ...] of the observation space's types (int64 for
      Discrete, dicts and tuples for Dict and Tuple) that share no memory with `state`.

    `state` holds two names more, which the base keeps: `steps` [B] int64, the decisions taken so far in the episode, 0
    at its first observation; and `ended` [B] bool. These and `generator` are reserved: what a subclass returns under
    them is not read.

    The three never write into a tensor they were given, keep all shapes fixed and never read a value back to the host
    (no `if` over values, no `.item()`, no `x[mask]`), so that a CUDA graph can capture a step, as rollouts on a GPU do:
    `step` builds new tensors and rebinds `self.state`, and all draws come from `self.generator`. A subclass that does
    read back says so (`reads_back`). `seqrl.testing.check_environment` looks at all of this.

    A constructor takes `num_envs`, `device` and `max_episode_steps` by these names and hands them on; then
    `seqrl.envs.register` gives the class an id.

    Autoreset is Gymnasium's next-step mode: the step after an episode's end ignores its action and returns the new
    episode's first observation, reward 0 and both flags False. `max_episode_steps` sets `truncated` after that many
    decisions; None sets no limit. As in Gymnasium, both flags are True when both hold.

    Actions are tensors or arrays [B, ...] of the action space, or trees of them where it is a Dict or Tuple space. For
    speed they are not checked: a discrete action out of range is undefined behaviour.

    Raises: UserError if `num_envs` or `max_episode_steps` is below 1, or `step` comes before `reset`.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    draws_only_at_starts = False
    """Whether `_start` is called on the CPU only at steps where an episode starts: for starts that cost much. On other
    devices that would read a value back."""

    reads_back = False
    """True where a step does read a value back to the host after all: a GPU's rollouts are then not captured."""

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        num_envs: int,
        device: torch.device | str,
        max_episode_steps: int | None,
    ) -> None:
        require_at_least(1, num_envs=num_envs)
        if max_episode_steps is not None:
            require_at_least(1, max_episode_steps=max_episode_steps)
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.generator = torch.Generator(self.device)
        self.generator.seed()  # without a seed from the user, runs differ
        self.state: State = {}

    @abstractmethod
    def _start(self) -> State:
        """Fresh states for all rows; random draws come from `self.generator`."""

    @abstractmethod
    def _transition(self, state: State, action: Any) -> Transition:
        """What `action` does in `state`. Rows whose episode has ended come along too: their outcome is thrown away."""

    @abstractmethod
    def _observe(self, state: State) -> Tree:
        """What the agent sees: a tree with leaves [B, ...] that share no memory with `state`."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tree, dict[str, Any]]:
        """Start a new episode in every row. With `seed`, the draws start anew from it; without, they go on.

        `options` is not used.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.generator.manual_seed(seed)
        self.state = self._start() | {
            "steps": torch.zeros(self.num_envs, dtype=torch.int64, device=self.device),
            "ended": torch.zeros(self.num_envs, dtype=torch.bool, device=self.device),
        }
        return self._observe(self.state), {}

    def step(self, action: Any) -> tuple[Tree, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Observation, reward [B] float32, terminated [B] bool, truncated [B] bool, and an empty info."""
        if not self.state:
            raise UserError("step() before reset(): call reset() first")
        starting = self.state["ended"]
        going = ~starting
        action = self._tensors(action)
        state, reward, terminated = self._transition(self.state, action)
        steps = (self.state["steps"] + 1) * going
        reward = reward.masked_fill(starting, 0.0)
        terminated = terminated & going
        limit = self.max_episode_steps  # never reached where an episode starts, since its count is 0
        truncated = torch.zeros_like(terminated) if limit is None else steps >= limit
        if not (self.draws_only_at_starts and self.device.type == "cpu" and not starting.any()):
            state = where_rows(starting, self._start(), state)
        self.state = state | {"steps": steps, "ended": terminated | truncated}
        return self._observe(self.state), reward, terminated, truncated, {}

    def _tensors(self, action: Any) -> Tree:
        def tensor(leaf: Any) -> Tensor:
            return torch.as_tensor(leaf, device=self.device).detach()

        return tree_map(tensor, action) if is_mixed(self.single_action_space) else tensor(action)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next steps depend on, copied: the states by name, and the generator's state as `generator`."""
        return {name: leaf.clone() for name, leaf in self.state.items()} | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, bit for bit. The generator's state fits the same kind of device."""
        self.generator.set_state(state["generator"].cpu())
        self.state = {name: leaf.to(self.device, copy=True) for name, leaf in state.items() if name != "generator"}
