"""Action masks in `info` are read for every space that has choices, in each form that a user would write."""

import contextlib
import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from mixed_actions import ALL

from seqrl.actions import choices
from seqrl.algorithms import ppo
from seqrl.collect import random_actions
from seqrl.envs import GymnasiumEnvironment, ShortestPath, TorchEnvironment, Trials, make
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError


class Told(gym.Env):
    """Tells `masks[t]` after t steps, the last one at the end; None tells nothing."""

    observation_space = spaces.Discrete(2)

    def __init__(self, action_space, *masks):
        self.action_space, self.masks = action_space, masks

    def info(self):
        return {} if self.masks[self.time] is None else {"action_mask": self.masks[self.time]}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return 0, self.info()

    def step(self, action):
        self.time += 1
        return 0, 0.0, self.time == len(self.masks) - 1, False, self.info()


def bits(text):
    return np.array([int(bit) for bit in text if bit != " "], np.int8)


PAIR = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
FORMS = {
    "discrete": (spaces.Discrete(3, start=4), bits("011"), "011"),
    "a list": (spaces.Discrete(3), [True, False, True], "101"),
    "multi-discrete": (spaces.MultiDiscrete([2, 3]), bits("10 011"), "10011"),
    "by entry": (spaces.MultiDiscrete([2, 3]), (bits("10"), bits("011")), "10011"),
    "a matrix": (spaces.MultiDiscrete([2, 2]), np.array([[1, 0], [0, 1]], bool), "1001"),
    "multi-binary": (spaces.MultiBinary(2), bits("10 01"), "1001"),
    "by bit": (spaces.MultiBinary(2), np.array([[1, 0], [0, 1]]), "1001"),
    "a tuple of masks": (PAIR, (bits("10"), None), "1011"),
    "a flat tuple": (PAIR, (1, 0, 1, 1), "1011"),
    "mixed, flat": (ALL, bits("010 01 0001 10 01"), "0100100011001"),
    "by key": (ALL, {"which": bits("010")}, "0101111111111"),
    "by key, deeper": (ALL, {"arm": (None, (bits("01"), bits("0001")), {"light": bits("1001")})}, "1110100011001"),
    "free by name": (ALL, {"which": None, "force": None, "arm": [None, bits("010001"), {}]}, "1110100011111"),
}


# Breaks if only Discrete spaces are asked, a leaf's mask lands at another's place, or what is not given allows nothing.
@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("form", FORMS)
def test_read_in_every_form(form, vector):
    space, mask, expected = FORMS[form]
    env = GymnasiumEnvironment(vector([functools.partial(Told, space, mask, mask, mask)] * 2))
    num_values = sum(choices(space).values())
    assert env.single_observation_space["action_mask"] == spaces.MultiBinary(num_values)
    seen = env.reset(0).observation["action_mask"]
    again = env.step(random_actions(env.single_action_space, 2, torch.Generator().manual_seed(0), seen))
    env.close()
    for one in (seen, again.observation["action_mask"]):
        assert one.dtype == torch.bool
        assert one.tolist() == [[bit == "1" for bit in expected]] * 2


# Breaks if a row's mask is another row's, or rows that give none, or no leaf, are not free.
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_row_has_its_own(mode):
    space = spaces.Dict(a=spaces.Discrete(2), b=spaces.MultiBinary(1))
    one = functools.partial(Told, space, {"a": bits("10")}, {"b": bits("01")}, {"a": bits("00"), "b": bits("10")})
    other = functools.partial(Told, space, None, {"a": bits("01")}, None, None)
    env = GymnasiumEnvironment(SyncVectorEnv([one, other], autoreset_mode=mode))
    steps = [env.reset(0), *(env.step(torch.zeros(2, 2)) for _ in range(2))]
    last = steps[-1].observation if mode is AutoresetMode.NEXT_STEP else steps[-1].final_observation
    found = [step.observation["action_mask"] for step in steps[:2]] + [last["action_mask"]]
    # At the end nothing of `a` is allowed, so it is free, and `b` is not.
    expected = [["1011", "1111"], ["1101", "0111"], ["1110", "1111"]]
    assert [["".join(str(int(bit)) for bit in row) for row in mask] for mask in found] == expected


