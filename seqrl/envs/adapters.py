"""What the rollout sees of an environment, and the two ways to get it from a Gymnasium `VectorEnv`.

Gymnasium's vector environments start the next episode in one of three ways (https://farama.org/Vector-Autoreset-Mode).
Both adapters bring them to the rows that `seqrl.trajectory` describes. For an episode that ends with o_T, before p_0:

=============  ========================================================  ===============================================
mode           the step that ends the episode returns                    the step after it returns
=============  ========================================================  ===============================================
next step      observation o_T, mask False                               p_0, is_first True, reward 0; action ignored
same step      observation p_0, is_first True, final_observation o_T     p_1
disabled       the same: the adapter resets the ended rows               p_1
=============  ========================================================  ===============================================
"""

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from seqrl.actions import to_environment, unpack
from seqrl.envs.action_masks import InfoMask, must_allow, nothing_allowed, with_something_allowed
from seqrl.envs.agent_spaces import agent_space
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.failures import check_values, misfit, not_in_space, raise_as_they_were, told
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.seeds import seeds_of_rows
from seqrl.trajectory import ACTION_MASK, TimeStep, Tree, tree_map, where_rows


class Environment(ABC):
    """B environments stepped together; observations, actions and flags are tensors on `device`.

    `single_observation_space` and `single_action_space` describe what the agent sees and does: floats are float32,
    integers int64 (images stay uint8), binary leaves bool. Discrete spaces keep their `start`, for those who later act
    in the environment itself; in tensors every discrete value counts from 0.
    """

    num_envs: int
    single_observation_space: Space
    single_action_space: Space
    device: torch.device

    @abstractmethod
    def reset(self, seed: int | None = None) -> TimeStep:
        """Start a new episode in every row. With the same `seed`, the same episodes follow the same actions."""

    @abstractmethod
    def step(self, action: Tensor) -> TimeStep:
        """Take `action`, [B] for a Discrete action space, [B, D] for a mixed one (`seqrl.actions`), else [B, *shape].

        Call `reset` or `load_state_dict` first.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what the environments hold, worker processes included. May be called twice."""

    def render(self) -> np.ndarray | None:
        """What the first environment draws now, [H, W, 3] uint8; None where it draws no frames."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor] | None:
        """All that decides what the environments do next, or None where they cannot be saved."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from where `state_dict` was called. Raises UserError where the environments cannot be saved."""


