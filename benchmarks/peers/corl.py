"""CORL's Decision Transformer: how fast it learns from logged episodes, and how fast it acts.

    python -P corl.py decision_transformer --threads 1 --seconds 5

CORL is files to read and run, not a package: the installer puts its `dt.py` beside this environment's Python. Its own
`train` runs here as it stands, with its own settings, loader, clipped AdamW and schedule; only what it imports for data
and logs (d4rl, gym, pyrallis, wandb) is stood in for, and the stand-in of its log tells the time and ends the run. Its
loader works in the same process, since it takes next to nothing of it. It learns without dropout, as seqrl does
(*whole*), with what it has by default (*dropout 0.1*), and without dropout from one batch over and over (*without
data*).

It acts in one environment by its own `eval_rollout`. It has nothing for several at once; *64* is its model called on 64
windows of the last steps at once, in a loop written here.

`count` gives the floating-point operations of its matrix products in one batch, as PyTorch counts them.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

STATE, ACTION, EPISODES, LENGTH = 17, 6, 200, 1000
NUM_ENVS = 64


class Environment:
    """Nothing but shapes, and the moments of its steps, which take next to nothing. It also has the logged episodes."""

    observation_space = SimpleNamespace(shape=(STATE,))
    action_space = SimpleNamespace(shape=(ACTION,), seed=lambda seed: None)

    def __init__(self) -> None:
        self.observations = np.random.default_rng(0).normal(size=(LENGTH + 1, STATE)).astype(np.float32)
        self.steps = 0
        self.moments: list[float] = []

    def seed(self, seed: int) -> None:
        """Its observations are always the same."""

    def reset(self) -> np.ndarray:
        self.steps = 0
        return self.observations[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.moments.append(now())
        self.steps += 1
        return self.observations[self.steps], 0.5, self.steps == LENGTH, {}

    def get_dataset(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        steps = EPISODES * LENGTH
        ends = np.arange(steps) % LENGTH == LENGTH - 1
        return {
            "observations": random.normal(size=(steps, STATE)).astype(np.float32),
            "actions": random.uniform(-1, 1, size=(steps, ACTION)).astype(np.float32),
            "rewards": random.random(steps, np.float32),
            "terminals": np.zeros(steps, bool),
            "timeouts": ends,
        }


class Enough(Exception):  # noqa: N818 (it is no error)
    """Leaves a training run that has shown what it was run for."""


def corl() -> Any:
    """CORL's module, with stand-ins for what it imports and does not need here."""

    def unchanged(env: Any, function: Any) -> Any:
        return env

    wrappers = SimpleNamespace(TransformObservation=unchanged, TransformReward=unchanged)
    stands: dict[str, dict[str, Any]] = {
        "d4rl": {},
        "gym": {"Env": Environment, "make": lambda name: Environment(), "wrappers": wrappers},
        "pyrallis": {"wrap": lambda: lambda function: function},
        "wandb": {"init": lambda **settings: None, "run": SimpleNamespace(save=lambda: None)},
    }
    for name, contents in stands.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents)
    spec = importlib.util.spec_from_file_location("corl_dt", Path(sys.prefix) / "dt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def now() -> float:
    """Processor time where there is one thread, which other work on the machine does not lengthen."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def quickest(moments: list[float], block: int) -> float:
    """The least time between two moments, of a block of `block` of them: what else goes on only ever adds."""
    return min(end - begin for begin, end in zip(moments, moments[block:], strict=False)) / block


def updates(dt: Any, seconds: float, dropout: float = 0.0, without_data: bool = False) -> float:
    """Updates a second of CORL's `train`, by its quickest five in a row; the first five do not count."""
    moments: list[float] = []

    def log(values: dict[str, float], step: int) -> None:
        moments.append(now())
        if len(moments) > 10 and moments[-1] - moments[4] >= seconds:
            raise Enough

    loader = dt.DataLoader
    if without_data:
        dt.DataLoader = lambda *args, **options: itertools.repeat(next(iter(loader(*args, **options))))
    dt.wandb.log = log
    rates = {f"{place}_dropout": dropout for place in ("attention", "residual", "embedding")}
    with contextlib.suppress(Enough):
        dt.train(dt.TrainConfig(device="cpu", num_workers=0, target_returns=(), **rates))
    dt.DataLoader = loader
    return 1 / quickest(moments[4:], 5)


def make_model(dt: Any) -> Any:
    """As CORL's `train` makes it, for acting."""
    config = dt.TrainConfig()
    model = dt.DecisionTransformer(
        state_dim=STATE,
        action_dim=ACTION,
        embedding_dim=config.embedding_dim,
        seq_len=config.seq_len,
        episode_len=config.episode_len,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        attention_dropout=config.attention_dropout,
        residual_dropout=config.residual_dropout,
        embedding_dropout=config.embedding_dropout,
        max_action=config.max_action,
    )
    return model.eval()


def actions(dt: Any, model: Any, seconds: float) -> float:
    """Actions a second of CORL's `eval_rollout`, by its quickest 100 in a row; the first episode does not count."""
    dt.eval_rollout(model, Environment(), 6.0)
    environment = Environment()
    while len(environment.moments) < LENGTH or environment.moments[-1] - environment.moments[0] < seconds:
        dt.eval_rollout(model, environment, 6.0)
    return 1 / quickest(environment.moments, 100)


@torch.no_grad()
def actions_of_several(model: Any, seconds: float) -> float:
    """Actions a second in `NUM_ENVS` environments, by the quickest five steps in a row, with whole windows."""
    K, moments = model.seq_len, [now()]
    states = torch.from_numpy(Environment().observations).repeat(NUM_ENVS, 1, 1)
    taken, returns = torch.zeros(NUM_ENVS, LENGTH, ACTION), torch.full((NUM_ENVS, LENGTH), 6.0)
    time_steps = torch.arange(LENGTH).repeat(NUM_ENVS, 1)
    for t in range(K, LENGTH):
        window = slice(t - K + 1, t + 1)
        answer = model(states[:, window], taken[:, window], returns[:, window], time_steps[:, window])
        taken[:, t] = answer[:, -1]
        moments.append(now())
        if len(moments) > 10 and moments[-1] - moments[5] >= seconds:
            break
    return NUM_ENVS / quickest(moments[5:], 5)


def speeds(dt: Any, seconds: float) -> dict[str, Any]:
    model = make_model(dt)
    return {
        "updates": {
            "whole": updates(dt, seconds),
            "dropout 0.1": updates(dt, seconds, dropout=0.1),
            "without data": updates(dt, seconds, without_data=True),
        },
        "actions": {"1": actions(dt, model, seconds), "64": actions_of_several(model, seconds)},
    }


def count(dt: Any) -> dict[str, int]:
    """Floating-point operations of one batch, forwards and in an update: two for a multiplication and a sum."""
    model, B, K = make_model(dt).train(), dt.TrainConfig.batch_size, dt.TrainConfig.seq_len
    inputs = torch.randn(B, K, STATE), torch.randn(B, K, ACTION), torch.randn(B, K), torch.arange(K).repeat(B, 1)
    with FlopCounterMode(display=False) as counter:
        forwards = model(*inputs, torch.zeros(B, K, dtype=torch.bool))
        operations = counter.get_total_flops()
        forwards.sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"forwards": operations, "update": counter.get_total_flops(), "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["decision_transformer", "count"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dt = corl()
    answer = speeds(dt, args.seconds) if args.question == "decision_transformer" else count(dt)
    print(json.dumps({**answer, "versions": {name: version(name) for name in ("torch", "numpy")}}))


if __name__ == "__main__":
    main()