class Strict(Told):
    """Fails at an action that its mask forbids: the leaf `which` and the switches `light` have one allowed value."""

    def __init__(self):
        masks = [{"which": np.arange(3) == k, "arm": (None, None, {"light": bits("1001")})} for k in (0, 2, 1, 1)]
        super().__init__(ALL, *masks)

    def step(self, action):
        assert action["which"] - ALL["which"].start == (0, 2, 1)[self.time]
        assert action["arm"][2]["light"].tolist() == [0, 1]
        return super().step(action)


gym.register("StrictlyMasked-v0", Strict)


# Breaks if the mask that is read is not that of the policy's parts.
def test_an_agent_keeps_to_it(tmp_path):
    settings = {"env": "StrictlyMasked-v0", "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_steps": 64}
    agent = ppo.train(ppo.Config(**settings, run_dir=str(tmp_path / "run")))
    mask = {"which": np.array([0, 1, 0]), "arm": (None, None, {"light": bits("1001")})}
    flat = np.array([0, 1, 0, *[1] * 6, 1, 0, 0, 1], bool)
    env = GymnasiumEnvironment(SyncVectorEnv([functools.partial(Told, ALL, mask, mask)]))
    assert env.reset(0).observation["action_mask"][0].tolist() == flat.tolist()
    action = agent.act({"observation": 0, "action_mask": flat})
    assert (action["which"], action["arm"][2]["light"].tolist()) == (0, [0, 1])


class Asked(Told):
    """Allows all but the action that is its clock's, and says so when it is asked, as sb3-contrib asks; at first in
    `info` too, where it forbids the last."""

    def __init__(self):
        super().__init__(spaces.Discrete(3), bits("110"), *[None] * 3)

    def action_masks(self):
        return [self.time != action for action in range(3)]


gym.register("Asked-v0", Asked)


# Breaks if `info` does not come before the method, or the method is asked before the step.
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("autoreset_mode", ["next_step", "same_step", "disabled"])
def test_a_method_is_asked(autoreset_mode, vectorization):
    env = make("Asked-v0", 2, autoreset_mode=autoreset_mode, vectorization=vectorization)
    with contextlib.closing(env):
        steps = [env.reset(0), *(env.step(torch.zeros(2, dtype=torch.int64)) for _ in range(2))]
    masks = [step.observation["action_mask"].int().tolist() for step in steps]
    assert masks == [[[1, 1, 0]] * 2, [[1, 0, 1]] * 2, [[1, 1, 0]] * 2]


class Named(Told):
    """A base class that masks others, and here nothing."""

    action_masks = None

    def __init__(self):
        super().__init__(spaces.Discrete(3), *[None] * 3)


gym.register("Named-v0", Named)


# Breaks if whatever has the method's name is called.
def test_what_has_the_name_and_is_no_method_is_not_asked():
    with contextlib.closing(make("Named-v0", 2)) as env:
        assert torch.equal(env.reset(0).observation, torch.zeros(2, dtype=torch.int64))


DICT = spaces.Dict(hand=spaces.Dict(grip=spaces.Discrete(3)), force=spaces.Box(-1, 1, (2,)))
REFUSED = [
    (spaces.MultiDiscrete([2, 3]), bits("1111"), r"\['action_mask'\] of shape \(4,\) for MultiDiscrete.*: give 5 entr"),
    (spaces.MultiDiscrete([2, 3]), np.ones((2, 3)), r"of shape \(2, 3\) for MultiDiscrete\(\[2 3\]\): give 5 entries"),
    (spaces.MultiDiscrete([2, 3]), (bits("111"), bits("11")), r"of several shapes for MultiDiscrete.*: give 5 entries"),
    (spaces.MultiBinary(3), bits("111"), r"of shape \(3,\) for MultiBinary\(3\): give 6 entries, one for each choice"),
    (spaces.MultiDiscrete([2, 3]), {"a": bits("11")}, r"of type dict for MultiDiscrete"),
    (spaces.MultiDiscrete([2, 3]), 1, r"of type int64 for MultiDiscrete"),
    (DICT, bits("11"), r"for Dict\(.*\): give 3 entries, one for each choice, or a dict of masks$"),
    (DICT, {"hand": {"grip": bits("11")}}, r"info\['action_mask'\]\['hand'\]\['grip'\] of shape \(2,\) for Discrete"),
    (
        DICT,
        {"hadn": bits("111")},
        r"info\['action_mask'\] with the key 'hadn', which .* has not: did you mean 'hand'\?",
    ),
    (DICT, {"force": bits("11")}, r"\['force'\] of shape \(2,\) for Box.*, which has no choices: leave it out"),
    (PAIR, (bits("11"),), r"of shape \(1, 2\) for Tuple\(.*\): give 4 entries"),
    (PAIR, (bits("11"), bits("111")), r"info\['action_mask'\]\[1\] of shape \(3,\) for Discrete\(2\): give 2 entries"),
    (
        spaces.Discrete(3),
        np.array([0, -np.inf, 0]),
        r"info\['action_mask'\] with -inf in it: give 1 for what is allowed",
    ),
    (
        DICT,
        {"hand": {"grip": ["yes", "no", "no"]}},
        r"\['grip'\] with yes in it: give 1 for what is allowed, and 0 for",
    ),
]


