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
    """The inner episodes of each history in an order drawn by `seed`: they no longer show how their source learnt."""
    rng = np.random.default_rng(seed)
    return rearranged(dataset, lambda k, count: rng.permutation(count))


def rearranged(dataset: EpisodeDataset, order: Callable[[int, int], np.ndarray]) -> EpisodeDataset:
    """`dataset` with the inner episodes `order(k, n)` of each history `k`, which has `n` of them.

    A history is then as if it had been played so: the previous action and reward of an inner episode's first row are
    those of the row which now stands before it, as acting shows the last row of the agent's own inner episode before.
    The rows that are kept, no others, are copied to memory, in their order; the history's final row and flags stay.
    """
    rows, lengths = [], []
    for k in range(dataset.num_episodes):
        first, length = int(dataset.starts[k]), int(dataset.lengths[k])
        starts = inner_starts(dataset, k)
        ends = np.append(starts[1:], length)
        kept = [np.arange(starts[i], ends[i]) for i in order(k, len(starts))]
        rows.append(first + np.concatenate([*kept, [length]]))
        lengths.append(len(rows[-1]) - 1)
    return dataset.rearranged(np.concatenate(rows), np.array(lengths, dtype=np.int64))
