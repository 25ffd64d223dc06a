"""Running statistics against numpy over all rows at once."""

import math

import numpy as np
import pytest
import torch

from seqrl.errors import UserError
from seqrl.nets import RewardScale, RunningNorm


# Breaks if the term `old * new * delta²` is left out of the merged variance, or `mean` moves by `delta * old`.
@pytest.mark.parametrize("sizes", [(7,), (1, 1, 1), (3, 0, 11, 1, 50)])
def test_running_norm_equals_numpy(sizes):
    rows = torch.randn(sum(sizes), 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 50.0, -3.0])
    norm = RunningNorm(3)
    for chunk in rows.split(sizes):
        norm.update(chunk)
    expected = rows.double().numpy()
    np.testing.assert_allclose(norm.mean, expected.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.variance, expected.var(0), rtol=1e-3, atol=1e-6)
    z = (expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-8)
    np.testing.assert_allclose(norm(rows), z.clip(-10, 10), rtol=1e-2, atol=1e-2)


def test_running_norm_before_the_first_update_and_far_out():
    norm = RunningNorm(2)
    assert torch.equal(norm(torch.tensor([0.5, -99.0])), torch.tensor([0.5, -10.0]))
    norm.update(torch.ones(5, 2))  # without spread
    assert torch.equal(norm(torch.ones(2)), torch.zeros(2))


def scale_by_numpy(chunks, gamma):
    """The scaled rewards of each chunk: all returns so far, from lists, and their standard deviation."""
    seen, scaled, returns = [], [], np.zeros(chunks[0][0].shape[1])
    for reward, is_first, mask in chunks:
        for t, b in np.ndindex(*reward.shape):
            if mask[t, b]:
                returns[b] = reward[t, b] if is_first[t, b] else gamma * returns[b] + reward[t, b]
                seen.append(returns[b])
        scaled.append((reward / np.sqrt(np.var(seen) + 1e-8)).clip(-10, 10))
    return scaled


# Breaks if the return is not begun anew at `is_first`, is lost at masked rows (as those that fill up a column, in the
# midst of an episode) or between rollouts, or if masked rows enter the statistics.
def test_reward_scale_equals_numpy():
    generator = np.random.default_rng(0)
    chunks = []
    for num_steps in (7, 5, 7):
        reward = generator.normal(3.0, 5.0, (num_steps, 4)).astype(np.float32)
        is_first, mask = generator.random((2, num_steps, 4)) < np.array([0.2, 0.8])[:, None, None]
        chunks.append((np.where(mask, reward, 0), is_first, mask))
    scale = RewardScale(4, 0.9)
    for chunk, expected in zip(chunks, scale_by_numpy(chunks, 0.9), strict=True):
        np.testing.assert_allclose(scale(*(torch.from_numpy(leaf) for leaf in chunk)), expected, rtol=1e-4, atol=1e-5)


# Breaks if the mean is subtracted, or the clip is left out.
def test_reward_scale_shifts_nothing_and_clips():
    scale = RewardScale(1, 0.0)
    reward = torch.tensor([1.0, 3.0] * 500 + [1e3])[:, None]
    rows = torch.ones_like(reward, dtype=torch.bool)
    std = reward.std(correction=0)
    scaled = scale(reward, rows, rows)
    torch.testing.assert_close(scaled[:2], reward[:2] / std)
    assert scaled[-1] == 10.0


# Breaks if rewards are counted that lie in no episode, signs cancel, or the sum that is cut counts: 0.86 for one size.
def test_what_the_clip_moves():
    scale = RewardScale(1, 0.0)  # before its first update it divides by 1
    reward = torch.tensor([1.0, -1.0] * 5 + [-20.0, 1e6])[:, None]
    mask = torch.ones_like(reward, dtype=torch.bool)
    mask[-1] = False
    # Of 20 that are left of 30, 10 are the large one's, and were 20 of 30.
    assert scale.clipped(reward, mask).item() == pytest.approx(20 / 30 - 10 / 20, rel=1e-5)
    one_size = torch.tensor([0.0, 70.0, -70.0])[:, None]
    assert scale.clipped(one_size, torch.ones_like(one_size, dtype=torch.bool)).item() == 0
    assert scale.clipped(torch.zeros(3, 1), mask[:3]).item() == 0


# Breaks if the variance is taken in as it comes: NaN would stay in it, and the learning rate be blamed.
@pytest.mark.parametrize("rows", [[[0.0, 0.0], [0.0, 1e30]], [[0.0, 1e20], [0.0, 1e20]], [[0.0, math.nan]]])
def test_what_cannot_be_standardised_is_named(rows):
    norm = RunningNorm(2)
    with pytest.raises(UserError, match=r"^entry 1 of the observations, or the reward, is NaN or too large"):
        norm.update(torch.tensor(rows))
    assert norm.variance.tolist() == [1.0, 1.0]
