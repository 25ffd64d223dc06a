"""Spaces go to strict JSON and come back equal."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from seqrl.errors import UserError
from seqrl.spaces import space_from_json, space_to_json

SPACES: list[gym.Space] = [
    spaces.Box(-1.0, 1.0, (3,)),
    spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(np.array([[0.1, -np.inf]]), np.array([[np.inf, 0.7]]), dtype=np.float64),
    spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (1,)),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(0, 1, (2,), np.int64),
    spaces.Box(-1.0, 1.0, ()),
    spaces.Discrete(4),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 3)),
    spaces.Dict(b=spaces.Discrete(2), a=spaces.Box(-np.inf, 1.0, (2,))),
    spaces.Tuple((spaces.Discrete(2), spaces.Tuple((spaces.MultiBinary(2), spaces.Dict(x=spaces.Discrete(3)))))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_round_trip(space: gym.Space) -> None:
    # Breaks when _finite returns infinities as they are (`Infinity` is not JSON), or MultiBinary gets a list as shape.
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space
    assert back.dtype == space.dtype
    assert space_to_json(back) == json.loads(text)


def test_equal_bounds_are_one_number() -> None:
    """An image's bounds need no list of pixels."""
    assert space_to_json(SPACES[5]) == {"type": "Box", "shape": [4, 4, 3], "dtype": "uint8", "low": 0, "high": 255}
    assert space_to_json(SPACES[2])["high"] == "inf"
    assert space_to_json(SPACES[1])["high"] == [1.0, "inf"]


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Dict(a=spaces.Sequence(spaces.Discrete(2)))], ids=str)
def test_unsupported(space: gym.Space) -> None:
    with pytest.raises(UserError, match="not supported: use Box"):
        space_to_json(space)


def test_unknown_type() -> None:
    with pytest.raises(UserError, match="'Sphere'"):
        space_from_json({"type": "Sphere"})


# Breaks where a plain dict is given to `spaces.Dict`, which sorts its keys: encoders would change places.
def test_the_order_of_keys_is_kept():
    space = spaces.Dict(b=spaces.Discrete(2), a=spaces.Discrete(2))
    assert list(space_from_json(json.loads(json.dumps(space_to_json(space))))) == ["b", "a"]
