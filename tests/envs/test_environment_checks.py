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


class DoubleReward(Tiger):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward.double(), *rest


class WrongRewards(Tiger):
    kind = staticmethod(torch.Tensor.double)

    def _transition(self, state, action):
        state, reward, terminated = super()._transition(state, action)
        return state, self.kind(reward), terminated


class ColumnOfRewards(WrongRewards):
    kind = staticmethod(lambda reward: reward[:, None])


class FloatFlags(Tiger):
    def _transition(self, state, action):
        state, reward, terminated = super()._transition(state, action)
        return state, reward, terminated.float()


class WritesIntoState(TMaze):
    def _transition(self, state, action):
        after, *rest = super()._transition(state, action)
        state["cue"].neg_()  # which it hands on, too
        return after, *rest


class WritesIntoAction(TMaze):
    def _transition(self, state, action):
        return super()._transition(state, action.clamp_(max=2))


class WritesWhereItLooks(TMaze):
    def _observe(self, state):
        return super()._observe({**state, "x": state["x"].sub_(1)})


class ReservedName(TMaze):
    def _start(self):
        return super()._start() | {"generator": torch.zeros(self.num_envs)}


class ChangesSteps(TMaze):
    def _transition(self, state, action):
        after, *rest = super()._transition(state, action)
        return after | {"steps": state["steps"] + 1}, *rest


class LosesState(TMaze):
    def _transition(self, state, action):
        after, *rest = super()._transition(state, action)
        del after["seen"]
        return after, *rest


class ChangesType(TMaze):
    def _transition(self, state, action):
        after, *rest = super()._transition(state, action)
        return after | {"x": after["x"].float()}, *rest


class StateOfNoRows(TMaze):
    def _start(self):
        return super()._start() | {"clock": torch.zeros(())}


class ReadsBack(TMaze):
    def _transition(self, state, action):
        after, *rest = super()._transition(state, action)
        return ({} if (action > 9).any() else after), *rest


class ReadsBackByMask(TMaze):
    def _observe(self, state):
        return super()._observe(state) + state["x"][state["x"] < -5].sum()


class SaysThatItReadsBack(ReadsBack):
    reads_back = True


class DoubleObservation(TMaze):
    def _observe(self, state):
        return super()._observe(state).double()


class WideObservation(TMaze):
    def _observe(self, state):
        return super()._observe(state)[:, None]


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
        (DoubleReward, "reward is float64, not float32"),
        (WrongRewards, r"_transition gives reward as torch.float64 \[4\], not torch.float32 \[num_envs\]"),
        (ColumnOfRewards, r"_transition gives reward as torch.float32 \[4, 1\]"),
        (FloatFlags, r"_transition gives terminated as torch.float32 \[4\], not torch.bool"),
        (WritesIntoState, "_transition wrote into the state"),
        (WritesIntoAction, "_transition wrote into the action"),
        (WritesWhereItLooks, "_observe wrote into the state"),
        (ReservedName, "_start gives a state 'generator', a name that is reserved"),
        (ChangesSteps, "_transition gives a state 'steps', a name that is reserved"),
        (LosesState, r"_transition gives states \['x', 'cue'\], and _start \['x', 'cue', 'seen'\]"),
        (ChangesType, r"the state 'x' as torch.float32 \[4\], and _start as torch.int64 \[4\]"),
        (StateOfNoRows, r"the state 'clock' as torch.float32 \[\], which is no tensor of num_envs rows"),
        (ReadsBack, r"_transition reads a value back to the host \(_local_scalar_dense\)"),
        (ReadsBackByMask, r"_observe reads a value back to the host \(index\)"),
        (DoubleObservation, "observation, of type float64, not in Box"),
        (WideObservation, r"observation has the shape \(4, 1, 3\), not \(4, 3\)"),
        (SameStep, "next-step"),
    ],
)
def test_check_environment_catches(mutant, message):
    with pytest.raises(AssertionError, match=message):
        check_environment(mutant(4, max_episode_steps=60), num_steps=130)


# Breaks if what says that it reads back is not taken at its word, or if watched functions are not put back.
def test_check_environment_takes_what_says_that_it_reads_back():
    env = SaysThatItReadsBack(4)
    check_environment(env, num_steps=130)
    assert not {"_start", "_transition", "_observe"} & set(vars(env))


def test_check_environment_wants_an_episode_to_end():
    with pytest.raises(AssertionError, match="larger num_steps"):
        check_environment(MaskedPendulum(2), num_steps=50)


def test_check_environment_takes_gymnasiums_own():
    check_environment(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"), num_steps=100)
