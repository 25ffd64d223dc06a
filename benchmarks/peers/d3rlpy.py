"""d3rlpy's Decision Transformer: how fast it learns from logged episodes, and how fast it acts.

    python -P d3rlpy.py decision_transformer --threads 1 --seconds 5

Its own `fit` and replay of episodes, without its log: without dropout, as seqrl learns (*whole*), and with what it has
by default (*dropout 0.1*); and its own `update` of one batch over and over (*without data*, and dropout). Width,
clipping, weight decay and warm-up are those of its own script for D4RL, all else its defaults; *as it comes*, its
encoder, and with it the model, is 256 wide. It acts by its own `evaluate_transformer_with_environment`, in one
environment: it can do no batch.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import d3rlpy
import gymnasium as gym
import numpy as np
import torch
from d3rlpy.algos import DecisionTransformer, DecisionTransformerConfig
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.metrics import evaluate_transformer_with_environment
from d3rlpy.models import DefaultEncoderFactory, VectorEncoderFactory
from d3rlpy.optimizers import GPTAdamWFactory
from d3rlpy.optimizers.lr_schedulers import WarmupSchedulerFactory

STATE, ACTION, EPISODES, LENGTH = 17, 6, 200, 1000


class Environment(gym.Env):
    """Nothing but shapes, and the moments of its steps, which take next to nothing."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (STATE,))
    action_space = gym.spaces.Box(-1, 1, (ACTION,))

    def __init__(self) -> None:
        self.observations = np.random.default_rng(0).normal(size=(LENGTH + 1, STATE)).astype(np.float32)
        self.steps = 0
        self.moments: list[float] = []

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return self.observations[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.moments.append(now())
        self.steps += 1
        return self.observations[self.steps], 0.5, False, self.steps == LENGTH, {}


def make_algorithm(dropout: float = 0.0, **options: Any) -> DecisionTransformer:
    """Three layers, one head, batches of 64 and a context of 20 are its defaults."""
    rates = {f"{place}_dropout": dropout for place in ("attn", "resid", "embed")}
    options.setdefault("encoder_factory", VectorEncoderFactory([128], exclude_last_activation=True))
    return DecisionTransformerConfig(
        optim_factory=GPTAdamWFactory(
            weight_decay=1e-4, clip_grad_norm=0.25, lr_scheduler_factory=WarmupSchedulerFactory(10_000)
        ),
        reward_scaler=d3rlpy.preprocessing.MultiplyRewardScaler(0.001),
        max_timestep=LENGTH,
        **rates,
        **options,
    ).create(device="cpu:0")


def make_dataset() -> d3rlpy.dataset.ReplayBuffer:
    random = np.random.default_rng(0)
    steps = EPISODES * LENGTH
    return d3rlpy.dataset.MDPDataset(
        random.normal(size=(steps, STATE)).astype(np.float32),
        random.uniform(-1, 1, size=(steps, ACTION)).astype(np.float32),
        random.random((steps, 1), np.float32),
        np.zeros(steps, np.float32),
        (np.arange(steps) % LENGTH == LENGTH - 1).astype(np.float32),
    )


class Enough(Exception):  # noqa: N818 (it is no error)
    """Leaves a training run that has shown what it was run for."""


def now() -> float:
    """Processor time where there is one thread, which other work on the machine does not lengthen."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def quickest(moments: list[float], block: int) -> float:
    """The least time between two moments, of a block of `block` of them: what else goes on only ever adds."""
    return min(end - begin for begin, end in zip(moments, moments[block:], strict=False)) / block


def updates(run: Callable[[Callable[..., None]], None], seconds: float) -> float:
    """Updates a second of `run`, which calls back after each, by the quickest five in a row after the first five."""
    moments: list[float] = []

    def callback(*_: Any) -> None:
        moments.append(now())
        if len(moments) > 10 and moments[-1] - moments[4] >= seconds:
            raise Enough

    with contextlib.suppress(Enough):
        run(callback)
    return 1 / quickest(moments[4:], 5)


def actions(algorithm: DecisionTransformer, seconds: float) -> float:
    """Actions a second, by the quickest 100 in a row; the first episode does not count."""
    actor = algorithm.as_stateful_wrapper(target_return=6000.0)
    evaluate_transformer_with_environment(actor, Environment(), n_trials=1)
    environment = Environment()
    while len(environment.moments) < LENGTH or environment.moments[-1] - environment.moments[0] < seconds:
        evaluate_transformer_with_environment(actor, environment, n_trials=1)
    return 1 / quickest(environment.moments, 100)


def speeds(seconds: float) -> dict[str, Any]:
    dataset = make_dataset()
    algorithm = make_algorithm()
    others = {
        "dropout 0.1": make_algorithm(dropout=0.1),
        "as it comes": make_algorithm(dropout=0.1, encoder_factory=DefaultEncoderFactory()),
    }

    def fit(algorithm: DecisionTransformer, callback: Callable[..., None]) -> None:
        log = NoopAdapterFactory()
        algorithm.fit(dataset, 10_000, 10_000, logger_adapter=log, show_progress=False, callback=callback)

    def update_over_and_over(callback: Callable[..., None]) -> None:
        batch = dataset.sample_trajectory_batch(algorithm.config.batch_size, algorithm.config.context_size)
        while True:
            algorithm.update(batch)
            callback()

    return {
        "updates": {
            "whole": updates(functools.partial(fit, algorithm), seconds),
            **{name: updates(functools.partial(fit, other), seconds) for name, other in others.items()},
            "without data": updates(update_over_and_over, seconds),
        },
        "actions": {"1": actions(algorithm, seconds)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["decision_transformer"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    d3rlpy.seed(0)
    versions = {name: version(name) for name in ("d3rlpy", "torch", "numpy")}
    print(json.dumps({**speeds(args.seconds), "versions": versions}))


if __name__ == "__main__":
    main()
