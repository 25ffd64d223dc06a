"""Learning from windows of logs: the loop that all who do it share, and what it keeps in checkpoints."""

from collections.abc import Callable, Sized
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seqrl.config import require
from seqrl.data import EpisodeDataset
from seqrl.distributed import ALONE, Group
from seqrl.distributed.sharding import Whole, whole
from seqrl.learner import Learner
from seqrl.offline.config import OfflineConfig
from seqrl.offline.same_log import same_log
from seqrl.run import Run, Stateful
from seqrl.testing.own_memory import warn_of_broken_laws
from seqrl.trajectory import to_device

A = TypeVar("A", bound=nn.Module)
D = TypeVar("D", bound=Sized)
Loss = Callable[[Any, Any, Any], tuple[Tensor, dict[str, Tensor]]]
"""An algorithm's loss(agent, windows, config) -> (loss, metrics)."""
Draw = Callable[[Any, int, Any, torch.Generator], Any]
"""draw(dataset, count, config, generator) -> that many windows."""


class FitConfig(Protocol):
    """The settings that the loop reads."""

    @property
    def seed(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def log_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


def episode_windows(dataset: EpisodeDataset, count: int, config: OfflineConfig, generator: torch.Generator) -> Any:
    """Windows of logged episodes."""
    return dataset.windows(count, config.context_length, generator)


def split(dataset: EpisodeDataset, config: OfflineConfig) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """The episodes to learn from and those held out, if any are: the same each time."""
    if config.held_out > 0 and dataset.num_episodes > 1:
        return dataset.split(config.held_out, config.seed)
    return dataset, None


def fit(
    config: FitConfig,
    agent: A,
    dataset: D,
    held_out: Sized | None,
    run: Run,
    loss: Loss,
    describe: Callable[[A, D], None],
    draw: Draw = episode_windows,
    after_update: Callable[[A], None] | None = None,
    group: Group = ALONE,
    rows: Callable[[Any], float] = lambda windows: 1.0,
    held_out_loss: Loss | None = None,
    sharded: bool = False,
) -> None:
    """Train `agent` on windows of `dataset` to the run's last update, or from where its checkpoint stands.

    A run that begins first has `describe` give the agent what the log says of itself, such as its statistics.
    `after_update` is called after every update, as for target networks. In a `group` each learner draws windows of its
    own, with as many `rows`, and all take the step of the mean over all rows; they end with the same weights. The first
    alone looks at what is held out: by `held_out_loss`, if `loss` asks the others. Where the agent's weights are
    `sharded`, all have to look.
    """
    device = next(agent.parameters()).device
    average, share = (None, group.share) if sharded else (group.average if group.size > 1 else None, None)
    learner = Learner(agent, config.learning_rate, config.max_grad_norm, average, config.weight_decay, share)
    draws, means = Draws(config.seed), Means()
    parts: dict[str, Stateful] = {"agent": agent, "learner": learner, "draws": draws, "means": means}
    if sharded:
        parts |= {"agent": Whole(agent), "learner": Whole(learner)}
    group.add_others(parts, common=tuple(parts))
    counters, entries = run.restore({}), [len(dataset), 0 if held_out is None else len(held_out)]
    step, interrupted = counters.get("step", 0), False
    _check_same_size(run, counters.get("entries", entries), entries, group)
    log = same_log(run, config, counters)
    if step:
        run.restore(parts)
    else:
        describe(agent, dataset)
    if run.is_new:
        warn_of_broken_laws(agent)
    run.begin(step)
    while step < config.num_steps and not interrupted:
        learner.learning_rate = config.learning_rate * min(
            (step + 1) / (config.warmup + 1), 1 - step / config.num_steps
        )
        windows = draw(dataset, config.batch_size, config, draws.generator)
        total, metrics = loss(agent, to_device(windows, device), config)
        norm = learner.update(total, rows(windows))
        metrics, interrupted = _of_all(group, metrics, rows(windows), run.interrupted)
        means.add({**metrics, "grad_norm": whole(norm)})
        if after_update:
            after_update(agent)
        step += 1
        if step % config.log_every == 0 or step == config.num_steps:
            run.log(step, means.take() | held_out_metrics(agent, held_out, config, held_out_loss or loss, draw))
        if step % config.checkpoint_every == 0 or step == config.num_steps or interrupted:
            run.save(parts, {"step": step, "entries": entries, "log": log})


def _check_same_size(run: Run, before: list[int], now: list[int], group: Group) -> None:
    """Raise UserError where a log has grown since the run began: it would be split anew, and a report on what is held
    out be one on what was learnt. Of several learners the first alone has both parts."""
    require(
        before == now or group.rank > 0,
        f"{run.folder} began with a log of another size ({before} to learn from and held out, now {now}): what was "
        "learnt from would be held out; resume with the log that it began with, or train on this one in a new folder",
    )


def _of_all(group: Group, metrics: dict[str, Tensor], rows: float, interrupted: bool) -> tuple[dict[str, Tensor], bool]:
    """Metrics as means over the rows of all learners, and whether the first was asked to stop."""
    if group.size == 1:
        return metrics, interrupted
    values = [value.detach().clone() for value in metrics.values()]
    group.average([*values, stop := values[0].new_tensor(float(interrupted))], rows)
    return dict(zip(metrics, values, strict=True)), bool(stop > 0)


@torch.no_grad()
def held_out_metrics(
    agent: nn.Module, dataset: Any, config: Any, loss: Loss, draw: Draw = episode_windows
) -> dict[str, float]:
    """The loss's metrics on 256 held-out windows, the same each time; none where nothing is held out."""
    if dataset is None:
        return {}
    windows = draw(dataset, 256, config, torch.Generator().manual_seed(1))
    _, metrics = loss(agent, to_device(windows, next(agent.parameters()).device), config)
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
