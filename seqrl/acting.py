"""What acts: the interface that rollouts, evaluation and people use, whatever is behind it."""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from seqrl.actions import nothing_done, tensor_space, to_environment
from seqrl.errors import UserError, not_these_keys
from seqrl.memory.base import State
from seqrl.trajectory import AgentInput, Tree, tree_leaves, tree_map


class Policy(Protocol):
    """What can be played: an `ActingModule`, or anything with these five.

    `outputs["policy"]` of `step` has `sample(generator)` and `mode()`, raw actions [1, B, ...]; `environment_action`
    makes of a row of them, [B, ...], the actions that the environment takes. The state is the policy's own affair: it
    is handed from step to step, and where `inputs.is_first` the policy forgets.
    """

    @property
    def device(self) -> torch.device: ...
    def initial_input(self, observation: Tree) -> AgentInput: ...
    def initial_state(self, batch_size: int) -> Any: ...
    def step(self, inputs: AgentInput, state: Any) -> tuple[dict[str, Any], Any]: ...
    def environment_action(self, distribution: Any, raw: Tensor) -> Tensor: ...


class ActingModule(nn.Module, ABC):
    """Reads a history row by row and says, at each row, what its heads say; one of them is called "policy".

    Acting calls `step`, which is `unroll` with T = 1. A person with a trained agent calls `act`, which keeps the state
    between calls, and `reset`.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space):
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self._action_shape = tensor_space(action_space).shape or ()
        self._session: _Session | None = None

    heads: nn.ModuleDict
    reads_reward: bool
    """Whether what is said depends on the previous reward."""
    draws: bool = False
    """Whether it acts by actions drawn from its policy where nothing else is said, and not by the likeliest ones."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state of a fresh start, leaves [batch_size, ...]."""

    @abstractmethod
    def unroll(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], State]:
        """What each head says at each of T rows (leaves [T, B, ...]), and the state after them."""

    def step(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], State]:
        """`unroll` on one row: leaves [B, ...]; the heads' outputs keep a leading time axis of 1."""
        return self.unroll(tree_map(lambda leaf: leaf.unsqueeze(0), inputs), state)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def initial_input(self, observation: Tree) -> AgentInput:
        """The input for the first rows of a batch of episodes: observation leaves [B, ...]."""
        batch_size = next(tree_leaves(observation)).shape[0]
        return AgentInput(
            observation,
            nothing_done(self.action_space, batch_size, self.device),
            torch.zeros(batch_size, device=self.device),
            torch.ones(batch_size, dtype=torch.bool, device=self.device),
        )

    def reset(self) -> None:
        """Forget: the next `act` begins new episodes."""
        self._session = None

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        *,
        reward: Any = None,
        is_first: Any = None,
        sample: bool | None = None,
    ) -> Any:
        """The action for an observation as the environment gives it, for one environment or a batch of them.

        With a mask from `info` or `action_masks()` it is `{"observation": …, "action_mask": …}`. The action is an
        array or a number, of a Dict or Tuple action space a dict or tuple of them.

        The agent keeps its memory from call to call. `is_first` (bool, one a row of the batch) begins new episodes for
        some rows; `reset` does so for all. `reward` is what the last action brought, needed only by an agent that was
        trained with the previous reward as an input. With `sample` the action is drawn from the policy, without it is
        the likeliest; where nothing is said, it is what was chosen in training (`draws`).

        Raises UserError when the observation does not fit the space that the agent was trained on.
        """
        observation, single = _as_batch(observation, self.observation_space, self.device)
        inputs = self.initial_input(observation)
        batch_size = inputs.is_first.shape[0]
        if any(leaf.shape[0] != batch_size for leaf in tree_leaves(observation)):
            raise UserError("act: some parts of the observation have a batch axis of another size than others")
        session = self._session
        if session is None:
            session = _Session(self.initial_state(batch_size), inputs.previous_action)
        else:
            if session.action.shape[0] != batch_size:
                raise UserError(
                    f"act: a batch of {batch_size} follows one of {session.action.shape[0]}: call reset() in between"
                )
            if reward is None and self.reads_reward:
                raise UserError(
                    "act: this agent reads the previous reward: pass reward=..., or reset() between episodes"
                )
            inputs = inputs._replace(
                previous_action=session.action,
                previous_reward=_rows("reward", 0.0 if reward is None else reward, inputs.previous_reward),
                is_first=_rows("is_first", False if is_first is None else is_first, inputs.is_first),
            )
        outputs, state = self.step(inputs, session.state)
        distribution = outputs["policy"]
        raw = distribution.sample() if (self.draws if sample is None else sample) else distribution.mode()
        action = self.environment_action(distribution, raw[0])
        self._session = _Session(state, action)
        taken = to_environment(action.cpu().numpy(), self.action_space)
        return tree_map(lambda leaf: leaf[0], taken) if single else taken

    def environment_action(self, distribution: Any, raw: Tensor) -> Tensor:
        """A raw action [B, ...] of the policy as an `Environment` takes it: one tensor, [B, *action shape]."""
        return distribution.to_environment(raw).reshape(-1, *self._action_shape)


