"""`check_environment`: does a batched environment keep the contract that seqrl's rollouts rely on?"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqrl.envs import TorchVectorEnv
from seqrl.envs.base import RESERVED, State
from seqrl.envs.failures import misfit
from seqrl.trajectory import Tree, tree_leaves, tree_map, where_rows


class _Row(NamedTuple):
    """What one step, or the reset, returned."""

    observation: Tree
    reward: Any = None
    terminated: Any = None
    truncated: Any = None


def check_environment(env: VectorEnv, num_steps: int = 1000, seed: int = 0) -> None:
    """Drive `env` with random actions, several times over, and raise AssertionError naming the first rule it breaks.

    1. It declares next-step autoreset.
    2. Observations lie in its space; rewards are floats [B] (float32 where they are tensors), flags bools [B]; nothing
       is NaN; all on one device.
    3. The step after an episode's end returns reward 0 and False flags, and its action is ignored. An environment with
       `max_episode_steps` truncates an episode after just so many steps, counted from the episode's own start.
    4. The same seed and actions give the same trajectory.
    5. What it returned belongs to the caller: later steps do not overwrite it, and writing into it changes nothing.
    6. If it has a `state_dict`, loading one continues bit for bit.
    7. A `TorchVectorEnv`'s own functions write into no tensor that they were given, nor (unless it `reads_back`) read
       a value back to the host; states keep their names, shapes and types, and give no name that is reserved.

    At least one episode must end within `num_steps`, or there is nothing to check of rule 3: give more where episodes
    are long. Observations, rewards and flags may be tensors or arrays. The environment is left in an arbitrary state.
    """
    _require(env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP, "autoreset is not declared as next-step")
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(num_steps)]
    others = [env.action_space.sample() for _ in range(num_steps)]

    if isinstance(env, TorchVectorEnv):
        _check_functions(env, actions, seed)
    rows = [_reset(env, seed)]
    kept = [_copy(rows[0])]
    first = next(tree_leaves(rows[0].observation))
    if isinstance(first, Tensor):  # tensors in where tensors come out
        actions, others = (
            [tree_map(lambda leaf: torch.as_tensor(leaf, device=first.device), action) for action in some]
            for some in (actions, others)
        )
    for action in actions:
        rows.append(_step(env, action))
        kept.append(_copy(rows[-1]))
    _require(_equal(rows, kept), "a later step overwrote what an earlier one returned")
    _check_values(env, kept)
    ended = _check_episodes(env, kept)

    def replay(act: Callable[[int], Any], after: Callable[[Tree], None] = lambda row: None) -> list[_Row]:
        seen = [_reset(env, seed)]
        for t in range(num_steps):
            row = seen[-1]
            seen[-1] = _copy(row)
            after(row)
            seen.append(_step(env, act(t)))
        return seen

    _require(_equal(replay(lambda t: actions[t]), kept), "the same seed and actions gave another trajectory")
    swapped = replay(lambda t: _choose(ended[t], others[t], actions[t]))
    _require(_equal(swapped, kept), "the action of the step after an episode's end was not ignored")
    scribbled = replay(lambda t: actions[t], after=_scribble)
    _require(_equal(scribbled, kept), "writing into what a step returned changed the steps that followed")
    if hasattr(env, "state_dict"):
        _check_state_dict(env, actions, kept, seed)


def _check_values(env: VectorEnv, rows: list[_Row]) -> None:
    reset_leaves = list(tree_leaves(rows[0].observation))
    device = reset_leaves[0].device if isinstance(reset_leaves[0], Tensor) else None
    for t, row in enumerate(rows):
        for leaf in tree_leaves(row):
            if leaf is None:  # a reset has no reward and no flags
                continue
            _require(len(leaf) == env.num_envs, f"step {t}: a leaf has {len(leaf)} rows, not num_envs={env.num_envs}")
            _require(getattr(leaf, "device", None) == device or device is None, f"step {t}: leaves on several devices")
            _require(not bool(np.isnan(_array(leaf)).any()), f"step {t}: NaN")
        wrong = misfit(env.single_observation_space, row.observation, (env.num_envs,))
        _require(wrong is None, f"step {t}: {wrong}")
        space, values = env.observation_space, tree_map(_array, row.observation)
        types = ", ".join(str(leaf.dtype) for leaf in tree_leaves(values))
        _require(space.contains(values), f"step {t}: observation, of type {types}, not in {space}")
        if row.reward is None:
            continue
        reward = _array(row.reward)
        _require(reward.shape == (env.num_envs,), f"step {t}: reward has shape {reward.shape}, not [num_envs]")
        _require(np.issubdtype(reward.dtype, np.floating), f"step {t}: reward is {reward.dtype}, not a float")
        is_double = isinstance(row.reward, Tensor) and row.reward.dtype != torch.float32
        _require(not is_double, f"step {t}: reward is {reward.dtype}, not float32")
        for name in ("terminated", "truncated"):
            flag = _array(getattr(row, name))
            _require(flag.shape == (env.num_envs,), f"step {t}: {name} has shape {flag.shape}, not [num_envs]")
            _require(flag.dtype == np.bool_, f"step {t}: {name} is {flag.dtype}, not bool")


def _check_functions(env: TorchVectorEnv, actions: list[Any], seed: int) -> None:
    """Check rule 7 on the first half of the steps: the functions are watched while the environment is driven."""
    like: State = {}  # what `_start` gave first

    def check_states(name: str, state: State, given: State) -> None:
        own = {key: leaf for key, leaf in state.items() if key not in RESERVED}
        like.update(own if not like else {})
        missing = [key for key in like if key not in own]
        _require(not missing and len(own) == len(like), f"{name} gives states {list(own)}, and _start {list(like)}")
        for key, leaf in own.items():
            is_row = isinstance(leaf, Tensor) and leaf.shape[:1] == (env.num_envs,)
            _require(is_row, f"{name} gives the state '{key}' as {_kind(leaf)}, which is no tensor of num_envs rows")
            same = (leaf.dtype, leaf.shape) == (like[key].dtype, like[key].shape)
            _require(same, f"{name} gives the state '{key}' as {_kind(leaf)}, and _start as {_kind(like[key])}")
        changed = [key for key in RESERVED if key in state and state[key] is not given.get(key)]
        _require(not changed, f"{name} gives a state '{(*changed, '')[0]}', a name that is reserved: choose another")

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            before = tree_map(torch.clone, given)
            with contextlib.nullcontext() if env.reads_back else _ReadsNothingBack(name):
                result = function(*given)
            for what, now, was in zip(("state", "action"), given, before, strict=False):
                _require(_same(now, was), f"{name} wrote into the {what} that it was given: build new tensors instead")
            if name == "_start":
                check_states(name, result, {})
            elif name == "_transition":
                check_states(name, result[0], given[0])
                for part, leaf, dtype in zip(
                    ("reward", "terminated"), result[1:], (torch.float32, torch.bool), strict=True
                ):
                    fits = isinstance(leaf, Tensor) and (leaf.dtype, leaf.shape) == (dtype, (env.num_envs,))
                    _require(fits, f"_transition gives {part} as {_kind(leaf)}, not {dtype} [num_envs]")
            return result

        return call

    names = ("_start", "_transition", "_observe")
    try:
        for name in names:
            setattr(env, name, watched(name, getattr(env, name)))
        env.reset(seed=seed)
        for action in actions[: len(actions) // 2 + 1]:
            env.step(tree_map(lambda leaf: torch.as_tensor(leaf, device=env.device), action))
    finally:
        for name in names:
            vars(env).pop(name, None)


class _ReadsNothingBack(TorchDispatchMode):
    """Raises AssertionError for operations that read a value back to the host, or whose shapes depend on values."""

    READ = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        what = func.overloadpacket.__name__
        if what == "index" or (what == "index_put_" and args[2].ndim):  # a single value is filled in without a look
            reads = any(index is not None and index.dtype == torch.bool for index in args[1])
        else:
            reads = what in self.READ
        way_out = "compute with tensors alone, or set reads_back = True on the class"
        _require(not reads, f"{self.name} reads a value back to the host ({what}): {way_out}")
        return func(*args, **(kwargs or {}))


def _check_episodes(env: VectorEnv, rows: list[_Row]) -> list[np.ndarray]:
    """Check rule 3 but for the action. Returns, for each step, the rows [B] whose episode had ended before it."""
    ended = [np.zeros(env.num_envs, bool)]
    length = np.zeros(env.num_envs, int)
    limit = getattr(env.unwrapped, "max_episode_steps", None)
    for t, row in enumerate(rows[1:], 1):
        reward, terminated, truncated = _array(row.reward), _array(row.terminated), _array(row.truncated)
        _require(not reward[ended[-1]].any(), f"step {t}: reward is not 0 on the step after an episode's end")
        flags = (terminated | truncated) & ended[-1]
        _require(not flags.any(), f"step {t}: a flag is True on the step after an episode's end")
        length = np.where(ended[-1], 0, length + 1)
        if limit is not None:
            late = (length >= limit) & ~(terminated | truncated)
            _require(not late.any(), f"step {t}: an episode went on after max_episode_steps={limit} steps")
            early = truncated & (length < limit)
            _require(not early.any(), f"step {t}: an episode was truncated before max_episode_steps={limit} steps")
        ended.append(terminated | truncated)
    _require(bool(np.any(ended)), f"no episode ended in {len(rows) - 1} steps; give a larger num_steps")
    return ended


def _check_state_dict(env: Any, actions: list[Any], rows: list[_Row], seed: int) -> None:
    half = len(actions) // 2
    _reset(env, seed)
    for action in actions[:half]:
        _step(env, action)
    saved = env.state_dict()
    for _ in range(2):  # the first pass goes on from `saved`, the second comes back to it
        continued = [_copy(_step(env, action)) for action in actions[half:]]
        _require(_equal(continued, rows[half + 1 :]), "load_state_dict(state_dict()) did not continue bit for bit")
        env.load_state_dict(saved)


def _reset(env: VectorEnv, seed: int) -> _Row:
    observation, _ = env.reset(seed=seed)
    return _Row(observation)


def _step(env: VectorEnv, action: Any) -> _Row:
    return _Row(*env.step(action)[:4])


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__


def _same(some: Tree, others: Tree) -> bool:
    pairs = zip(tree_leaves(some), tree_leaves(others), strict=True)
    return all(a is b or np.array_equal(_array(a), _array(b), equal_nan=True) for a, b in pairs)


def _array(leaf: Any) -> np.ndarray:
    return leaf.cpu().numpy() if isinstance(leaf, Tensor) else np.asarray(leaf)


def _copy(row: _Row) -> _Row:
    def copy(leaf: Any) -> Any:
        return None if leaf is None else leaf.clone() if isinstance(leaf, Tensor) else np.array(leaf)

    return tree_map(copy, row)


def _scribble(row: _Row) -> None:
    for leaf in tree_leaves(row):
        if leaf is not None:
            leaf[...] = 1


def _choose(rows: np.ndarray, new: Any, old: Any) -> Any:
    def choose(new: Any, old: Any) -> Any:
        if isinstance(old, Tensor):
            return where_rows(torch.as_tensor(rows, device=old.device), new, old)
        return np.where(rows.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return tree_map(choose, new, old)


def _equal(some: list[_Row], others: list[_Row]) -> bool:
    """Bit for bit, but for NaN, which another rule is about."""
    return _same(tuple(some), tuple(others))


def _require(condition: bool, broken: str) -> None:
    if not condition:
        raise AssertionError(f"check_environment: {broken}")
