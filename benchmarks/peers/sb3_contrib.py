"""RecurrentPPO of sb3-contrib: how fast it trains on CartPole without velocities, how soon it solves it, and what it
makes of a robot without velocities.

    python -P sb3_contrib.py throughput --num-envs 64 --threads 2 --seconds 20
    python -P sb3_contrib.py solve --seed 0 --limit-seconds 600 --threads 2
    python -P sb3_contrib.py robot --env Hopper-v5 --hide 5 6 7 8 9 10 --num-steps 500000 --seed 0 --threads 1

It has an LSTM, and no GRU. `throughput` gives it the shape that is quickest and closest to seqrl's: one LSTM for policy
and value (the value's gradient then ends there), and no layers behind it. `solve` takes what the RL Zoo tuned for
CartPoleNoVel-v1, unchanged; `robot` what it has for PyBullet's robots.
"""

import argparse
import json
import time
from collections import deque
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

ROLLOUT, HIDDEN, EPOCHS, MINIBATCHES = 128, 128, 4, 4


class Positions(gym.ObservationWrapper):
    """CartPole's positions without its velocities."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


def make_environments(num_envs: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Positions(gym.make("CartPole-v1")))] * num_envs)


class Stopwatch(BaseCallback):
    """Counts whole rounds of rollout and update after the first, and ends training once they took `seconds`."""

    def __init__(self, seconds: float):
        super().__init__()
        self.limit = seconds
        self.starts: list[float] = []

    @property
    def updates(self) -> int:
        return len(self.starts) - 2

    @property
    def seconds(self) -> float:
        return self.starts[-1] - self.starts[1]

    def _on_rollout_start(self) -> None:
        self.starts.append(time.perf_counter())

    def _on_step(self) -> bool:
        return self.updates < 1 or self.seconds < self.limit


def throughput(num_envs: int, seconds: float) -> dict[str, Any]:
    """Steps per second of training, environments included."""
    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_environments(num_envs),
        n_steps=ROLLOUT,
        n_epochs=EPOCHS,
        batch_size=ROLLOUT * num_envs // MINIBATCHES,
        policy_kwargs={
            "lstm_hidden_size": HIDDEN,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": {"pi": [], "vf": []},
        },
        device="cpu",
    )
    watch = Stopwatch(seconds)
    model.learn(10**9, callback=watch)
    return {
        "memory": "LSTM (it has no GRU), shared by policy and value",
        "num_envs": num_envs,
        "steps_per_second": watch.updates * num_envs * ROLLOUT / watch.seconds,
        "updates": watch.updates,
        "seconds": watch.seconds,
    }


class Solved(BaseCallback):
    """Ends training when the last 20 episodes average 475, or after `limit` seconds from `start`."""

    def __init__(self, start: float, limit: float):
        super().__init__()
        self.start, self.limit = start, limit
        self.returns: deque[float] = deque(maxlen=20)
        self.solved = False

    def _on_step(self) -> bool:
        self.returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        self.solved = len(self.returns) == 20 and float(np.mean(self.returns)) >= 475
        return not self.solved and time.perf_counter() - self.start < self.limit


def solve(seed: int, limit: float) -> dict[str, Any]:
    """Seconds from the start of training, set-up included, to the first 20 episodes that average 475."""
    start = time.perf_counter()
    gamma = 0.98
    model = RecurrentPPO(
        "MlpLstmPolicy",
        VecNormalize(make_environments(8), gamma=gamma),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=gamma,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda remaining: 1e-3 * remaining,
        clip_range=lambda remaining: 0.2 * remaining,
        policy_kwargs={
            "ortho_init": False,
            "activation_fn": nn.ReLU,
            "lstm_hidden_size": 64,
            "enable_critic_lstm": True,
            "net_arch": {"pi": [64], "vf": [64]},
        },
        seed=seed,
        device="cpu",
    )
    watch = Solved(start, limit)
    model.learn(100_000, callback=watch)
    return {
        "seed": seed,
        "solved": watch.solved,
        "seconds": time.perf_counter() - start,
        "steps": model.num_timesteps,
        "last_returns": float(np.mean(watch.returns)),
    }


class Hidden(gym.ObservationWrapper):
    """A vector without the entries `hide`."""

    def __init__(self, env: gym.Env, hide: list[int]):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.kept = [i for i in range(space.shape[0]) if i not in hide]
        self.observation_space = gym.spaces.Box(space.low[self.kept], space.high[self.kept], dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[self.kept].astype(np.float32)


def robot(env: str, hide: list[int], num_steps: int, seed: int) -> dict[str, Any]:
    """The returns of 100 episodes by the likeliest actions, after training for `num_steps`."""
    start = time.perf_counter()

    def make(num_envs: int) -> DummyVecEnv:
        environments = DummyVecEnv([lambda: Monitor(Hidden(gym.make(env), hide))] * num_envs)
        environments.seed(seed)
        return environments

    normalized = VecNormalize(make(16), gamma=0.99)
    model = RecurrentPPO(
        "MlpLstmPolicy",
        normalized,
        n_steps=256,
        batch_size=128,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.9,
        clip_range=lambda remaining: 0.4 * remaining,
        policy_kwargs={
            "ortho_init": False,
            "activation_fn": nn.ReLU,
            "lstm_hidden_size": 128,
            "enable_critic_lstm": True,
            "net_arch": {"pi": [], "vf": []},
        },
        seed=seed,
        device="cpu",
    )
    model.learn(num_steps)
    seconds = time.perf_counter() - start
    fresh = VecNormalize(make(10), training=False, norm_reward=False)
    fresh.obs_rms = normalized.obs_rms
    returns, _ = evaluate_policy(model, fresh, 100, deterministic=True, return_episode_rewards=True)
    return {"seed": seed, "mean": float(np.mean(returns)), "seconds": seconds, "steps": model.num_timesteps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["throughput", "solve", "robot"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-seconds", type=float, default=1800)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--hide", type=int, nargs="*", default=[])
    parser.add_argument("--num-steps", type=int, default=500_000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.question == "throughput":
        answer = throughput(args.num_envs, args.seconds)
    elif args.question == "solve":
        answer = solve(args.seed, args.limit_seconds)
    else:
        answer = robot(args.env, args.hide, args.num_steps, args.seed)
    packages = ("sb3-contrib", "stable-baselines3", "gymnasium", "torch")
    print(json.dumps({**answer, "versions": {name: version(name) for name in packages}}))


if __name__ == "__main__":
    main()
