"""The sum tree against its definition, in NumPy and in C++."""

import pytest
import torch

from seqrl.data import sum_tree
from seqrl.data.sum_tree import SumTree

native = sum_tree.library()
needs_native = pytest.mark.skipif(native is None, reason="needs a C++ compiler")
SIZES = [1, 2, 7, 8, 9, 200, 700, 10_003]


@pytest.fixture(autouse=True, params=["numpy", pytest.param("c++", marks=needs_native)])
def computed_by(request, monkeypatch):
    monkeypatch.setattr(sum_tree, "library", lambda: None if request.param == "numpy" else native)


@pytest.fixture(params=[8, sum_tree.TOP])
def top(request, monkeypatch):
    """The highest level's size: with the smaller one, a few hundred leaves have levels above them."""
    monkeypatch.setattr(sum_tree, "TOP", request.param)


@pytest.mark.parametrize("num_leaves", SIZES)
def test_sums_stay_exact(top, num_leaves):
    """Broken by sums that are added to instead of computed anew."""
    generator = torch.Generator().manual_seed(0)
    tree, expected = SumTree(num_leaves), torch.zeros(num_leaves, dtype=torch.float64)
    for _ in range(20):
        index = torch.randperm(num_leaves, generator=generator)[: 1 + num_leaves // 3]
        value = torch.rand(len(index), generator=generator, dtype=torch.float64)
        tree.set(index, value)
        expected[index] = value
    assert torch.equal(tree.leaves, expected)
    assert tree.total == pytest.approx(expected.sum().item(), rel=1e-12)


@pytest.mark.parametrize("num_leaves", [5, 200, 10_003])
def test_draws_are_in_proportion(top, num_leaves):
    """Broken by a `rest` of which nothing is taken off, or by `leaf` without its block."""
    generator = torch.Generator().manual_seed(0)
    tree = SumTree(num_leaves)
    value = torch.rand(num_leaves, generator=generator) * (torch.rand(num_leaves, generator=generator) < 0.5)
    value[1] = 3.0
    tree.set(torch.arange(num_leaves), value)
    num = 100_000 * max(num_leaves // 1000, 2)
    index, probability = tree.sample(num, generator)
    found = torch.bincount(index, minlength=num_leaves) / num
    expected = value.double() / value.double().sum()
    assert (found[value == 0] == 0).all()
    torch.testing.assert_close(found.double(), expected, atol=4 / num, rtol=0.05)  # stratified: far below 1 / √num
    assert torch.allclose(probability, expected[index])


def test_a_batch_is_spread_over_the_priorities():
    """Broken by draws that are not stratified: of 100 equal leaves each is drawn exactly once."""
    tree = SumTree(100)
    tree.set(torch.arange(100), torch.ones(100))
    index, _ = tree.sample(100, torch.Generator().manual_seed(0))
    assert index.sort().values.tolist() == list(range(100))


# Broken by `>` for `>=` within a block.
@pytest.mark.parametrize("places", [(3, 70), (0, 1), (70, 71), (198, 199)])
@pytest.mark.parametrize("values", [(1e-30, 1e30), (1e30, 1e-30), (1.0, 1.0)])
def test_extreme_priorities_never_give_an_empty_leaf(top, places, values):
    generator = torch.Generator().manual_seed(0)
    tree = SumTree(200)
    tree.set(torch.tensor(places), torch.tensor(values, dtype=torch.float64))
    index, _ = tree.sample(10_000, generator)
    assert set(index.tolist()) <= set(places)


def test_draws_at_the_very_ends(top, monkeypatch):
    """Points 0 and total, which a rounded product may give. Broken by `nextafter` or `side` left out."""
    tree = SumTree(30)
    tree.set(torch.tensor([12, 20]), torch.tensor([1.0, 2.0]))
    for point, leaf in ((0.0, 12), (1.0, 20)):
        monkeypatch.setattr(torch, "rand", lambda num, point=point, **kwargs: torch.full((num,), point).double())
        assert tree.sample(1, torch.Generator())[0].tolist() == [leaf]


def test_a_block_that_rounding_makes_larger_than_its_leaves(monkeypatch):
    """1e16 + 3 is 1e16 + 4 in float64, so the second block seems 4 long. Broken by a `rest` that is not bounded."""
    monkeypatch.setattr(sum_tree, "TOP", 8)
    tree = SumTree(30)
    tree.set(torch.tensor([0, 12]), torch.tensor([1e16, 3.0], dtype=torch.float64))
    monkeypatch.setattr(torch, "rand", lambda num, generator, **kwargs: torch.full((num,), 1 - 2.0**-51, **kwargs))
    assert tree.sample(1, torch.Generator())[0].tolist() == [12]


def test_the_largest_value_of_an_index_given_twice_counts(top):
    """Broken by the leaves' old values left standing, or by `add` for `maximum`."""
    tree = SumTree(20)
    tree.set(torch.tensor([3, 4]), torch.tensor([9.0, 9.0]))
    tree.set(torch.tensor([3, 5, 3, 3]), torch.tensor([1.0, 7.0, 2.0, 1.5]))
    assert tree.leaves[3:6].tolist() == [2.0, 9.0, 7.0]
    assert tree.total == 18.0


def test_a_tree_set_at_once_equals_one_set_bit_by_bit():
    """Bit for bit, as a resumed run needs. Broken by sums that depend on how many are set together."""
    generator = torch.Generator().manual_seed(0)
    for num_leaves in (*SIZES, 250_000):
        tree, again = SumTree(num_leaves), SumTree(num_leaves)
        for num in [1, 2, 3, 7, 32, 1, 5] * 20:
            index = torch.randperm(num_leaves, generator=generator)[:num]
            tree.set(index, torch.rand(len(index), generator=generator, dtype=torch.float64) ** 3)
        again.set(torch.arange(num_leaves), tree.leaves.clone())
        assert torch.equal(tree.numbers, again.numbers)


# Broken by a sum in another order (`sum(1)` for `cumsum(1)[:, -1]`), or a `rest` left as it was, in one alone.
@needs_native
@pytest.mark.parametrize("num_leaves", [*SIZES, 250_000])
def test_numpy_and_cpp_agree_to_the_last_bit(num_leaves, monkeypatch):
    """Trees, draws and probabilities, over priorities of 60 orders of magnitude, a third of them 0."""
    generator = torch.Generator().manual_seed(0)
    trees = {None: SumTree(num_leaves), native: SumTree(num_leaves)}
    for num in (1, num_leaves, 5, 64, 1000):
        index = torch.randint(num_leaves, (num,), generator=generator)
        value = torch.randn(num, generator=generator, dtype=torch.float64)
        value = (value * 15).exp() * (torch.rand(num, generator=generator) < 2 / 3)
        value[0] = 1.0
        draws = []
        for library, tree in trees.items():
            monkeypatch.setattr(sum_tree, "library", lambda library=library: library)
            tree.set(index, value)
            draws.append(tree.sample(1000, torch.Generator().manual_seed(num)))
        assert torch.equal(trees[None].numbers, trees[native].numbers)
        assert all(torch.equal(*pair) for pair in zip(*draws, strict=True))
        assert (trees[None].leaves[draws[0][0]] > 0).all()


@needs_native
def test_both_languages_have_blocks_of_one_width():
    """Broken by another `WIDTH` in sum_tree.py alone, which would let C++ write beyond the numbers."""
    assert native.sum_tree_width() == sum_tree.WIDTH
