"""Minari's datasets, read and written, and D4RL's HDF5 files. The one file that imports minari and h5py.

Minari (https://minari.farama.org) keeps the public datasets for offline RL, D4RL's among them.
"""

import contextlib
import json
import shutil
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.actions import to_environment
from seqrl.data.episodes import EpisodeDataset
from seqrl.data.raw_episodes import RawEpisode, Unfinished, ends_of, one_line, write_dataset
from seqrl.envs.agent_spaces import agent_space
from seqrl.errors import UserError
from seqrl.spaces import difference
from seqrl.trajectory import Tree, tree_map

MINARI = "minari:"


def from_minari(
    folder: str | Path,
    dataset: str | Path,
    *,
    observation_space: gym.Space | None = None,
    action_space: gym.Space | None = None,
    unfinished: Unfinished = "error",
    about: dict[str, Any] | None = None,
) -> EpisodeDataset:
    """The dataset of a Minari dataset that is on this machine: its id, or the path of its folder.

    The spaces are the dataset's own, the parts of a Dict action as they were when it was written; those of the
    environment, if given, have to be the same by name, and their order is taken: Minari sorts keys where it combines
    datasets. The environment's id, where known, becomes `about["env"]`.

    Raises UserError where minari is not installed, the dataset is not there or damaged, its spaces are not supported,
    or not those that are given.
    """
    minari = _minari()
    source = f"{MINARI}{dataset}"
    try:
        path = Path(dataset) / "data" if (Path(dataset) / "data").is_dir() else Path(dataset)
        data = minari.MinariDataset(path) if path.is_dir() else minari.load_dataset(str(dataset))
    except FileNotFoundError:
        raise UserError(
            f"{source} is not on this machine: download it with `minari download {dataset}`, or give its folder"
        ) from None
    except Exception as error:  # whatever its files, or the packages that read their format, raise
        raise UserError(f"{source} cannot be read ({one_line(error)}): give a Minari dataset") from None
    logged = {"observation": data.observation_space, "action": _action_space(data)}
    for name, space in (("observation", observation_space), ("action", action_space)):
        if space is not None:
            if wrong := difference(agent_space(logged[name], name), agent_space(space, name), name):
                raise UserError(
                    f"{source} was logged in another environment: {wrong}; give that one, or none for its own spaces"
                )
            logged[name] = space

    def episodes() -> Iterator[RawEpisode]:
        number = 0
        try:
            for episode in data.iterate_episodes():
                where, shape = f"{source}, episode {episode.id}", np.shape(episode.rewards)
                terminated = ends_of(episode.terminations, shape, "terminations", where)
                truncated = ends_of(episode.truncations, shape, "truncations", where)
                yield RawEpisode(episode.observations, episode.actions, episode.rewards, terminated, truncated, where)
                number += 1
        except (OSError, KeyError, AssertionError, RuntimeError) as error:
            raise UserError(f"{source} is damaged at episode {number} ({one_line(error)}): download it again") from None

    return write_dataset(
        folder,
        episodes,
        observation_space=logged["observation"],
        action_space=logged["action"],
        unfinished=unfinished,
        about={"source": source} | _environment(data) | (about or {}),
    )


def to_minari(dataset: EpisodeDataset, dataset_id: str, *, env: str | None = None) -> Any:
    """Write a dataset's episodes as the Minari dataset `dataset_id` (`namespace/name-v0`), and return that.

    Its `about` becomes the description. Images are stored as they are: Minari would make them JPEGs. With `env`, the
    Minari dataset knows its Gymnasium environment.

    Raises UserError where minari is not installed, the id is taken or malformed, or the episodes cannot be written.
    """
    minari = _minari()
    spaces = dataset.observation_space, dataset.action_space

    def buffers() -> Iterator[Any]:
        for k in range(dataset.num_episodes):
            episode = dataset.episode(k)
            flags = np.zeros((2, len(episode.reward)), dtype=bool)
            flags[:, -1] = episode.terminated, episode.truncated
            yield minari.data_collector.EpisodeBuffer(
                id=k,
                observations=_in_own_units(episode.observation, spaces[0]),
                actions=to_environment(episode.action, spaces[1]),
                rewards=episode.reward,
                terminations=flags[0],
                truncations=flags[1],
            )

    path = Path(minari.storage.datasets_root_dir.get_dataset_path(dataset_id))
    existed = path.exists()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has no author, no permalink and so on, a warning each
            return minari.create_dataset_from_buffers(
                dataset_id,
                buffers(),  # one at a time, so that memory does not grow
                env=env,
                observation_space=spaces[0],
                action_space=spaces[1],
                description=json.dumps(dataset.about),
                jpeg_encoding=False,
            )
    except BaseException as error:  # Minari's are of many kinds
        if not existed:  # half of it would be there
            shutil.rmtree(path, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        raise UserError(
            f"cannot write {dataset.folder} as the Minari dataset '{dataset_id}' ({one_line(error)}): give a new id "
            "such as name-v0"
        ) from None


@contextlib.contextmanager
def open_d4rl(path: Path) -> Iterator[dict[str, Any]]:
    """The arrays of an HDF5 file by their paths in it, which are read when they are sliced."""
    try:
        import h5py
    except ImportError:
        raise UserError(f'{path} needs h5py: pip install "seqrl[offline]"') from None
    arrays: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
            yield arrays
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} is damaged or no HDF5 file ({one_line(error)}): download it again") from None


def _minari() -> ModuleType:
    try:
        import minari
        import minari.data_collector
        import minari.storage.datasets_root_dir
    except ImportError:
        raise UserError('Minari datasets need minari: pip install "seqrl[offline]"') from None
    return minari


def _action_space(data: Any) -> gym.Space:
    """The action space of a Minari dataset in the order in which it was written: where Minari reads, it sorts keys."""

    def ordered(space: Any, stored: dict[str, Any]) -> gym.Space:
        inner: Any = stored.get("subspaces")
        if isinstance(space, gym.spaces.Dict):
            return gym.spaces.Dict(OrderedDict((key, ordered(space[key], child)) for key, child in inner.items()))
        if isinstance(space, gym.spaces.Tuple):
            return gym.spaces.Tuple([ordered(*pair) for pair in zip(space, inner, strict=True)])
        return space

    stored = data.storage.read_raw_metadata(data.storage.data_path).get("action_space")  # else it is the environment's
    return ordered(data.action_space, json.loads(stored)) if stored else data.action_space


def _environment(data: Any) -> dict[str, Any]:
    """What is known of where a Minari dataset comes from, as `about` has it."""
    known: dict[str, Any] = {"minari_id": data.id}
    if data.env_spec is not None:
        known["env"], known["env_kwargs"] = data.env_spec.id, []
        for key, value in data.env_spec.kwargs.items():
            try:
                known["env_kwargs"].append(f"{key}={json.dumps(value)}")
            except (TypeError, ValueError):  # an object, which no text could give back
                known.setdefault("env_kwargs_left_out", []).append(key)
    return known


def _in_own_units(values: Tree, space: gym.Space) -> Tree:
    """What agents see, as the environment gives it: discrete values count from the space's `start` again."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _in_own_units(values[key], child) for key, child in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_in_own_units(value, child) for value, child in zip(values, space.spaces, strict=True))
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return tree_map(lambda leaf: leaf + space.start, values)
    return np.asarray(values)
