"""The sum tree against its definition."""

import pytest
import torch

from seqrl.data.sum_tree import FAN_OUT, SumTree


@pytest.mark.parametrize("num_leaves", [1, 2, FAN_OUT, FAN_OUT + 1, FAN_OUT**2 + 3])
def test_sums_stay_exact(num_leaves):
    """Broken by `value = level[index].sum(1)` adding to the old sum instead."""
    generator = torch.Generator().manual_seed(0)
    tree, expected = SumTree(num_leaves), torch.zeros(num_leaves, dtype=torch.float64)
    for _ in range(20):
        index = torch.randperm(num_leaves, generator=generator)[: 1 + num_leaves // 3]
        value = torch.rand(len(index), generator=generator, dtype=torch.float64)
        tree.set(index, value)
        expected[index] = value
    assert torch.equal(tree.leaves, expected)
    assert tree.total == pytest.approx(expected.sum().item(), rel=1e-12)


@pytest.mark.parametrize("num_leaves", [5, 200, FAN_OUT**2 + 3])
def test_draws_are_in_proportion(num_leaves):
    """Broken by `right=True` left out together with leaves of 0, or by `rest` not reduced by `below`."""
    generator = torch.Generator().manual_seed(0)
    tree = SumTree(num_leaves)
    value = torch.rand(num_leaves, generator=generator) * (torch.rand(num_leaves, generator=generator) < 0.5)
    value[1] = 3.0
    tree.set(torch.arange(num_leaves), value)
    index, probability = tree.sample(200_000, generator)
    found = torch.bincount(index, minlength=num_leaves) / 200_000
    expected = value.double() / value.double().sum()
    assert (found[value == 0] == 0).all()
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0.05)  # stratified: far below 1 / √200,000
    assert torch.allclose(probability, expected[index])


def test_a_batch_is_spread_over_the_priorities():
    """Broken by draws that are not stratified: of 100 equal leaves each is drawn exactly once."""
    tree = SumTree(100)
    tree.set(torch.arange(100), torch.ones(100))
    index, _ = tree.sample(100, torch.Generator().manual_seed(0))
    assert index.sort().values.tolist() == list(range(100))


def test_extreme_priorities_never_give_an_empty_leaf():
    generator = torch.Generator().manual_seed(0)
    tree = SumTree(FAN_OUT**2)
    tree.set(torch.tensor([3, 70]), torch.tensor([1e-30, 1e30], dtype=torch.float64))
    index, _ = tree.sample(10_000, generator)
    assert set(index.tolist()) <= {3, 70}


def test_a_tree_set_at_once_equals_one_set_bit_by_bit():
    """Bit for bit, as a resumed run needs. Broken by sums that depend on how many are set together."""
    generator = torch.Generator().manual_seed(0)
    for num_leaves in (3, FAN_OUT + 1, 700, FAN_OUT**2 + 3):
        tree, again = SumTree(num_leaves), SumTree(num_leaves)
        for num in [1, 2, 3, 7, 32, 1, 5] * 20:
            index = torch.randperm(num_leaves, generator=generator)[:num]
            tree.set(index, torch.rand(len(index), generator=generator, dtype=torch.float64) ** 3)
        again.set(torch.arange(num_leaves), tree.leaves.clone())
        for one, other in zip(tree.levels, again.levels, strict=True):
            assert torch.equal(one, other)
