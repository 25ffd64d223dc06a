"""Learning histories: logged trials whose inner episodes are thinned out or shuffled before they are learnt from."""

from collections.abc import Callable

import numpy as np

from seqrl.data.episodes import EpisodeDataset
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError


def check_histories(dataset: EpisodeDataset) -> None:
    """Raise UserError unless each logged episode is a history: its observation marks inner episodes, from row 0 on."""
    observation = dataset.observation
    if not (isinstance(observation, dict) and EPISODE_START in observation):
        raise UserError(
            f"{dataset.folder} holds no learning histories (no '{EPISODE_START}' in its observations): "
            "log trials, such as seqrl/DarkRoom-v0, by seqrl collect, or training by seqrl train ppo --record"
        )
    late = np.flatnonzero(observation[EPISODE_START][dataset.starts[:-1]] != 1)
    if len(late):
        raise UserError(
            f"history {late[0]} of {dataset.folder} does not begin with an inner episode ('{EPISODE_START}' is 0 in "
            "its first row): log whole histories"
        )


def inner_starts(dataset: EpisodeDataset, k: int) -> np.ndarray:
    """The first decision of each inner episode of history `k`, counted from the history's own first row."""
    first = int(dataset.starts[k])
    return np.flatnonzero(dataset.observation[EPISODE_START][first : first + int(dataset.lengths[k])] == 1)


def inner_episodes(dataset: EpisodeDataset, k: int) -> list[np.ndarray]:
    """The rows of each inner episode of history `k`, counted as `dataset.starts` is."""
    first, length = int(dataset.starts[k]), int(dataset.lengths[k])
    return np.split(np.arange(first, first + length), inner_starts(dataset, k)[1:])


def strided(dataset: EpisodeDataset, stride: int) -> EpisodeDataset:
    """Every `stride`-th inner episode of each history, the first among them: a source that learns `stride` × faster.

    Source: Laskin et al. 2022 (Algorithm Distillation, arXiv 2210.14215), section 4.3, where histories are subsampled.
    Raises UserError for a stride below 1, or one that leaves a history only its first inner episode.
    """
    if stride < 1:
        raise UserError(f"--episode-stride is {stride}: it must be at least 1")

    def every(k: int, count: int) -> np.ndarray:
        if 1 < count <= stride:
            raise UserError(
                f"--episode-stride {stride} leaves history {k} of {dataset.folder} one of its {count} inner episodes: "
                "choose a smaller stride"
            )
        return np.arange(0, count, stride)

    return rearranged(dataset, every)


def shuffled(dataset: EpisodeDataset, seed: int) -> EpisodeDataset:
    """The inner episodes of each history in an order drawn by `seed`: they no longer show how their source learnt.

    They still show of what task they are: what paid in one pays in the next. `exchanged` leaves nothing of that either.
    """
    rng = np.random.default_rng(seed)
    return rearranged(dataset, lambda k, count: rng.permutation(count))


def exchanged(dataset: EpisodeDataset, seed: int) -> EpisodeDataset:
    """The inner episodes of all histories dealt out to them anew, by `seed`: a history shows no task, and no learning.

    Each history has as many as before, and keeps its own final row and flags. Those that stand side by side are of the
    same task only by chance, as those of any two histories.
    """
    own = [inner_episodes(dataset, k) for k in range(dataset.num_episodes)]
    every = [rows for parts in own for rows in parts]
    dealt = iter(np.random.default_rng(seed).permutation(len(every)))
    return _made_of(dataset, [[every[next(dealt)] for _ in parts] for parts in own])


def rearranged(dataset: EpisodeDataset, order: Callable[[int, int], np.ndarray]) -> EpisodeDataset:
    """`dataset` with the inner episodes `order(k, n)` of each history `k`, which has `n` of them.

    A history is then as if it had been played so: the previous action and reward of an inner episode's first row are
    those of the row which now stands before it, as acting shows the last row of the agent's own inner episode before.
    The rows that are kept, no others, are copied to memory, in their order; the history's final row and flags stay.
    """
    own = [inner_episodes(dataset, k) for k in range(dataset.num_episodes)]
    return _made_of(dataset, [[parts[i] for i in order(k, len(parts))] for k, parts in enumerate(own)])


def _made_of(dataset: EpisodeDataset, histories: list[list[np.ndarray]]) -> EpisodeDataset:
    """`dataset` with these inner episodes, given by their rows, before each history's own final row."""
    final = dataset.starts[: dataset.num_episodes] + dataset.lengths
    rows = [np.append(np.concatenate(parts), last) for parts, last in zip(histories, final, strict=True)]
    return dataset.rearranged(np.concatenate(rows), np.array([len(each) - 1 for each in rows], dtype=np.int64))