class _Session:
    """What `act` remembers between calls."""

    def __init__(self, state: State, action: Tensor):
        self.state, self.action = state, action


def _as_batch(observation: Any, space: gym.Space, device: torch.device) -> tuple[Tree, bool]:
    """A Gymnasium observation as tensors with a batch axis, and whether it came without one."""
    if isinstance(space, gym.spaces.Dict):
        if not isinstance(observation, dict) or not set(space.spaces) <= set(observation):
            raise not_these_keys(space.spaces)
        parts = {key: _as_batch(observation[key], child, device) for key, child in space.spaces.items()}
        return {key: leaf for key, (leaf, _) in parts.items()}, all(single for _, single in parts.values())
    if isinstance(space, gym.spaces.Tuple):
        if not isinstance(observation, tuple) or len(observation) != len(space.spaces):
            raise UserError(f"act: the observation is not a tuple of {len(space.spaces)}")
        pairs = [_as_batch(o, child, device) for o, child in zip(observation, space.spaces, strict=True)]
        return tuple(leaf for leaf, _ in pairs), all(single for _, single in pairs)
    leaf = _as_tensor(observation, space)
    if leaf.is_floating_point():
        leaf = leaf.float()
    elif leaf.dtype not in (torch.uint8, torch.bool):
        leaf = leaf.long()
    shape = tuple(space.shape or ())
    single = tuple(leaf.shape) == shape
    if not single and tuple(leaf.shape[1:]) != shape:
        raise UserError(f"act: an observation of shape {tuple(leaf.shape)} does not fit {space}, nor a batch of them")
    if leaf.is_floating_point() and not leaf.isfinite().all():
        raise UserError("act: the observation holds NaN or infinity: mend the environment or the sensor")
    if isinstance(space, gym.spaces.MultiBinary):
        leaf = leaf.bool()
    elif isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        if leaf.is_floating_point():
            raise UserError(f"act: the observation is a {leaf.dtype}, but one of {space} is counted: give integers")
        leaf = leaf.long() - torch.as_tensor(space.start, device=leaf.device)
        sizes = torch.as_tensor(space.n if isinstance(space, gym.spaces.Discrete) else space.nvec, device=leaf.device)
        if not ((leaf >= 0) & (leaf < sizes)).all():
            raise UserError(f"act: the observation lies outside {space}")
    return (leaf.unsqueeze(0) if single else leaf).to(device), single


def _as_tensor(observation: Any, space: gym.Space) -> Tensor:
    try:
        leaf = observation if isinstance(observation, Tensor) else torch.as_tensor(np.asarray(observation))
        if not leaf.is_complex():
            return leaf
    except (TypeError, ValueError, RuntimeError):
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict):
            raise UserError("act: this is what reset() returns: give its first part, the observation, alone") from None
    raise UserError(f"act: a {type(observation).__name__} such as this is no observation of {space}: give an array")


def _rows(name: str, value: Any, like: Tensor) -> Tensor:
    """`value` as one entry a row of the batch, in the type of `like` [B]."""
    try:
        rows = torch.as_tensor(value).to(like)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"act: {name} is {value!r}: give a number, or {len(like)} of them") from None
    if rows.shape not in ((), like.shape):
        raise UserError(f"act: {name} has the shape {tuple(rows.shape)}: give one value, or {len(like)}")
    if not rows.isfinite().all():
        raise UserError(f"act: {name} is NaN or infinite: mend the environment")
    return rows.expand(len(like))
