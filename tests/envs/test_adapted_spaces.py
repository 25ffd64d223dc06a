"""What Gymnasium environments observe and take, where it does not fit their spaces or an agent's types."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_adapters import Clock, DictMask, vectorize

from seqrl.envs.adapters import GymnasiumEnvironment
from seqrl.errors import UserError


# Breaks if the mask's size is not compared: one entry would be spread over all actions, and mask nothing.
@pytest.mark.parametrize("mask", [spaces.MultiBinary(1), spaces.MultiDiscrete([2, 3, 2]), spaces.Discrete(3)])
def test_own_action_mask_that_does_not_fit(mask):
    space = spaces.Dict(clock=Clock.observation_space, action_mask=mask)
    make = type("Unfit", (DictMask,), {"observation_space": space})
    with pytest.raises(UserError, match=r"observes an action_mask of .* for Discrete\(3\): give a MultiBinary\(3\)"):
        GymnasiumEnvironment(vectorize(make))


def test_own_action_mask_of_bits():
    space = spaces.Dict(clock=Clock.observation_space, action_mask=spaces.MultiDiscrete([2, 2, 2]))
    env = GymnasiumEnvironment(vectorize(type("Bits", (DictMask,), {"observation_space": space})))
    assert env.single_observation_space["action_mask"] == spaces.MultiBinary(3)
    assert env.reset().observation["action_mask"].dtype == torch.bool


# Breaks if whole numbers are taken as they come: one beyond its entry is read as another entry's.
@pytest.mark.parametrize(("space", "value"), [(spaces.MultiDiscrete([3, 3]), [3, 1]), (spaces.Discrete(3, start=1), 0)])
def test_an_observation_outside_its_space(space, value):
    changes = {"observation_space": space, "observe": lambda self: np.array(value)}
    env = GymnasiumEnvironment(vectorize(type("Outside", (Clock,), changes)))
    with pytest.raises(UserError, match=r"environment 0 returned the observation .* at step 0 .* outside"):
        env.reset()


# Breaks if float64 bounds are rounded to the nearest float32, which may lie outside.
def test_actions_stay_inside_a_box_of_float64():
    box = spaces.Box(-0.1, 0.1, (2,), np.float64)
    env = GymnasiumEnvironment(vectorize(type("Narrow", (Clock,), {"action_space": box})))
    bounds = env.single_action_space
    assert box.contains(bounds.low.astype(np.float64))
    assert box.contains(bounds.high.astype(np.float64))


# Breaks if other keys are taken: the run's folder gives them back as text, and its environment does not fit it then.
@pytest.mark.parametrize("kind", ["observation", "action"])
def test_keys_are_text(kind):
    space = spaces.Tuple([spaces.Dict({1: spaces.Discrete(2), 2: spaces.Discrete(2)})])
    with pytest.raises(UserError, match=rf"the {kind}\.0 space has the key 1: use text for the keys of a Dict"):
        GymnasiumEnvironment(vectorize(type("Numbered", (Clock,), {f"{kind}_space": space})))
