"""Encoders: every space, with any leading axes, and the error for the ones that are not supported."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.errors import UserError
from seqrl.nets import Encoder
from seqrl.trajectory import tree_map

SPACES = {
    "number": spaces.Box(-1, 1, (), np.float32),
    "vector": spaces.Box(-1, 1, (4,), np.float32),
    "matrix": spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    "integers": spaces.Box(-5, 5, (2,), np.int64),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "small image, channels last": spaces.Box(0, 255, (7, 5, 3), np.uint8),
    "small image, channels first": spaces.Box(0, 255, (3, 7, 5), np.uint8),
    "large image, channels last": spaces.Box(0, 255, (37, 36, 1), np.uint8),
    "large image, channels first": spaces.Box(0, 255, (4, 36, 40), np.uint8),
    "one pixel": spaces.Box(0, 255, (1, 1, 1), np.uint8),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi-discrete in three dimensions": spaces.MultiDiscrete(np.arange(2, 14).reshape(2, 2, 3)),
    "grid of categories": spaces.MultiDiscrete(np.broadcast_to([4, 3], (5, 6, 2))),
    "small grid of categories": spaces.MultiDiscrete(np.broadcast_to([4, 3], (4, 6, 2))),
    "multi-binary": spaces.MultiBinary(3),
    "multi-binary in two dimensions": spaces.MultiBinary((2, 3)),
    "nested": spaces.Dict(
        image=spaces.Box(0, 255, (5, 5, 3), np.uint8),
        parts=spaces.Tuple([spaces.Discrete(3), spaces.Dict(deep=spaces.Box(-1, 1, (2,), np.float32))]),
        action_mask=spaces.MultiBinary(4),
    ),
}


def draw(space, num):
    """`num` draws of `space`, as tensors with one leading axis."""
    space.seed(0)
    if isinstance(space, spaces.Dict):
        return {key: draw(child, num) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(draw(child, num) for child in space.spaces)
    return torch.as_tensor(np.stack([space.sample() for _ in range(num)]))


# Breaks if an encoder's result is not reshaped to the leading axes.
@pytest.mark.parametrize("name", SPACES)
def test_leading_axes_are_free(name):
    torch.manual_seed(0)
    encoder = Encoder(SPACES[name], 8)
    batch = draw(SPACES[name], 6)
    encoded = encoder(batch)
    assert encoded.shape == (6, 8)
    assert encoded.abs().max() <= 1
    assert len(encoded.unique(dim=0)) > 1
    torch.testing.assert_close(encoder(tree_map(lambda leaf: leaf.unflatten(0, (2, 3)), batch)).flatten(0, 1), encoded)
    for row in range(6):
        torch.testing.assert_close(encoder(tree_map(lambda leaf, row=row: leaf[row], batch)), encoded[row])


# Breaks if `project` leaves out a leaf.
@pytest.mark.parametrize("name", SPACES)
def test_every_parameter_gets_a_gradient(name):
    encoder = Encoder(SPACES[name], 8)
    encoder(draw(SPACES[name], 64)).square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad.any(), parameter_name


# Breaks without the offsets of the entries: two entries would share their vectors.
def test_each_entry_of_a_multi_discrete_has_vectors_of_its_own():
    encoder = Encoder(spaces.MultiDiscrete([2, 3]), 4)
    table = encoder.encoders[0].embedding.weight
    assert torch.equal(encoder.project(torch.tensor([1, 2])), table[1] + table[2 + 2])


# Breaks if a cell's place chooses its vectors, as it does in a plain MultiDiscrete.
def test_an_object_in_a_grid_looks_alike_in_every_place():
    grid = Encoder(SPACES["grid of categories"], 8).encoders[0]
    seen = {}
    grid.convolutions[2].register_forward_hook(lambda module, inputs, output: seen.update(features=output))
    cells = torch.zeros(2, 9, 9, 2, dtype=torch.int64)
    cells[0, 3, 3], cells[1, 5, 4] = torch.tensor([2, 1]), torch.tensor([2, 1])
    grid.height = grid.width = 9
    grid.linear = torch.nn.Identity()
    grid(cells)
    features = seen["features"]
    assert not torch.equal(features[0], features[1])
    torch.testing.assert_close(features[0, :, :3, :3], features[1, :, 2:5, 1:4])


# Breaks if `_leaves` yields the action mask too.
def test_the_action_mask_is_not_read():
    encoder = Encoder(SPACES["nested"], 8)
    batch = draw(SPACES["nested"], 3)
    expected = encoder(batch)
    assert torch.equal(encoder(batch | {"action_mask": ~batch["action_mask"].bool()}), expected)
    assert torch.equal(encoder({key: leaf for key, leaf in batch.items() if key != "action_mask"}), expected)


# Breaks if the channels are looked for on the wrong side.
def test_an_image_is_the_same_in_either_layout():
    last = Encoder(SPACES["small image, channels last"], 8)
    first = Encoder(spaces.Box(0, 255, (3, 7, 5), np.uint8), 8)
    first.load_state_dict(last.state_dict())
    image = draw(SPACES["small image, channels last"], 4)
    torch.testing.assert_close(last(image), first(image.permute(0, 3, 1, 2)))


# Breaks if the bytes are not divided by 255, or without `copy=True`: the float image would be divided where it lies.
@pytest.mark.parametrize("shape", [(1, 84, 84), (4, 40, 36), (84, 84, 3), (3, 7, 5)])
def test_an_image_is_scaled_and_convolved_as_it_stands_in_a_book(shape):
    torch.manual_seed(0)
    encoder = Encoder(spaces.Box(0, 255, shape, np.uint8), 8).encoders[0]
    image = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    planes = image.flatten(0, 1).float() / 255
    planes = planes.permute(0, 3, 1, 2).contiguous() if shape[-1] == 3 else planes
    expected = encoder.linear(encoder.convolutions(planes)).unflatten(0, (2, 3))
    torch.testing.assert_close(encoder(image), expected)
    grads = [torch.autograd.grad(y.square().sum(), list(encoder.parameters())) for y in (encoder(image), expected)]
    torch.testing.assert_close(*grads)
    floats = image.float()
    torch.testing.assert_close(encoder(floats), expected)
    assert torch.equal(floats, image.float())


# Breaks if `update_statistics` takes all rows.
def test_normalize_standardises_vectors_alone_and_only_by_rows_that_count():
    space = spaces.Dict(x=spaces.Box(-np.inf, np.inf, (2,), np.float32), n=spaces.Discrete(3))
    encoder = Encoder(space, 4, normalize=True)
    x = torch.randn(5, 3, 2) * 7 + 100
    mask = torch.rand(5, 3) < 0.6
    before = encoder({"x": x, "n": torch.zeros(5, 3, dtype=torch.int64)})
    encoder.update_statistics({"x": x.masked_fill(~mask[..., None], 1e9), "n": torch.zeros(5, 3)}, mask)
    (norm,) = (e.norm for e in encoder.encoders if hasattr(e, "norm"))
    torch.testing.assert_close(norm.mean, x[mask].mean(0))
    torch.testing.assert_close(norm.variance, x[mask].var(0, correction=0), rtol=1e-4, atol=1e-4)
    assert not torch.equal(before, encoder({"x": x, "n": torch.zeros(5, 3, dtype=torch.int64)}))


@pytest.mark.parametrize(
    ("space", "where"),
    [
        (spaces.Text(5), "observation of space"),
        (spaces.Dict(a=spaces.Tuple([spaces.Discrete(2), spaces.Text(5)])), r"observation\['a'\]\[1\] of space"),
    ],
)
def test_other_spaces_are_refused_by_name(space: gym.Space, where):
    with pytest.raises(UserError, match=f"no encoder for {where} Text.*wrap the environment"):
        Encoder(space, 8)


def test_nothing_to_observe_is_refused():
    with pytest.raises(UserError, match="nothing to observe"):
        Encoder(spaces.Dict(action_mask=spaces.MultiBinary(3)), 8)
