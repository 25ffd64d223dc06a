"""The replay of trajectories: what it keeps, how it draws, and how it is saved."""

import torch
from clock import counting_agent

from seqrl.data import Rollout, TrajectoryReplay
from seqrl.envs import make
from seqrl.trajectory import Trajectory, tree_leaves


def filled(capacity, number, seed=0):
    rollout = Rollout(make("tests/Clock-v0", 2, vectorization="sync"), counting_agent(), seed=0)
    replay = TrajectoryReplay(capacity, seed)
    for version in range(number):
        replay.add(rollout.collect(3)[0], version)
    return replay


def test_nothing_comes_out_of_an_empty_replay():
    assert TrajectoryReplay(3).sample(5, "cpu") == []


# Breaks if the newest goes where there is no room, or `randint` leaves out the last one.
def test_the_last_ones_are_drawn_uniformly():
    replay = filled(capacity=4, number=9)
    assert len(replay) == 4
    versions = torch.tensor([version for _, version in replay.sample(8_000, "cpu")])
    counts = versions.bincount()
    assert counts[:5].sum() == 0
    assert ((counts[5:] - 2_000).abs() < 200).all()  # five standard deviations


# Breaks if `sample` hands out what it keeps: a checkpoint is read to the CPU, and the fresh ones are on the device.
def test_drawn_to_the_device_that_learns():
    (trajectory, _), *_ = filled(capacity=4, number=2).sample(1, "meta")
    assert {leaf.device.type for leaf in tree_leaves(trajectory)} == {"meta"}


def test_saved_and_restored():
    """Breaks if the generator is left out, or versions go to other trajectories."""
    replay = filled(capacity=4, number=6)
    replay.sample(3, "cpu")
    other = TrajectoryReplay(4, seed=1)
    other.load_state_dict(replay.state_dict())
    drawn = zip(other.sample(20, "cpu"), replay.sample(20, "cpu"), strict=True)
    for (trajectory, version), (expected, expected_version) in drawn:
        assert version == expected_version
        assert isinstance(trajectory, Trajectory)
        assert torch.equal(trajectory.inputs.is_first, expected.inputs.is_first)
        pairs = zip(tree_leaves(trajectory), tree_leaves(expected), strict=True)
        assert all(torch.equal(leaf, other_leaf) for leaf, other_leaf in pairs)
