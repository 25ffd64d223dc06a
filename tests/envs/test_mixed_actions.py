"""Environments with mixed actions receive exactly what was chosen, however they are stepped."""

import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from mixed_actions import ALL, SMALL, Echo, fits

from seqrl.actions import tensor_space, unpack
from seqrl.collect import random_actions
from seqrl.envs import GymnasiumEnvironment, SingleEnv, TorchEnvironment, TorchVectorEnv
from seqrl.errors import UserError
from seqrl.testing import check_environment
from seqrl.trajectory import tree_leaves, tree_map

LENGTHS = (2, 3)


# Breaks if a leaf's start is not added, leaves are handed over in another order, or a type or shape is not the space's
# (`Echo` refuses the action then).
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_environment_receives_what_was_chosen(vector, mode):
    env = GymnasiumEnvironment(vector([functools.partial(Echo, n) for n in LENGTHS], autoreset_mode=mode))
    assert env.single_action_space["which"] == ALL["which"]
    assert list(env.single_action_space) == list(ALL)
    draws = torch.Generator().manual_seed(0)
    first = tree_map(torch.zeros_like, env.reset(0).observation)
    for part, low in (("force", -0.1), ("arm", [[-2, 0]])):
        leaf = first[part] if part == "force" else first[part][0]
        leaf.copy_(torch.tensor(low).expand_as(leaf))
    echoed = 0
    for _ in range(9):
        action = random_actions(env.single_action_space, 2, draws)
        step = env.step(action)
        seen = step.observation if step.final_observation is None else step.final_observation
        ignored = step.is_first & torch.tensor(mode is AutoresetMode.NEXT_STEP)
        # Choices are equal, and numbers to the float32 that an observation has.
        for shown, chosen, fresh in zip(
            *(tree_leaves(t) for t in (seen, unpack(action, env.single_action_space), first)), strict=True
        ):
            for row in range(2):
                expected = fresh[row] if ignored[row] else chosen[row]
                torch.testing.assert_close(shown[row].float(), expected.float(), rtol=0, atol=0)
                echoed += not ignored[row]
        if step.final_observation is not None:  # and the rows that begin show the first observation
            for shown, fresh in zip(tree_leaves(step.observation), tree_leaves(first), strict=True):
                assert all(torch.equal(shown[row].float(), fresh[row].float()) for row in step.is_first.nonzero())
    env.close()
    assert echoed > 50


# Breaks if bounds of a float64 leaf are rounded to the nearest float32, which may lie outside.
def test_bounds_of_leaves_are_rounded_inwards():
    env = GymnasiumEnvironment(SyncVectorEnv([Echo]))
    force = env.single_action_space["force"]
    assert force.dtype == np.float32
    assert ALL["force"].contains(force.low.astype(np.float64))
    assert ALL["force"].contains(force.high.astype(np.float64))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict(gripper=spaces.Text(5)), r"the action\.gripper space Text"),
        (spaces.Dict(a=spaces.Tuple([spaces.Box(0, 3, (1,), np.int32)])), r"the action\.a\.0 space Box.*int32"),
        (spaces.Tuple([]), r"the action space Tuple\(\) has nothing to choose"),
    ],
)
def test_what_nothing_can_choose(space, message):
    env = SyncVectorEnv([Echo])
    env.single_action_space = space
    with pytest.raises(UserError, match=message):
        GymnasiumEnvironment(env)


class Masked(Echo):
    """Allows the second value of each choice, but of the last two switches both."""

    action_space = spaces.Dict(a=spaces.Discrete(3, start=4), b=spaces.Box(0, 1, (2,)), c=spaces.MultiBinary(2))
    observation_space = spaces.Dict(x=spaces.Discrete(2), action_mask=spaces.MultiBinary(7))

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.observe(), {}

    def observe(self):
        return {"x": 0, "action_mask": np.array([0, 1, 0, 1, 1, 1, 1], np.int8)}

    def step(self, action):
        super().step(action)
        return self.observe(), float(action["a"] == 5), self.time == self.length, False, {}


def test_masks_have_an_entry_for_each_choice():
    env = GymnasiumEnvironment(SyncVectorEnv([Masked]))
    mask = env.reset(0).observation["action_mask"]
    actions = random_actions(env.single_action_space, 200, torch.Generator().manual_seed(0), mask.expand(200, 7))
    assert actions[:, 0].unique().tolist() == [1]
    assert [actions[:, k].unique().tolist() for k in (3, 4)] == [[0, 1]] * 2
    assert env.step(actions[:1]).reward.item() == 1
    bad = type("Bad", (Masked,), {"observation_space": spaces.Dict(action_mask=spaces.MultiBinary(9))})
    with pytest.raises(UserError, match=r"observes an action_mask .* for Dict.*: give a MultiBinary\(7\)"):
        GymnasiumEnvironment(SyncVectorEnv([bad]))


class TorchEcho(TorchVectorEnv):
    """Observes the last action's numbers, in episodes of three steps."""

    def __init__(self, num_envs=2, device="cpu", max_episode_steps=None):
        super().__init__(spaces.Box(-5, 5, (2,)), SMALL, num_envs, device, max_episode_steps)

    def _start(self):
        return {"shown": torch.zeros(self.num_envs, 2), "time": torch.zeros(self.num_envs)}

    def _transition(self, state, action):
        shown = torch.cat([action["which"].float().unsqueeze(-1), action["how_much"]], -1)
        time = state["time"] + 1
        return {"shown": shown, "time": time}, action["how_much"][:, 0], time == 3

    def _observe(self, state):
        return state["shown"].clone()


# Breaks if `TorchEnvironment.step` hands over the packed tensor, or `check_environment` makes one array of a dict.
def test_batches_of_tensors_take_trees():
    env = TorchEnvironment(TorchEcho())
    env.reset(0)
    action = torch.tensor([[2.0, 0.25], [0.0, -1.0]])
    assert torch.equal(env.step(action).observation, action)
    check_environment(TorchEcho(), num_steps=20)
    single = SingleEnv(TorchEcho)
    single.reset(seed=0)
    shown = single.step({"which": np.int64(1), "how_much": np.array([0.5], np.float32)})[0]
    assert shown.tolist() == [1, 0.5]


def test_random_actions_are_of_the_space():
    actions = random_actions(ALL, 500, torch.Generator().manual_seed(0))
    box = tensor_space(ALL)
    assert all(box.contains(row) for row in actions.numpy())
    for place, size in ((0, 3), (4, 4)):
        assert actions[:, place].unique().tolist() == list(range(size))
    assert fits(ALL, ALL.sample())
    assert gym.make("MixedEcho-v0").action_space == ALL
