"""Sample Factory's asynchronous PPO on CartPole without velocities: how fast it trains.

    python -P sample_factory.py throughput --num-workers 2 --envs-per-worker 32 --epochs 4 --threads 2 --seconds 20

It runs environments, inference and learning in processes of their own, each on one thread whatever is asked for;
`--threads` is therefore the number of cores that all of them share. One encoder layer as wide as the memory, as in
seqrl. Steps are counted where they were learnt from, once each, however many epochs there are.

`--epochs 1 --minibatches 1` learns from each step once and with one update of each batch, as IMPALA does.
"""

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

ROLLOUT, HIDDEN = 128, 128


class Positions(gym.ObservationWrapper):
    """CartPole's positions without its velocities."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


def make_environment(name: str, config: Any, place: Any, render_mode: str | None = None) -> gym.Env:
    return Positions(gym.make("CartPole-v1"))


class Stopwatch(AlgoObserver):
    """Notes when each training iteration ended, and ends training `seconds` after the second of them.

    The first fills the pipeline. The count of steps that the runner knows lags one iteration behind, always.
    """

    def __init__(self, seconds: float):
        self.limit = seconds
        self.moments: list[tuple[float, int]] = []

    @property
    def seconds(self) -> float:
        return self.moments[-1][0] - self.moments[1][0]

    @property
    def steps(self) -> int:
        return self.moments[-1][1] - self.moments[1][1]

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        if runner.stopped:
            return
        self.moments.append((time.perf_counter(), runner.env_steps[0]))
        if len(self.moments) > 2 and self.seconds >= self.limit:
            runner.cfg.train_for_env_steps = 0  # it compares its steps with this next, and ends


def throughput(
    num_workers: int, envs_per_worker: int, epochs: int, minibatches: int, seconds: float, folder: str
) -> dict[str, Any]:
    """Steps per second of training, environments included."""
    register_env("masked_cartpole", make_environment)
    num_envs = num_workers * envs_per_worker
    settings = {
        "env": "masked_cartpole",
        "train_dir": folder,
        "device": "cpu",
        "async_rl": True,
        "num_workers": num_workers,
        "num_envs_per_worker": envs_per_worker,
        "rollout": ROLLOUT,
        "recurrence": ROLLOUT,
        "batch_size": ROLLOUT * num_envs // minibatches,
        "num_batches_per_epoch": minibatches,
        "num_epochs": epochs,
        "use_rnn": True,
        "rnn_type": "gru",
        "rnn_size": HIDDEN,
        "encoder_mlp_layers": HIDDEN,
    }
    words = [f"--{name}={value}" for name, value in settings.items()]
    parser, _ = parse_sf_args(words)
    _, runner = make_runner(parse_full_cfg(parser, words))
    watch = Stopwatch(seconds)
    runner.register_observer(watch)
    runner.init()
    runner.run()
    return {
        "memory": "GRU, shared by policy and value",
        "num_envs": num_envs,
        "num_workers": num_workers,
        "envs_per_worker": envs_per_worker,
        "epochs": epochs,
        "minibatches": minibatches,
        "steps_per_second": watch.steps / watch.seconds,
        "updates": len(watch.moments) - 2,
        "seconds": watch.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["throughput"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--envs-per-worker", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what the library and its processes print goes to standard error
    with tempfile.TemporaryDirectory() as folder:
        answer = throughput(args.num_workers, args.envs_per_worker, args.epochs, args.minibatches, args.seconds, folder)
    packages = ("sample-factory", "gymnasium", "torch")
    with os.fdopen(answer_to, "w") as out:
        print(json.dumps({**answer, "versions": {name: version(name) for name in packages}}), file=out)


if __name__ == "__main__":
    main()
