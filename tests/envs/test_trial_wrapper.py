"""Trials of any Gymnasium environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from seqrl.adaptation import trial_returns
from seqrl.algorithms import ppo
from seqrl.collect import Scripted
from seqrl.envs import Trials, make
from seqrl.errors import UserError
from seqrl.testing.environment import check_environment


class Count(gym.Env):
    """Shows how often it was stepped, ends after `length` steps or when the action is 1, and pays `pay` a step."""

    observation_space = spaces.Box(0, 99, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 3, pay: float = 1.0, ends: str = "terminated"):
        self.length, self.pay, self.ends = length, pay, ends
        self.resets: list[tuple] = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append((seed, options))
        self.steps, self.start = 0, float(self.np_random.integers(50))
        return self._look(), {"begun": len(self.resets)}

    def step(self, action):
        self.steps += 1
        end = self.steps >= self.length or action == 1
        return self._look(), self.pay, end and self.ends == "terminated", end and self.ends == "truncated", {}

    def _look(self):
        return np.array([self.steps, self.start], np.float32)


def backwards(env, np_random):
    env.unwrapped.force_mag = np_random.choice([-10.0, 10.0])


gym.register("TrialsOfCartPole-v0", lambda: Trials(gym.make("CartPole-v1"), 3, backwards))


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_rows_of_a_trial(ends):
    """Broken by showing an inner episode's last observation, or by calling an inner end the trial's."""
    env = Trials(Count(ends=ends), 2)
    observation, info = env.reset(seed=0)
    rows = [(observation["observation"][0], observation["episode_start"], 0, False, info)]
    while not rows[-1][3]:
        observation, reward, terminated, truncated, info = env.step(0)
        assert not truncated
        assert env.observation_space.contains(observation)
        rows.append((observation["observation"][0], observation["episode_start"], reward, terminated, info))
    assert [row[0] for row in rows] == [0, 1, 2, 0, 1, 2, 3]  # the last observation of the trial is its own
    assert [row[1] for row in rows] == [1, 0, 0, 1, 0, 0, 0]
    assert sum(row[2] for row in rows) == 6
    assert rows[3][4] == {"begun": 2}
    with pytest.raises(UserError, match="reset"):
        env.step(0)
    env.reset()
    assert not env.step(0)[2]


def test_without_a_sampler_the_task_is_a_seed():
    env = Trials(Count(), 3)
    for _ in range(2):
        env.reset(seed=7)
        for _ in range(2):  # two trials
            for _ in range(9):
                env.step(0)
            env.reset()
    seeds = [seed for seed, _ in env.unwrapped.resets]
    trials = [seeds[:3], seeds[3:6], seeds[7:10], seeds[10:13]]
    assert all(len(set(trial)) == 1 for trial in trials)
    assert trials[0] == trials[2]  # the same seed, the same trials
    assert trials[1] == trials[3]
    assert trials[0] != trials[1]


def test_a_task_of_attributes_stays_for_the_trial_and_starts_differ():
    def pay(env, np_random):
        env.unwrapped.pay = np_random.normal()

    env = Trials(Count(), 4, pay)
    pays, starts = [], []
    for _ in range(5):
        observation, _ = env.reset(seed=None if pays else 3)
        rewards, seen = [], [observation["observation"][1]]
        for _ in range(12):
            observation, reward, *_ = env.step(0)
            rewards.append(reward)
            seen.append(observation["observation"][1])
        pays.append(set(rewards))
        starts.append(set(seen))
    assert all(len(values) == 1 for values in pays)
    assert len(set.union(*pays)) == 5
    assert max(map(len, starts)) > 2


def test_a_task_of_options_is_given_to_every_reset_of_the_trial():
    env = Trials(Count(), 3, lambda env, np_random: {"level": int(np_random.integers(1000))})
    for _ in range(2):
        env.reset(options={"mode": "hard"})
        for _ in range(9):
            env.step(0)
    options = [options for _, options in env.unwrapped.resets]
    assert options[0] == options[1] == options[2]
    assert options[3] == options[4] == options[5]
    assert options[0] != options[3]
    assert all(given["mode"] == "hard" for given in options)


def test_a_task_may_be_another_environment():
    env = Trials(Count(), 2, lambda env, np_random: Count(length=int(np_random.integers(1, 6))))
    lengths = set()
    for seed in range(30):
        env.reset(seed=seed)
        count, over = 0, False
        while not over:
            over = env.step(0)[2]
            count += 1
        assert count % 2 == 0
        lengths.add(count // 2)
    assert lengths == {1, 2, 3, 4, 5}


def test_an_action_mask_stays_beside_the_observation():
    class Masked(Count):
        observation_space = spaces.Dict(seen=Count.observation_space, action_mask=spaces.MultiBinary(2))

        def _look(self):
            return {"seen": super()._look(), "action_mask": np.array([1, 0], np.int8)}

    env = make_vector(lambda: Trials(Masked(), 2))
    assert set(env.single_observation_space.spaces) == {"observation", "episode_start", "action_mask"}
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert set(observation["observation"]) == {"seen"}
    check_environment(env, num_steps=60)


def make_vector(make_env):
    return SyncVectorEnv([make_env] * 3)


@pytest.mark.parametrize("draw_task", [None, backwards])
def test_conformance(draw_task):
    check_environment(make_vector(lambda: Trials(gym.make("CartPole-v1"), 2, draw_task)), num_steps=200)


@pytest.mark.parametrize("options", [{}, {"autoreset_mode": "same_step"}, {"vectorization": "async"}])
def test_by_its_id(options):
    env = make("TrialsOfCartPole-v0", 2, **options)
    try:
        step = env.reset(0)
        starts, ends = step.observation["episode_start"].clone(), torch.zeros(2)
        for _ in range(200):
            step = env.step(torch.zeros(2, dtype=torch.int64))
            starts += step.observation["episode_start"] * step.mask
            ends += step.terminated
            assert not step.truncated.any()
        assert (ends > 2).all()
        assert ((starts - 3 * ends) <= 3).all()
        assert ((starts - 3 * ends) >= 0).all()
    finally:
        env.close()


def test_gymnasium_can_make_it_again():
    env = gym.make("TrialsOfCartPole-v0", max_episode_steps=4)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]
    again = Trials(gym.make("CartPole-v1"), 3, backwards).spec.make()
    assert isinstance(again, Trials)
    assert again.num_episodes == 3


def test_returns_of_inner_episodes():
    env = make("TrialsOfCartPole-v0", 4)

    def push_left(inputs, generator):
        return torch.zeros(4, dtype=torch.int64)

    def by_angle(inputs, generator):  # balances where actions push the right way, and falls at once where not
        return (inputs.observation["observation"][:, 2:] @ torch.tensor([1.0, 0.3]) > 0).long()

    short = trial_returns(Scripted(env.single_action_space, push_left), env, 20)
    assert short.shape == (20, 3)
    assert (short > 7).all()
    assert (short < 12).all()
    long = trial_returns(Scripted(env.single_action_space, by_angle), env, 12)
    good = long > 25
    assert (good.all(1) | ~good.any(1)).all()  # the same task for all inner episodes
    assert 0 < good[:, 0].sum() < 12
    env.close()


def test_ppo_learns_from_it(tmp_path):
    config = ppo.Config(
        env="TrialsOfCartPole-v0",
        run_dir=str(tmp_path / "run"),
        num_envs=4,
        rollout_length=32,
        num_steps=512,
        hidden_size=16,
        num_minibatches=1,
        previous_action=True,
        previous_reward=True,
    )
    agent = ppo.train(config)
    env = make("TrialsOfCartPole-v0", 4)
    assert np.isfinite(trial_returns(agent, env, 4)).all()
    env.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Trials(make_vector(Count), 2), "single gymnasium.Env"),
        (lambda: Trials("CartPole-v1", 2), "Trials of str"),
        (lambda: Trials(Count(), 0), "num_episodes=0"),
        (lambda: Trials(Count(), 2, {"length": 2}), "draw_task=.*function"),
        (lambda: Trials(Count(), 2, lambda env, np_random: 3).reset(), "draw_task returned int"),
        (lambda: Trials(Count(), 2, lambda env, np_random: gym.make("CartPole-v1")).reset(), "observation_space"),
        (lambda: Trials(Count(), 2).step(0), "reset"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        wrong()
    assert "\n" not in str(caught.value)
