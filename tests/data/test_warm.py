"""Pages of a log that are mapped before they are drawn from."""

import mmap
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.data import Episode, EpisodeDataset, EpisodeWriter, episode_files
from seqrl.trajectory import tree_flatten


def maps_at_once() -> bool:
    try:
        mmap.mmap(-1, 4096).madvise(episode_files.MADV_POPULATE_READ)
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(sys.platform != "linux" or not maps_at_once(), reason="needs Linux 5.14")


@pytest.fixture
def dataset(tmp_path):
    """16 MB: 40 episodes of 1,000 decisions, 100 numbers observed."""
    spaces = gym.spaces.Box(-np.inf, np.inf, (100,)), gym.spaces.Discrete(2)
    random = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "log", *spaces, about={}) as writer:
        for _ in range(40):
            observation = random.standard_normal((1001, 100), np.float32)
            writer.add(Episode(observation, np.zeros(1000, np.int64), np.zeros(1000, np.float32), False, True))
    return EpisodeDataset.open(tmp_path / "log")


def mapped_bytes(path):
    """Of the file, what this process has mapped: `Rss` in the list of its mappings."""
    with open("/proc/self/smaps") as file:
        lines = file.read().splitlines()
    here = next(k for k, line in enumerate(lines) if line.endswith(str(path)))
    return 1024 * next(int(line.split()[1]) for line in lines[here:] if line.startswith("Rss:"))


# Breaks if `populate` leaves out the call, or `mapping` does not find the file below the array.
def test_warm_maps_every_page_and_draws_stay_the_same(dataset):
    path = dataset.folder / "rows.bin"
    size = path.stat().st_size
    before = dataset.windows(8, 5, torch.Generator().manual_seed(0))
    assert mapped_bytes(path) < size / 2
    dataset.subset(np.array([3])).warm()
    assert mapped_bytes(path) >= size
    after = dataset.windows(8, 5, torch.Generator().manual_seed(0))
    for a, b in zip(tree_flatten(tuple(before)).values(), tree_flatten(tuple(after)).values(), strict=True):
        assert torch.equal(a, b)


def test_logs_that_are_large_for_the_machine_are_left_alone(dataset, monkeypatch):
    path = dataset.folder / "rows.bin"
    monkeypatch.setattr(episode_files, "_memory", lambda: 3 * path.stat().st_size)
    dataset.warm()
    assert mapped_bytes(path) < path.stat().st_size / 2


def test_arrays_in_memory_have_nothing_to_map(dataset):
    rows = np.arange(1001)
    dataset.rearranged(rows, np.array([1000])).warm()
    assert mapped_bytes(dataset.folder / "rows.bin") < (dataset.folder / "rows.bin").stat().st_size / 2
