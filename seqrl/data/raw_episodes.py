"""What all importers share: episodes as other programs logged them become a dataset, in spaces given or inferred."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np

from seqrl.data.episode_writer import EpisodeWriter, as_array
from seqrl.data.episodes import Episode, EpisodeDataset
from seqrl.errors import UserError, nearest
from seqrl.trajectory import ACTION_MASK, Tree, tree_flatten, tree_leaves, tree_map

Unfinished = Literal["error", "truncate", "drop"]
"""What to do with an episode whose last row is neither terminated nor truncated."""

ALIASES = {
    "observations": ("observations", "observation", "obs"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "reward"),
    "terminated": ("terminated", "terminations", "terminals"),
    "truncated": ("truncated", "truncations", "timeouts"),
    "next_observations": ("next_observations", "next_observation", "next_obs"),
    "final_observations": ("final_observations", "final_observation"),
}
"""What other programs call the parts of a log."""
LEFT_OUT = ("infos", "metadata")
"""Parts of a log that are not read."""
MOST_CATEGORIES = 10_000
"""Integers have no more values than this where they are taken for categories: each has weights of its own."""


class RawEpisode(NamedTuple):
    """An episode as it was logged: values in the environment's own units, in arrays or lists.

    `observation` has T + 1 rows, or T where the final one is not known.
    """

    observation: Tree
    action: Any
    reward: Any
    terminated: bool
    truncated: bool
    where: str
    """The file, the episode and its place, for messages."""


def write_dataset(
    folder: str | Path,
    episodes: Callable[[], Iterator[RawEpisode]],
    *,
    observation_space: gym.Space | None,
    action_space: gym.Space | None,
    unfinished: Unfinished,
    about: dict[str, Any],
) -> EpisodeDataset:
    """The dataset of these episodes in `folder`.

    `episodes` is called once, or twice where a space is to be inferred: integers become Discrete or MultiDiscrete up to
    the largest one, floats a Box with the data's own bounds, and so do integer observations that are below 0 or from
    `MOST_CATEGORIES` on, or above 255 in an array. Where the final observation is not known, the last one is repeated.
    `about` says which of this was done.
    """
    if unfinished not in get_args(Unfinished):
        raise UserError(f"unfinished is {unfinished!r}: {nearest(str(unfinished), get_args(Unfinished))}")
    if Path(folder).exists():
        raise UserError(f"{folder} exists already: choose another folder for the episodes, or remove it")
    given = {"observation_space": observation_space, "action_space": action_space}
    inferred = [name for name, space in given.items() if space is None]
    if inferred:
        observation_space, action_space = infer_spaces(episodes(), observation_space, action_space)
    assert observation_space is not None
    assert action_space is not None
    dropped = repeated = 0
    with EpisodeWriter(folder, observation_space, action_space, about=about) as writer:
        for raw in episodes():
            if not (raw.terminated or raw.truncated):
                if unfinished == "error":
                    raise UserError(
                        f"{raw.where} ends neither terminated nor truncated: have unfinished episodes truncated or "
                        "dropped (--unfinished truncate or drop), or mend the flags"
                    )
                if unfinished == "drop":
                    dropped += 1
                    continue
                raw = raw._replace(truncated=True)
            episode, was_repeated = _episode(raw, observation_space, action_space)
            repeated += was_repeated
            writer.add(episode, raw.where)
        if inferred:
            writer.about["inferred_from_the_data"] = inferred
        if repeated:
            writer.about["final_observation_repeated"] = repeated
        if dropped:
            writer.about["unfinished_episodes_dropped"] = dropped
    return EpisodeDataset.open(folder)


def parts_of(log: Mapping[str, Any], where: str, way_out: str = "") -> dict[str, Any]:
    """The parts of a log under their own names (`ALIASES`): observations, actions, rewards and what else it has.

    Flat names such as `observations.image` or `observations/image` become a dict. Entries whose names begin with
    `infos` or `metadata` are left out. Raises UserError for a part that is missing, there twice or unknown; of the
    last, `way_out` says what else may be done.
    """
    own = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    parts: dict[str, Any] = {}
    for key, value in log.items():
        head, _, rest = str(key).replace("/", ".").partition(".")
        if head in LEFT_OUT:
            continue
        if head in ("done", "dones"):
            raise UserError(
                f"{where} has the unknown part '{key}': name it terminated where the task was over, truncated where it "
                "was cut off"
            )
        if head not in own:
            raise UserError(f"{where} has the unknown part '{key}': {nearest(head, own)}{way_out}")
        name = own[head]
        if rest and isinstance(parts.setdefault(name, {}), dict) and rest not in parts[name]:
            parts[name][rest] = value
        elif rest or name in parts:
            raise UserError(f"{where} has {name} twice, as '{key}' and under another name: give them once")
        else:
            parts[name] = value
    missing = [name for name in ("observations", "actions", "rewards") if name not in parts]
    if missing:
        raise UserError(f"{where} has no {missing[0]}: give them under one of the names {list(ALIASES[missing[0]])}")
    if not {"terminated", "truncated"} & set(parts):
        raise UserError(f"{where} has neither terminated nor truncated, so no episode ends: give one or both")
    return parts


def with_arrays(parts: dict[str, Any], source: str) -> dict[str, Any]:
    """Flat parts whose leaves all have a shape; those that have one already are not read."""

    def arrays(tree: Tree, name: str) -> Tree:
        if not isinstance(tree, dict | tuple):
            return tree if hasattr(tree, "shape") else as_array(tree, f"{source}: {name}")
        if "observations" not in name or not tree:
            raise UserError(f"{source}: {name} has {len(tree)} parts: give one array")
        if isinstance(tree, dict):
            return {key: arrays(child, f"{name}.{key}") for key, child in tree.items()}
        return tuple(arrays(child, f"{name}.{k}") for k, child in enumerate(tree))

    return {name: arrays(tree, name) for name, tree in parts.items()}


def check_lengths(parts: dict[str, Any], source: str) -> int:
    """The number of rows of flat parts [R, ...]. Raises UserError where they differ, or there are none."""
    rewards = as_array(parts["rewards"], f"{source}: rewards")
    num_rows = len(rewards) if rewards.ndim else 0
    if num_rows == 0:
        raise UserError(f"{source} has no rows: there is nothing to learn from; log at least one episode")
    for name, tree in parts.items():
        for path, leaf in tree_flatten(tree, name).items() if name != "final_observations" else ():
            shape: tuple[int, ...] = tuple(np.shape(leaf))
            if not shape or shape[0] != num_rows:
                found = f"{shape[0]} rows" if shape else "no rows"
                raise UserError(f"{source}: {path} has {found}, rewards have {num_rows}: give a row for each decision")
    return num_rows


def flags_of(values: Any, name: str, where: str) -> np.ndarray:
    """A flag's values as bools [T]: they may be bools, or the numbers 0 and 1."""
    array = as_array(values, f"{where}: {name}")
    if array.dtype == bool and array.ndim < 2:
        return array
    good = (array == 0) | (array == 1)
    if array.ndim > 1 or not good.all():
        found = f"{array[~good].flat[0]}" if array.ndim < 2 else f"an array of shape {list(array.shape)}"
        raise UserError(f"{where}: {name} holds {found}: give true or false (1 or 0), one for each decision")
    return array.astype(bool)