@final
class TorchEnvironment(Environment):
    """A `TorchVectorEnv`, which gives tensors already: adds `is_first` and `mask`, and nothing that costs time.

    Its observations are not checked for NaN, because the check would wait for the device at every step; shapes and
    types are, at a reset, and on the CPU that action masks allow something. What a user's environment raises becomes a
    UserError.
    """

    def __init__(self, vector_env: TorchVectorEnv) -> None:
        self._env = vector_env
        self._name = _name_of(vector_env)
        self.num_envs = vector_env.num_envs
        self.single_observation_space = vector_env.single_observation_space
        self.single_action_space = vector_env.single_action_space
        self.device = vector_env.device
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        observed, acted = self.single_observation_space, self.single_action_space
        is_masked = isinstance(observed, spaces.Dict) and ACTION_MASK in observed.spaces and must_allow(acted)
        self._looks_at_masks = is_masked and self.device.type == "cpu"

    def reset(self, seed: int | None = None) -> TimeStep:
        with told(self._env, self._name, "reset"):
            observation, _ = self._env.reset(seed=seed)
        if wrong := misfit(self.single_observation_space, observation, (self.num_envs,)):  # costs nothing but here
            raise not_in_space(self._name, wrong)
        self._ended = torch.zeros_like(self._ended)
        self._check_allowed(observation)
        return _first(observation, self._ended)

    def step(self, action: Tensor) -> TimeStep:
        with told(self._env, self._name, "step"):
            observation, reward, terminated, truncated, _ = self._env.step(unpack(action, self.single_action_space))
        is_first, self._ended = self._ended, terminated | truncated
        self._check_allowed(observation)
        return TimeStep(observation, reward, terminated, truncated, is_first, ~self._ended)

    def _check_allowed(self, observation: Tree) -> None:
        if self._looks_at_masks and not (allowed := observation[ACTION_MASK].any(-1) | self._ended).all():
            row = allowed.tolist().index(False)
            raise nothing_allowed(row, f"{int(self._env.state['steps'][row])} of an episode of '{self._name}'")

    def close(self) -> None:
        self._env.close()

    def state_dict(self) -> dict[str, Tensor]:
        inner = {f"env.{name}": value for name, value in self._env.state_dict().items()}
        return inner | {"ended": self._ended.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._ended = state["ended"].to(self.device, copy=True)
        self._env.load_state_dict(
            {name.removeprefix("env."): value for name, value in state.items() if name.startswith("env.")}
        )


@final
class GymnasiumEnvironment(Environment):
    """Any Gymnasium `VectorEnv` (synchronous, asynchronous or a user's own), in any autoreset mode.

    Observations and actions may be nested Dict and Tuple spaces of Box, Discrete, MultiDiscrete and MultiBinary; Box
    actions are in the space's own units. A Dict observation with an `action_mask` of its own, an entry for each choice,
    has it turned to bool. Where there is none, but `info["action_mask"]` at reset, as in Taxi, in one of the forms that
    `seqrl.envs.action_masks` reads, observations become `{"observation": ..., "action_mask": bool [B, n]}`, and those
    of trials have it beside their own; to find that out, the environments are reset once here. A row whose mask is
    missing allows everything, and so is a choice free of which nothing is allowed. Where nothing at all is, the episode
    must have ended.

    Such environments have no state that can be saved: `state_dict` is None.

    Raises:
        UserError: for an unsupported space, an unknown autoreset mode or a mask that does not fit the actions; from
            `reset` and `step`, for whatever the environment raises, an observation that is not in its space, one or a
            reward that is NaN or infinite, and a mask that allows nothing while the episode goes on.
    """

    def __init__(self, vector_env: VectorEnv, device: torch.device | str = "cpu") -> None:
        self._env = vector_env
        self._name = _name_of(vector_env)
        # Gymnasium's two write into arrays of the space's own shapes and types.
        self._is_gymnasiums = isinstance(vector_env, SyncVectorEnv | AsyncVectorEnv)
        if isinstance(vector_env.unwrapped, AsyncVectorEnv):
            raise_as_they_were(vector_env.unwrapped)
        self._mode = _autoreset_mode(vector_env, self._name)
        self.num_envs = vector_env.num_envs
        self.device = torch.device(device)
        self.single_action_space = agent_space(vector_env.single_action_space, "action")
        self._inner_space = agent_space(vector_env.single_observation_space, "observation")
        self.single_observation_space = self._inner_space
        self._info_mask = InfoMask(self.single_action_space, f"'{self._name}' gives info['{ACTION_MASK}']")
        self._sizes = self._info_mask.sizes  # how many values each choice has
        self._must_allow = must_allow(self.single_action_space)
        self._observes_mask = isinstance(self._inner_space, spaces.Dict) and ACTION_MASK in self._inner_space.spaces
        self._is_told_mask = self._probe_action_mask()
        if self._is_told_mask:
            seen = self._with_mask(self._inner_space, spaces.MultiBinary(sum(self._sizes)))
            self.single_observation_space = spaces.Dict(**seen)
        self._num_steps = 0
        self._ended = np.zeros(self.num_envs, dtype=bool)

    def reset(self, seed: int | None = None) -> TimeStep:
        self._num_steps = 0
        self._ended = np.zeros(self.num_envs, dtype=bool)
        # A user's own batch need not take more than one seed, and spreads it as it likes.
        seeds = seeds_of_rows(seed, self.num_envs) if seed is not None and self._is_gymnasiums else seed
        observation = self._observation(*self._reset(seed=seeds), last=self._ended)
        return _first(observation, self._flags(self._ended))

    def step(self, action: Tensor) -> TimeStep:
        action_values = to_environment(action.detach().cpu().numpy(), self._env.single_action_space)
        with told(self._env, self._name, "step"):
            values, reward, terminated, truncated, infos = self._env.step(action_values)
        check_values(self._name, self.num_envs, reward=reward, terminated=terminated, truncated=truncated)
        self._num_steps += 1
        reward = np.array(reward, dtype=np.float32)
        was_ended, self._ended = self._ended, np.logical_or(terminated, truncated)
        final_observation = None
        if self._mode is AutoresetMode.NEXT_STEP:
            observation = self._observation(values, infos, last=self._ended)
            is_first, mask = was_ended, ~self._ended
            reward[was_ended] = 0  # not all environments see to it themselves: Gymnasium's JAX ones do not
        else:
            is_first, mask = self._ended, np.ones(self.num_envs, dtype=bool)
            observation, final_observation = self._split_at_end(values, infos)
        self._check_finite(reward, "reward")
        return TimeStep(
            observation,
            torch.from_numpy(reward).to(self.device),
            self._flags(terminated),
            self._flags(truncated),
            self._flags(is_first),
            self._flags(mask),
            final_observation,
        )

    def close(self) -> None:
        self._env.close()

    def render(self) -> np.ndarray | None:
        if self._env.render_mode != "rgb_array":
            return None
        frames = self._env.render()
        return np.asarray(frames[0]) if frames is not None and frames[0] is not None else None

    def state_dict(self) -> None:
        return None

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        raise UserError(f"'{self._name}' cannot be restored: Gymnasium environments do not save their state")

    def _reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        with told(self._env, self._name, "reset"):
            return self._env.reset(**options)

    def _split_at_end(self, values: Any, infos: dict[str, Any]) -> tuple[Tree, Tree]:
        """The observations after the reset of the ended rows, and before it."""
        is_disabled = self._mode is AutoresetMode.DISABLED
        observation = self._observation(values, infos, last=self._ended & is_disabled)
        if not self._ended.any():
            return observation, observation
        ended = self._flags(self._ended)
        if is_disabled:
            # What the other rows hold after a partial reset is up to the environment, so they are not read from it.
            options = {"reset_mask": self._ended.copy()}
            first = self._observation(*self._reset(options=options), last=~self._ended)
            return where_rows(ended, first, observation), observation
        if "final_obs" not in infos:
            raise UserError(
                f"'{self._name}' resets within the step but gives no info['final_obs'], which the value of a truncated "
                "episode needs: set its autoreset mode to next_step"
            )
        values = tree_map(np.array, values)
        for row in np.flatnonzero(self._ended).tolist():
            last_of_row = _read_row(infos["final_obs"], row)
            if wrong := misfit(self._env.single_observation_space, last_of_row):
                raise not_in_space(f"environment {row} of {self._name}", wrong)
            _write_row(values, row, last_of_row)
        last = self._observation(values, infos.get("final_info", {}), last=np.ones_like(self._ended))
        return observation, where_rows(ended, last, observation)

    def _observation(self, values: Any, infos: dict[str, Any], last: np.ndarray) -> Tree:
        """The batched numpy `values`, with the action mask in `infos`, as the agent sees them. Nothing is decided in
        the rows `last` [B], so that their masks need not allow anything."""
        space = self._env.single_observation_space
        if not self._is_gymnasiums and (wrong := misfit(space, values, (self.num_envs,))):
            raise not_in_space(self._name, wrong)
        observation = self._tensors(space, self._inner_space, values)
        if self._is_told_mask:
            masks = self._info_mask.of_infos(infos, ACTION_MASK, self.num_envs)
            self._check_allowed(masks, last)
            observation = self._with_mask(observation, torch.from_numpy(masks).to(self.device))
        elif ACTION_MASK in infos and self._sizes and not self._observes_mask:
            raise UserError(
                f"'{self._name}' gives info['{ACTION_MASK}'], and gave none at its first reset: give it there too"
            )
        elif self._observes_mask:
            self._check_allowed(np.asarray(values[ACTION_MASK]), last)
        if isinstance(observation, dict) and ACTION_MASK in observation:
            observation[ACTION_MASK] = with_something_allowed(observation[ACTION_MASK], self._sizes)
        return observation

    def _with_mask(self, observation: Any, mask: Any) -> dict[str, Any]:
        """An observation or its space, with a mask beside it: in trials beside the parts that make it one."""
        is_trial = isinstance(self._inner_space, spaces.Dict) and EPISODE_START in self._inner_space.spaces
        return {**(observation if is_trial else {"observation": observation}), ACTION_MASK: mask}

    def _tensors(self, env_space: Space, agent_space: Space, values: Any) -> Tree:
        """`values` of `env_space`, batched, as tensors of `agent_space` that share no memory with the environment."""
        if isinstance(env_space, spaces.Dict) and isinstance(agent_space, spaces.Dict):
            return {key: self._tensors(env_space[key], agent_space[key], values[key]) for key in env_space}
        if isinstance(env_space, spaces.Tuple) and isinstance(agent_space, spaces.Tuple):
            parts = zip(env_space, agent_space, values, strict=True)
            return tuple(self._tensors(env, agent, value) for env, agent, value in parts)
        values = np.asarray(values)
        if isinstance(env_space, spaces.Discrete | spaces.MultiDiscrete):
            self._check_inside(values, env_space)
            values = values - env_space.start
        dtype = np.bool_ if isinstance(agent_space, spaces.MultiBinary) else agent_space.dtype
        array = np.array(values, dtype=dtype, order="C")
        if array.dtype == np.float32:
            self._check_finite(array, "observation")
        return torch.from_numpy(array).to(self.device)

    def _check_inside(self, values: np.ndarray, space: spaces.Discrete | spaces.MultiDiscrete) -> None:
        size = space.n if isinstance(space, spaces.Discrete) else space.nvec
        inside = (values >= space.start) & (values < space.start + size)
        if not inside.all():
            row = int(np.argmin(inside.reshape(self.num_envs, -1).all(axis=1)))
            raise UserError(
                f"environment {row} returned the observation {values[row]} at step {self._num_steps} after the reset "
                f"of '{self._name}', which is outside {space}: mend the environment, or the space it names"
            )

    def _check_allowed(self, masks: np.ndarray, last: np.ndarray) -> None:
        if self._must_allow and not (allowed := masks.any(axis=1) | last).all():
            raise nothing_allowed(int(np.argmin(allowed)), f"{self._num_steps} after the reset of '{self._name}'")

    def _check_finite(self, array: np.ndarray, what: str) -> None:
        finite = np.isfinite(array)
        if finite.all():
            return
        row = int(np.argmin(finite.reshape(self.num_envs, -1).all(axis=1)))
        kind = "a NaN" if np.isnan(array[row]).any() else "an infinite"
        raise UserError(
            f"environment {row} returned {kind} {what} at step {self._num_steps} after the reset of '{self._name}': "
            "mend the environment, or wrap it to clip what it returns"
        )

    def _flags(self, values: Any) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=bool)).to(self.device)

    def _probe_action_mask(self) -> bool:
        """Whether resets tell a mask, and none is observed. Raises UserError for one that does not fit the actions."""
        if self._observes_mask:
            self._check_own_mask()
        if self._observes_mask or not self._sizes:
            return False
        _, infos = self._reset()
        self._info_mask.of_infos(infos, ACTION_MASK, self.num_envs)
        return ACTION_MASK in infos

    def _check_own_mask(self) -> None:
        mask, num_choices = self._inner_space[ACTION_MASK], sum(self._sizes)  # type: ignore[index]
        if not num_choices:
            return  # refused where a policy is made for it
        if not isinstance(mask, spaces.MultiBinary) or mask.shape != (num_choices,):
            raise UserError(
                f"'{self._name}' observes an action_mask of {mask} for {self.single_action_space}: give a "
                f"MultiBinary({num_choices}), an entry for each choice"
            )


