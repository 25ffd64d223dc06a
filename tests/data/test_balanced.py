"""Windows drawn from all bins of return equally often."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.errors import UserError
from seqrl.trajectory import tree_flatten

RETURNS = [0.0, 0.0, 1.0, 0.0, 0.2, 0.0, 0.0, 0.5]


@pytest.fixture
def dataset(tmp_path):
    """Episode k has 2 + k decisions, shows k in all rows, and brings RETURNS[k] at its end."""
    spaces = gym.spaces.Box(-np.inf, np.inf, (1,)), gym.spaces.Discrete(2)
    with EpisodeWriter(tmp_path / "log", *spaces, about={}) as writer:
        for k, total in enumerate(RETURNS):
            reward = np.zeros(2 + k, np.float32)
            reward[-1] = total
            writer.add(Episode(np.full((3 + k, 1), k, np.float32), np.zeros(2 + k, np.int64), reward, True, False))
    return EpisodeDataset.open(tmp_path / "log")


def episodes_of(windows):
    return windows.inputs.observation[0, :, 0].long()


def share(dataset, num_windows=20_000, length=4):
    """Of each episode among drawn windows."""
    drawn = episodes_of(dataset.windows(num_windows, length, torch.Generator().manual_seed(0)))
    return drawn.bincount(minlength=len(RETURNS)).double().numpy() / num_windows


# Breaks if a bin is drawn in proportion to its episodes, or an episode within it as often as any other.
@pytest.mark.parametrize(
    ("num_bins", "bins"),
    [(2, [[0, 1, 3, 4, 5, 6, 7], [2]]), (3, [[0, 1, 3, 4, 5, 6], [7], [2]]), (10, [[0, 1, 3, 5, 6], [4], [7], [2]])],
)
def test_bins_are_drawn_equally_and_places_within_them(dataset, num_bins, bins):
    """The return ½ of two bins lies in the lower; six of ten bins hold nothing, and take nothing from the rest."""
    expected, length = np.zeros(len(RETURNS)), 4
    for episodes in bins:
        places = np.array([2 + k + length - 1 for k in episodes])
        expected[episodes] = places / places.sum() / len(bins)
    # Four standard deviations of a share of ¼ among 20,000: no seed was chosen for this.
    np.testing.assert_allclose(share(dataset.balanced(num_bins), length=length), expected, atol=0.0125)


def test_windows_are_those_of_the_episode(dataset):
    """What a window shows does not depend on how it was drawn."""
    windows = dataset.balanced(3).windows(200, 4, torch.Generator().manual_seed(1))
    episode, start = episodes_of(windows).numpy(), windows.timestep[0].numpy()
    begun = start > 0  # those that begin before their episode do not say where
    assert 20 < begun.sum() < 180
    again = dataset.windows_at(episode[begun], start[begun], 4)
    for a, b in zip(tree_flatten(tuple(windows)).values(), tree_flatten(tuple(again)).values(), strict=True):
        assert torch.equal(a[:, torch.from_numpy(begun)], b)


def test_one_bin_or_one_return_is_every_decision_equally_often(dataset):
    lengths = np.array([2 + k + 3 for k in range(len(RETURNS))])
    alike = dataset.subset(np.array([0, 1, 3]))  # all bring 0
    np.testing.assert_allclose(share(dataset.balanced(1)), lengths / lengths.sum(), atol=0.0125)
    of_three = np.where(np.isin(np.arange(len(RETURNS)), [0, 1, 3]), lengths, 0)
    np.testing.assert_allclose(share(alike.balanced(5)), of_three / of_three.sum(), atol=0.0125)


# Breaks if `subset` keeps the bins of the dataset that it is of.
def test_a_subset_of_a_balanced_dataset_is_its_own(dataset):
    assert set(np.flatnonzero(share(dataset.balanced(2).subset(np.array([0, 1]))))) == {0, 1}
    held_out = dataset.balanced(2).split(0.25, 0)[1]
    assert np.count_nonzero(share(held_out)) == held_out.num_episodes == 2


def test_equal_generators_draw_equal_windows_and_others_do_not(dataset):
    balanced = dataset.balanced(2)
    one, two, other = (balanced.windows(64, 3, torch.Generator().manual_seed(s)).timestep for s in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_no_bins_are_refused(dataset):
    with pytest.raises(UserError, match="0 bins of returns: give at least 1"):
        dataset.balanced(0)