def ends_of(values: Any, shape: tuple[int, ...], name: str, where: str) -> bool:
    """Whether an episode's flag is set at its end: `values` are [T], as `shape` says, or one for the whole episode."""
    flags = flags_of(values, name, where)
    if flags.ndim == 0:
        return bool(flags)
    if flags.shape != shape:
        raise UserError(f"{where}: {name} has {len(flags)} rows, rewards {list(shape)}: give one for each decision")
    early = np.flatnonzero(flags[:-1])
    if len(early):
        raise UserError(f"{where}, row {early[0]}: {name} in the middle of the episode: let it end there")
    return bool(flags.any())


def flat_episodes(parts: dict[str, Any], starts: np.ndarray, where: Callable[[int], str]) -> Iterator[RawEpisode]:
    """The episodes of flat parts [R, ...]; `starts` [N + 1] has their first rows, `where` names them."""
    final = parts.get("final_observations")
    for k in range(len(starts) - 1):
        rows, place = slice(int(starts[k]), int(starts[k + 1])), where(k)
        cut = {name: _sliced(tree, rows) for name, tree in parts.items() if name != "final_observations"}
        observation = cut["observations"]
        if "next_observations" in cut:
            observation = _followed(observation, cut["next_observations"], place)
        elif final is not None:
            _same_structure(observation, final, place)
            observation = _appended(observation, _sliced(final, slice(k, k + 1)), place)
        shape = (rows.stop - rows.start,)
        terminated, truncated = (ends_of(cut.get(f, False), shape, f, place) for f in ("terminated", "truncated"))
        yield RawEpisode(observation, cut["actions"], cut["rewards"], terminated, truncated, place)


