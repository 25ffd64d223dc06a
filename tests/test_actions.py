"""Mixed actions packed into one tensor, and back."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from mixed_actions import ALL, NAMES, SMALL, fits

from seqrl.actions import choices, names, nothing_done, pack, parts, split, tensor_space, to_environment, unpack
from seqrl.errors import UserError
from seqrl.testing.agent import _draw
from seqrl.trajectory import tree_leaves, tree_map


def random_space(draws, depth=3):
    """A space of random nesting, whose keys are in no order."""
    kind = draws.integers(6 if depth else 4)
    shape = tuple(draws.integers(1, 3, draws.integers(3)).tolist())
    if kind == 0:
        return spaces.Discrete(int(draws.integers(1, 6)), start=int(draws.integers(-3, 4)))
    if kind == 1:
        sizes = draws.integers(1, 5, shape or (2,))
        return spaces.MultiDiscrete(sizes, start=draws.integers(-3, 4, sizes.shape))
    if kind == 2:
        return spaces.MultiBinary(shape or 3)
    if kind == 3:
        return spaces.Box(-1, draws.random(), shape, (np.float32, np.float64)[draws.integers(2)])
    children = [random_space(draws, depth - 1) for _ in range(draws.integers(1, 4))]
    if kind == 4:
        return spaces.Tuple(children)
    keys = draws.permutation(["a", "b", "c"])
    return spaces.Dict(OrderedDict(zip(map(str, keys), children, strict=False)))


# Breaks if `pack` takes the leaves in the order of the tree in place of the space's, `_in_own_units` leaves out the
# start, or `split` cuts a leaf off too early.
@pytest.mark.parametrize("seed", range(40))
def test_there_and_back(seed):
    space = spaces.Tuple([random_space(np.random.default_rng(seed)), spaces.Discrete(2, start=5)])
    space.seed(seed)
    tree = _draw(space, (3, 4), torch.device("cpu"))
    action = pack(tree_map(np.asarray, tree), space)
    assert action.dtype == torch.float32
    assert action.shape == (3, 4, *tensor_space(space).shape) == (3, 4, len(names(space)))
    back = unpack(action, space)
    for one, other in zip(tree_leaves(back), tree_leaves(tree), strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.double(), other.float().double())
    for leaf, part in zip(split(action, space), parts(space), strict=True):
        assert leaf.is_floating_point() == isinstance(part.space, spaces.Box)
    assert all(tensor_space(space).contains(row) for row in action.flatten(0, 1).numpy())
    # As Gymnasium's vector environments hand it out, one element for each environment.
    taken = to_environment(action.flatten(0, 1).numpy(), space)
    rows = list(iterate(batch_space(space, 12), taken))
    assert len(rows) == 12
    for row in rows:
        assert fits(space, row)


def test_the_order_is_the_space_s():
    tree = {"force": torch.tensor([0.5]), "which": torch.tensor(2), "arm": None}
    tree["arm"] = (torch.tensor([[1.5, 4.0]]), torch.tensor([1, 3]), {"light": torch.tensor([True, False])})
    action = pack(tree, ALL)
    assert action.tolist() == [2, 1.5, 4, 1, 3, 1, 0, 0.5]
    assert names(ALL) == NAMES
    assert choices(ALL) == {0: 3, 3: 2, 4: 4, 5: 2, 6: 2}
    box = tensor_space(ALL)
    assert box.low.tolist() == [0, -2, 0, 0, 0, 0, 0, np.float32(-0.1)]
    assert box.high.tolist() == [2, 2, 5, 1, 3, 1, 1, np.float32(0.1)]
    given = to_environment(action.unsqueeze(0).numpy(), ALL)
    assert (given["which"][0], given["arm"][1].tolist()) == (1, [[8, 3]])  # counted from their starts


def test_other_spaces_stay_as_they_are():
    for space, shape, dtype in (
        (spaces.Discrete(3), (), torch.int64),
        (spaces.MultiDiscrete([2, 3]), (2,), torch.int64),
        (spaces.MultiBinary(2), (2,), torch.int64),
        (spaces.Box(-1, 1, (2, 1)), (2, 1), torch.float32),
        (SMALL, (2,), torch.float32),
    ):
        action = nothing_done(space, 5)
        assert (action.shape, action.dtype) == ((5, *shape), dtype)
        assert (tensor_space(space) is space) == (unpack(action, space) is action) == (space is not SMALL)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (spaces.Text(5), r"the action\.hand\.gripper space Text.* is not supported: wrap the environment so that it"),
        (spaces.Graph(spaces.Discrete(2), None), r"the action\.hand\.gripper space Graph.* is not supported"),
        (spaces.Sequence(spaces.Discrete(2)), r"the action\.hand\.gripper space Sequence.* is not supported"),
        (spaces.Box(0, 3, (1,), np.int64), r"the action\.hand\.gripper space Box.*int64\) is not supported"),
        (spaces.Box(0, 255, (2, 2, 1), np.uint8), r"the action\.hand\.gripper space Box.*uint8\) is not supported"),
        (spaces.Tuple([]), r"the action\.hand\.gripper space Tuple\(\) has nothing to choose: leave it out"),
        (spaces.Discrete(2**24 + 1), r"the action\.hand\.gripper space Discrete.* has more than 16,777,216 values"),
    ],
)
def test_leaves_that_nothing_can_choose(leaf, message):
    with pytest.raises(UserError, match=message):
        parts(spaces.Dict(hand=spaces.Dict(gripper=leaf)))
    with pytest.raises(UserError, match=r"the action space Dict\(\) has nothing to choose"):
        parts(spaces.Dict())