# Breaks where `_flat` or `_bits` lacks the clause of the message; a shorter mask would be spread over all choices.
@pytest.mark.parametrize(("space", "mask", "message"), REFUSED)
def test_masks_that_do_not_fit(space, mask, message):
    with pytest.raises(UserError, match=message) as caught:
        GymnasiumEnvironment(SyncVectorEnv([functools.partial(Told, space, mask, mask)]))
    assert "\n" not in str(caught.value)


def test_masks_that_no_longer_fit():
    env = GymnasiumEnvironment(SyncVectorEnv([functools.partial(Told, DICT, bits("111"), bits("11"))]))
    env.reset(0)
    with pytest.raises(UserError, match=r"of shape \(2,\) for Dict.* give 3 entries"):
        env.step(torch.zeros(1, 3))


# Breaks if what comes first at a step is not looked at: all would be allowed, without a word.
def test_masks_that_come_too_late():
    late = functools.partial(Told, spaces.MultiBinary(1), None, bits("10"), None)
    env = GymnasiumEnvironment(SyncVectorEnv([late]))
    env.reset(0)
    with pytest.raises(UserError, match="and gave none at its first reset: give it there too"):
        env.step(torch.zeros(1, 1, dtype=torch.int64))


# Breaks if Box actions ask for a mask, or one beside a mask that is observed is read in its place.
def test_what_is_not_read():
    box = GymnasiumEnvironment(SyncVectorEnv([functools.partial(Told, spaces.Box(-1, 1, (2,)), bits("1"), bits("1"))]))
    assert box.single_observation_space == Told.observation_space
    observed = spaces.Dict(action_mask=spaces.MultiBinary(3), x=spaces.Discrete(2))
    see = {
        "observation_space": observed,
        "reset": lambda self, **_: ({"x": 0, "action_mask": bits("010")}, self.info()),
    }
    both = type("Both", (Told,), see | {"time": 0})
    env = GymnasiumEnvironment(SyncVectorEnv([functools.partial(both, spaces.Discrete(3), bits("100"), None)]))
    assert env.reset(0).observation["action_mask"].tolist() == [[False, True, False]]


class Observed(Told):
    """Observes what others tell."""

    def __init__(self, action_space, *masks):
        super().__init__(action_space, *masks)
        self.observation_space = spaces.Dict(action_mask=spaces.MultiBinary(len(masks[0])))

    def reset(self, **_):
        super().reset()
        return self.info(), {}

    def step(self, action):
        _, *row, _ = super().step(action)
        return self.info(), *row, {}


def stepped(kind, space, masks, mode=AutoresetMode.NEXT_STEP, num_steps=2):
    """The masks of the second of two environments, of which the first allows all."""
    free = np.ones_like(masks[0])
    one, other = functools.partial(kind, space, *[free] * 4), functools.partial(kind, space, *masks)
    env = GymnasiumEnvironment(SyncVectorEnv([one, other], autoreset_mode=mode))
    action = env.single_action_space.sample()
    batch = (
        torch.as_tensor(np.array([action] * 2)) if isinstance(action, np.ndarray | np.integer) else torch.zeros(2, 3)
    )
    seen = [env.reset(0), *(env.step(batch) for _ in range(num_steps))]
    return ["".join(str(int(bit)) for bit in step.observation["action_mask"][1]) for step in seen]