def _sliced(tree: Tree, rows: slice) -> Tree:
    return tree_map(lambda leaf: np.asarray(leaf[rows]), tree)


def _followed(observation: Tree, following: Tree, where: str) -> Tree:
    """The T observations and the last of the T following ones, which have to be the next rows' own."""
    _same_structure(observation, following, where)
    for path, leaf in tree_flatten(observation).items():
        here, after = np.asarray(leaf), np.asarray(tree_flatten(following)[path])
        if here.shape != after.shape:
            shapes = list(here.shape[1:]), list(after.shape[1:])
            raise UserError(f"{where}: observations have the shape {shapes[0]}, next ones {shapes[1]}: give the same")
        differ = np.argwhere((here[1:] != after[:-1]) & (here[1:] == here[1:]))  # NaN is refused when it is written
        if len(differ):
            raise UserError(
                f"{where}, row {differ[0][0]}: next_observations is not the observation of the next row: give the rows "
                "in the order of time, or leave next_observations out"
            )
    return _appended(observation, _sliced(following, slice(-1, None)), where)


def _same_structure(observation: Tree, other: Tree, where: str) -> None:
    if _keys(observation) != _keys(other):
        keys = _keys(observation), _keys(other)
        raise UserError(f"{where}: observations have the keys {keys[0]}, the final ones {keys[1]}: give the same")


def _keys(tree: Tree) -> list[str]:
    """The paths of a tree's leaves."""
    return sorted(tree_flatten(tree)) if isinstance(tree, dict | tuple) else ["(one array)"]


def _appended(observation: Tree, last: Tree, where: str) -> Tree:
    def append(leaf: np.ndarray, end: np.ndarray) -> np.ndarray:
        if leaf.shape[1:] != end.shape[1:]:
            shapes = list(leaf.shape[1:]), list(end.shape[1:])
            raise UserError(f"{where}: observations have the shape {shapes[0]}, the final one {shapes[1]}: give one")
        return np.concatenate([leaf, end])

    return tree_map(append, observation, last)


def infer_spaces(
    episodes: Iterator[RawEpisode], observation_space: gym.Space | None = None, action_space: gym.Space | None = None
) -> tuple[gym.Space, gym.Space]:
    """The spaces of observations and actions: those that are given, else the smallest that hold what all episodes have.

    Raises UserError where there are no episodes, one is empty, or has other parts than those before; and for actions of
    several parts, whose choices no numbers tell from amounts.
    """
    observation: Tree = None
    action: Any = None
    is_empty = True
    for raw in episodes:
        is_empty = False
        if np.size(raw.reward) == 0:
            raise UserError(f"{raw.where} is empty: leave out episodes without a decision")
        if observation_space is None:
            observation = _joined(observation, raw.observation, f"{raw.where}: observation")
        if action_space is None and isinstance(raw.action, dict | tuple):
            raise UserError(f"{raw.where}: action has several parts: give their space (--env), or one array of actions")
        if action_space is None:
            action = _joined(action, raw.action, f"{raw.where}: action")
    if is_empty:
        raise UserError("there are no episodes: there is nothing to learn from; log at least one")
    return (
        _space(observation, "observation") if observation_space is None else observation_space,
        _space(action, "action") if action_space is None else action_space,
    )


@dataclass(frozen=True)
class _Range:
    """What a leaf's values were so far: `kind` is 0 for bool, 1 for bytes, 2 for other integers, 3 for floats."""

    kind: int
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray


def _joined(so_far: Tree, values: Tree, what: str) -> Tree:
    """The ranges `so_far`, None before the first episode, widened by the `values` of an episode."""
    ranges = tree_map(lambda leaf: _range(leaf, what), values)
    if so_far is None:
        return ranges

    def widened(old: Any, new: _Range) -> _Range:
        if old.shape != new.shape:
            raise UserError(f"{what} has the shape {list(new.shape)} in a row, and {list(old.shape)} before: give one")
        low, high = np.minimum(old.low, new.low), np.maximum(old.high, new.high)
        return _Range(max(old.kind, new.kind), old.shape, low, high)

    if _keys(so_far) != _keys(ranges):
        raise UserError(
            f"{what} has the keys {_keys(ranges)}, and {_keys(so_far)} in the episodes before: give the same in all"
        )
    return tree_map(widened, so_far, ranges)


def _numbers(values: Any, what: str) -> np.ndarray:
    array = as_array(values, what)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} is {array.max()}, beyond what int64 holds: give smaller numbers, or floats")
    return array


