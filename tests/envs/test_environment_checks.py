"""`check_environment` takes what is sound, and catches environments that each do one thing wrong."""

import gymnasium as gym
import pytest
import torch
from test_torch_envs import one_thread  # noqa: F401  for all tests here

from seqrl.envs import (
    MaskedCartPole,
    MaskedPendulum,
    RepeatPrevious,
    Tiger,
    TMaze,
)
from seqrl.envs.tmaze import RIGHT
from seqrl.testing.environment import check_environment


class RewardOnReset(Tiger):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward - 1, *rest


class FlagsOnReset(Tiger):
    def step(self, action):
        starting = self.state["ended"]
        observation, reward, terminated, *rest = super().step(action)
        return observation, reward, terminated | starting, *rest


class ActsOnReset(TMaze):
    def step(self, action):
        starting = self.state["ended"]
        _, *rest = super().step(action)
        self.state["x"] = torch.where(starting & (action == RIGHT), 1, self.state["x"])
        return self._observe(self.state), *rest


class KeepsCounting(MaskedPendulum):
    def step(self, action):
        before = self.state["steps"]
        result = super().step(action)
        self.state["steps"] = before + 1
        return result


class GlobalDraws(RepeatPrevious):
    def _draw(self):
        return torch.randint(self.num_symbols, (self.num_envs, 1))


class ForgetsGenerator(RepeatPrevious):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"generator": self.generator.get_state()})


class Overwrites(TMaze):
    def _observe(self, state):
        observation = super()._observe(state)
        self.buffer = getattr(self, "buffer", torch.empty_like(observation))
        return self.buffer.copy_(observation)


class LendsItsState(RepeatPrevious):
    def _observe(self, state):
        return state["recent"][:, -1]


class Undefined(MaskedCartPole):
    def _observe(self, state):
        return super()._observe(state) / 0.0 * 0.0


class OutOfSpace(RepeatPrevious):
    def _observe(self, state):
        return super()._observe(state) + 1


class IntegerReward(Tiger):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward.long(), *rest


class SameStep(Tiger):
    metadata = Tiger.metadata | {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}


@pytest.mark.parametrize(
    ("mutant", "message"),
    [
        (RewardOnReset, "reward is not 0"),
        (FlagsOnReset, "a flag is True"),
        (ActsOnReset, "was not ignored"),
        (KeepsCounting, "before max_episode_steps"),
        (GlobalDraws, "another trajectory"),
        (ForgetsGenerator, "bit for bit"),
        (Overwrites, "overwrote"),
        (LendsItsState, "writing into"),
        (Undefined, "NaN"),
        (OutOfSpace, "not in"),
        (IntegerReward, "not a float"),
        (SameStep, "next-step"),
    ],
)
def test_check_environment_catches(mutant, message):
    with pytest.raises(AssertionError, match=message):
        check_environment(mutant(4, max_episode_steps=60), num_steps=130)


def test_check_environment_wants_an_episode_to_end():
    with pytest.raises(AssertionError, match="larger num_steps"):
        check_environment(MaskedPendulum(2), num_steps=50)


def test_check_environment_takes_gymnasiums_own():
    check_environment(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), num_steps=100)