def _name_of(vector_env: VectorEnv) -> str:
    return vector_env.spec.id if vector_env.spec is not None else type(vector_env.unwrapped).__name__


def _first(observation: Tree, zeros: Tensor) -> TimeStep:
    """The row after a reset of all environments. `zeros` is [B], all False."""
    return TimeStep(observation, zeros.float(), zeros, zeros, ~zeros, ~zeros)


def _autoreset_mode(vector_env: VectorEnv, name: str) -> AutoresetMode:
    mode = vector_env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise UserError(
            f"'{name}' has metadata['autoreset_mode'] {mode!r}, so when it resets is unknown: "
            "set it to a gymnasium.vector.AutoresetMode"
        ) from None


def _read_row(batch: Any, row: int) -> Any:
    """Row `row` of an object array of rows (Gymnasium's own vector environments) or of a tree of batched arrays."""
    if isinstance(batch, np.ndarray) and batch.dtype == object:
        return batch[row]
    return tree_map(lambda leaf: leaf[row], batch)


def _write_row(batch: Any, row: int, value: Any) -> None:
    if isinstance(batch, dict):
        for key in batch:
            _write_row(batch[key], row, value[key])
    elif isinstance(batch, tuple):
        for part, part_value in zip(batch, value, strict=True):
            _write_row(part, row, part_value)
    else:
        batch[row] = value