def _range(values: Any, what: str) -> _Range:
    array = _numbers(values, what)
    if array.ndim == 0:
        raise UserError(f"{what} is one number: give one row for each decision")
    if array.dtype.kind == "f":  # what is not finite is reported when it is written
        finite = np.isfinite(array)
        low, high = array.min(0, where=finite, initial=np.inf), array.max(0, where=finite, initial=-np.inf)
    else:
        low, high = array.min(0), array.max(0)
    exact = np.float64 if array.dtype.kind == "f" else np.int64
    low, high = np.asarray(low, dtype=exact), np.asarray(high, dtype=exact)
    kind = 1 if array.dtype == np.uint8 else {"b": 0, "u": 2, "i": 2, "f": 3}[array.dtype.kind]
    return _Range(kind, array.shape[1:], low, high)


def _space(ranges: Tree, name: str) -> gym.Space:
    """Bytes are images or the like; other integers are categories, unless they are too many for that.

    Of an observed array's entry that is more than 256, of one number and of actions more than `MOST_CATEGORIES`.
    """
    if isinstance(ranges, dict):
        return gym.spaces.Dict({key: _space(child, f"{name}.{key}") for key, child in ranges.items()})
    if isinstance(ranges, tuple):
        return gym.spaces.Tuple([_space(child, f"{name}.{k}") for k, child in enumerate(ranges)])
    kind, shape, low, high = ranges.kind, ranges.shape, ranges.low, ranges.high
    empty = low > high  # nothing finite
    low, high = np.where(empty, 0, low), np.where(empty, 0, high)
    if name == f"observation.{ACTION_MASK}" or (kind == 0 and shape):
        return gym.spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == 3:
        low, high = (bound.reshape(shape or 1).astype(np.float32) for bound in (low, high))
        return gym.spaces.Box(low, high)
    if kind == 1 and name != "action":
        return gym.spaces.Box(0, 255, shape, np.uint8)
    if name == "action" and (low < 0).any():
        raise UserError(f"the smallest action is {int(low.min())}: count discrete actions from 0, or give their space")
    highest = int(high.max(initial=0))
    if name == "action" and highest >= MOST_CATEGORIES:
        raise UserError(f"the largest action is {highest}: number the actions from 0 without gaps, or give their space")
    if (low < 0).any() or highest >= (256 if shape and name != "action" else MOST_CATEGORIES):
        low, high = (bound.reshape(shape or 1).astype(np.int64) for bound in (low, high))
        return gym.spaces.Box(low, high, dtype=np.int64)
    return gym.spaces.MultiDiscrete(high.astype(np.int64) + 1) if shape else gym.spaces.Discrete(int(high) + 1)


def one_line(error: Exception) -> str:
    """What another package raised, without its line ends."""
    return " ".join(str(error).split()) or type(error).__name__


def _episode(raw: RawEpisode, observation_space: gym.Space, action_space: gym.Space) -> tuple[Episode, bool]:
    """The episode as agents see it, and whether its final observation is only the last one again."""
    observation = _adapted(raw.observation, observation_space, f"{raw.where}: observation")
    action = _adapted(raw.action, action_space, f"{raw.where}: action")
    reward = as_array(raw.reward, f"{raw.where}: reward")
    repeated = 0 < len(np.atleast_1d(next(tree_leaves(observation), np.zeros(0)))) == np.size(reward)
    if repeated:
        observation = tree_map(lambda leaf: np.concatenate([leaf, leaf[-1:]]), observation)
    return Episode(observation, action, reward, raw.terminated, raw.truncated), repeated


def _adapted(values: Tree, space: gym.Space, what: str) -> Tree:
    """`values` in the environment's units as agents see them, where they fit the space; else as they are."""
    if isinstance(space, gym.spaces.Dict) and isinstance(values, dict):
        known = space.spaces
        return {k: _adapted(v, known[k], f"{what}.{k}") if k in known else v for k, v in values.items()}
    if isinstance(space, gym.spaces.Tuple) and isinstance(values, list | tuple) and len(values) == len(space.spaces):
        return tuple(_adapted(v, child, f"{what}.{k}") for k, (v, child) in enumerate(zip(values, space, strict=True)))
    if isinstance(values, dict | tuple):
        return values
    array = _numbers(values, what)
    shape = space.shape or ()
    if array.shape[1:] != shape and array.ndim and np.prod(array.shape[1:]) == np.prod(shape) == 1:
        array = array.reshape(len(array), *shape)  # one number is a scalar to some, a vector to others
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete) and np.any(space.start):
        return array - space.start
    if space.dtype == np.uint8 and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return array
