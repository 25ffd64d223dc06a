"""Learning from windows of logged episodes: the loop that all who do it share, and what it keeps in checkpoints."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from seqrl.acting import ActingModule
from seqrl.data import EpisodeDataset, Windows
from seqrl.learner import Learner
from seqrl.offline_config import OfflineConfig
from seqrl.run import Run, Stateful
from seqrl.trajectory import to_device

A = TypeVar("A", bound=ActingModule)
Loss = Callable[[Any, Windows, Any], tuple[Tensor, dict[str, Tensor]]]
"""An algorithm's loss(agent, windows, config) -> (loss, metrics)."""


def split(dataset: EpisodeDataset, config: OfflineConfig) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """The episodes to learn from and those held out, if any are: the same each time."""
    if config.held_out > 0 and dataset.num_episodes > 1:
        return dataset.split(config.held_out, config.seed)
    return dataset, None


def fit(
    config: OfflineConfig,
    agent: A,
    dataset: EpisodeDataset,
    held_out: EpisodeDataset | None,
    run: Run,
    loss: Loss,
    describe: Callable[[A, EpisodeDataset], None],
) -> None:
    """Train `agent` on windows of `dataset` to the run's last update, or from where its checkpoint stands.

    A run that begins first has `describe` give the agent what the log says of itself, such as its statistics.
    """
    learner = Learner(agent, config.learning_rate, config.max_grad_norm, weight_decay=config.weight_decay)
    draws, means = Draws(config.seed), Means()
    parts: dict[str, Stateful] = {"agent": agent, "learner": learner, "draws": draws, "means": means}
    step = run.restore({}).get("step", 0)
    if step:
        run.restore(parts)
    else:
        describe(agent, dataset)
    run.begin(step)
    while step < config.num_steps and not run.interrupted:
        learner.learning_rate = config.learning_rate * min(
            (step + 1) / (config.warmup + 1), 1 - step / config.num_steps
        )
        windows = dataset.windows(config.batch_size, config.context_length, draws.generator)
        total, metrics = loss(agent, to_device(windows, agent.device), config)
        means.add({**metrics, "grad_norm": learner.update(total)})
        step += 1
        if step % config.log_every == 0 or step == config.num_steps:
            run.log(step, means.take() | (held_out_metrics(agent, held_out, config, loss) if held_out else {}))
        if step % config.checkpoint_every == 0 or step == config.num_steps or run.interrupted:
            run.save(parts, {"step": step})


@torch.no_grad()
def held_out_metrics(
    agent: ActingModule, dataset: EpisodeDataset, config: OfflineConfig, loss: Loss
) -> dict[str, float]:
    """The loss's metrics on held-out episodes, on the same windows each time."""
    windows = dataset.windows(256, config.context_length, torch.Generator().manual_seed(1))
    _, metrics = loss(agent, to_device(windows, agent.device), config)
    return {f"held_out_{name}": float(value) for name, value in metrics.items()}


class Draws:
    """The generator of windows, as a part of a checkpoint."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())


class Means:
    """The means of metrics since they were last taken, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in {**metrics, "count": torch.ones(())}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def take(self) -> dict[str, float]:
        count = float(self.sums.pop("count"))
        taken = {name: float(value) / count for name, value in self.sums.items()}
        self.sums.clear()
        return taken

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums = dict(state)