# Breaks without `_check_allowed`, of masks that are told or of those that are observed: all was allowed without a word.
# Breaks too if the last row of an episode is looked at.
@pytest.mark.parametrize("kind", [Told, Observed])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_episode_that_goes_on_must_allow_something(kind, mode):
    for space, some in ((spaces.Discrete(3), bits("010")), (spaces.MultiDiscrete([2, 2]), bits("0110"))):
        none, all_free = np.zeros_like(some), "1" * len(some)
        said = (
            r"^environment 1 allows no action at step 1 after the reset of 'SyncVectorEnv', though the episode goes on"
        )
        with pytest.raises(UserError, match=said):
            stepped(kind, space, [some, none, some, some], mode)
        with pytest.raises(UserError, match="allows no action at step 0 after"):
            stepped(kind, space, [none, some, some], mode)
        seen = stepped(kind, space, [some, some, none], mode)  # at the end none need be
        first = "".join(map(str, some))
        assert seen == [first, first, all_free if mode is AutoresetMode.NEXT_STEP else first]


class OnceAllowing(Told):
    """Allows nothing after its third reset. The first is to find out whether there is a mask."""

    def reset(self, **_):
        self.resets = getattr(self, "resets", 0) + 1
        observation, info = super().reset()
        return observation, info if self.resets < 3 else {"action_mask": np.zeros_like(self.masks[0])}


# Breaks if the rows that have ended are not looked at after they were reset within the step.
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_second_episode_must_allow_something(mode):
    at = 2 if mode is AutoresetMode.NEXT_STEP else 1
    with pytest.raises(UserError, match=f"^environment 1 allows no action at step {at} after the reset"):
        stepped(OnceAllowing, spaces.Discrete(3), [bits("010")] * 2, mode)


# Breaks if a choice is looked at by itself, or one beside a number that no mask speaks of.
def test_a_part_need_not_allow_anything():
    assert stepped(Told, spaces.MultiDiscrete([2, 2]), [bits("0010")] * 4) == ["1110"] * 3
    beside = spaces.Dict(force=spaces.Box(-1, 1, (2,)), grip=spaces.Discrete(2))
    assert stepped(Told, beside, [bits("00")] * 4) == ["11"] * 3


class Tensors(ShortestPath):
    """Allows nothing in row 1 after two steps."""

    empty_at = 2

    def _observe(self, state):
        observation = super()._observe(state)
        empty = (torch.arange(self.num_envs) == 1) & (state["steps"] == self.empty_at)
        return observation | {"action_mask": observation["action_mask"] & ~empty[:, None]}


# Breaks without `TorchEnvironment._check_allowed`, and if the last row of an episode is looked at.
def test_a_batch_of_tensors_must_allow_something():
    inner = Tensors(3, max_episode_steps=4)
    env = TorchEnvironment(inner)
    away = torch.zeros(3, dtype=torch.int64)
    env.reset(0)
    env.step(away)
    with pytest.raises(
        UserError, match=r"^environment 1 allows no action at step 2 of an episode of 'Tensors', though"
    ):
        env.step(away)
    inner.empty_at = 4
    env.reset(0)
    steps = [env.step(away) for _ in range(5)]
    assert steps[3].truncated[1]
    assert not steps[3].observation["action_mask"][1].any()


# Breaks if a trial's own parts are nested under "observation": then no command takes it for trials.
def test_trials_are_told_masks_too():
    mask = {"grip": bits("010")}
    inner = functools.partial(Told, spaces.Dict(grip=spaces.Discrete(3)), mask, mask, mask)
    env = GymnasiumEnvironment(SyncVectorEnv([lambda: Trials(inner(), 2)]))
    assert set(env.single_observation_space.spaces) == {"observation", EPISODE_START, "action_mask"}
    env.reset(0)
    assert env.step(torch.ones(1, 1)).observation["action_mask"].tolist() == [[False, True, False]]
