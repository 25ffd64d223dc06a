"""Several learners of one run, each a process with actors of its own, that take every step together.

Each learner holds the whole agent and learns from its own share of every batch. Gradients are averaged, and running
statistics take in what all learners saw, so that all hold the same weights and statistics, bit for bit: a sum over
learners is taken once, and handed to all. Source: synchronous data parallelism, as in Espeholt et al. 2018 (IMPALA),
arXiv 1802.01561, section 3.1, whose learners keep the parameters apart; here each has them all.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import gymnasium as gym
import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqrl.checkpoint import from_bytes, to_bytes
from seqrl.data import Episodes
from seqrl.distributed.actor import Shipment
from seqrl.distributed.sharding import Whole
from seqrl.errors import UserError
from seqrl.nets import RunningNorm
from seqrl.run import Run, Stateful
from seqrl.trajectory import Tree, tree_leaves

LARGEST, SUMMED = {"policy_lag_max"}, {"num_actors", "actors_restarted", "trajectories_lost"}
"""Metrics that are not averaged over learners."""


class Lost(UserError):  # noqa: N818  it names what happened, to another learner
    """Another learner has ended, so that this one waits in vain."""

    def __init__(self) -> None:
        super().__init__("another learner has ended: continue from the last checkpoint with --resume")


class Group:
    """This learner, number `rank` of `size`, and what it does with the others. Alone, it does nothing with nobody.

    Every method is to be called by all learners, in the same order. Tensors go by gloo on the CPU and by NCCL on CUDA.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int | None = None):
        """`local_rank` is the number among the learners of this machine, and of its GPU there."""
        self.rank, self.size, self.local_rank = rank, size, rank if local_rank is None else local_rank

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor], weight: Tensor | float) -> None:
        """Set each tensor, a gradient, to its mean over learners by weight: Σ_i w_i g_i / Σ_i w_i. One exchange.

        With a loss that is a mean over rows, and their number as the weight, it is the gradient of the mean over all
        learners' rows, however many each has. Where there is none the gradient is 0.
        """
        if self.size == 1:
            return
        last = tensors[0].new_zeros(1) + weight
        flat = torch.cat([*(tensor.flatten() * last for tensor in tensors), last])
        with _together():
            dist.all_reduce(flat)
        mean = flat[:-1] / flat[-1].clamp(min=torch.finfo(flat.dtype).tiny)
        for tensor, part in zip(tensors, mean.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def share(self, weight: float) -> float:
        """What this learner's loss is multiplied by, where gradients are plain means over learners, so that they become
        those of a mean by weight: n w / Σ_i w_i."""
        if self.size == 1:
            return 1.0
        total = torch.tensor([weight], dtype=torch.float64)
        with _together():
            dist.all_reduce(total)
        return self.size * weight / float(total)

    def join(self, *modules: nn.Module) -> None:
        """Let every running statistic in `modules` take in the rows of all learners, the first learner's first."""
        for module in modules:
            for norm in module.modules():
                if isinstance(norm, RunningNorm) and self.size > 1:
                    norm.gather = self._gather_moments

    def _gather_moments(self, rows: int, mean: Tensor, variance: Tensor) -> Iterable[tuple[int, Tensor, Tensor]]:
        own = torch.cat([torch.tensor([rows]), mean.flatten().cpu(), variance.flatten().cpu()]).double()
        everyones = [torch.empty_like(own) for _ in range(self.size)]
        with _together():
            dist.all_gather(everyones, own)
        for count, means, variances in (one.split([1, mean.numel(), mean.numel()]) for one in everyones):
            yield int(count), means.to(mean), variances.to(mean)

    def gather(self, value: Any) -> list[Any]:
        """Every learner's value, in their order. It goes as JSON."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        with _together():
            dist.all_gather(sizes, torch.tensor([len(data)]))
            padded = data.new_zeros(int(max(sizes)))
            everyones = [torch.empty_like(padded) for _ in range(self.size)]
            padded[: len(data)] = data
            dist.all_gather(everyones, padded)
        return [json.loads(bytes(one[: int(n)].tolist())) for one, n in zip(everyones, sizes, strict=True)]

    def collect(self, own: bytes) -> list[bytes]:
        """To the first learner, what each of the others has, one after the other; to the others, nothing."""
        with _together():
            if self.rank:
                dist.send(torch.tensor([len(own)]), 0)
                dist.send(torch.frombuffer(bytearray(own), dtype=torch.uint8), 0)
                return []
            result = []
            for rank in range(1, self.size):
                length = torch.empty(1, dtype=torch.int64)
                dist.recv(length, rank)
                data = torch.empty(int(length), dtype=torch.uint8)
                dist.recv(data, rank)
                result.append(data.numpy().tobytes())
            return result

    def report(
        self, fresh: Sequence[Shipment], rows: float, metrics: dict[str, float], interrupted: bool
    ) -> tuple[int, dict[str, float], bool]:
        """What all learners did in an update: their environments' steps, what is to be logged, and whether to stop.

        Metrics are means over learners, weighted by the `rows` that each learnt from; of `LARGEST` the largest, of
        `SUMMED` the sum. Returns and lengths are means over all episodes. It is the first learner that Ctrl-C reaches.
        """
        steps = sum(shipment.trajectory.reward.numel() for shipment in fresh)
        returns = [value for shipment in fresh for value in shipment.episodes.returns]
        lengths = [value for shipment in fresh for value in shipment.episodes.lengths]
        reports = [Report(*report) for report in self.gather([steps, returns, lengths, rows, metrics, interrupted])]
        episodes = Episodes([x for r in reports for x in r.returns], [x for r in reports for x in r.lengths])
        merged = _merged([(report.metrics, report.rows) for report in reports]) if self.size > 1 else metrics
        return sum(r.steps for r in reports), {**episodes.metrics(), **merged}, any(r.interrupted for r in reports)

    def open(self, config: Any, observation_space: gym.Space, action_space: gym.Space, resume: bool) -> Run:
        """`Run.open`, by the first learner alone."""
        if self.rank:
            follower = Follower(Path(config.run_dir))
            follower.start_from = config.start_from
            return follower
        return Run.open(config, observation_space, action_space, resume)

    def add_others(self, parts: dict[str, Stateful], common: Sequence[str]) -> None:
        """Let a checkpoint hold, besides the first learner's `parts`, those of the others that are not in `common`."""
        if self.size > 1:
            own = {name: part for name, part in parts.items() if name not in common}
            parts["others"] = Others(self, own, {name: parts[name] for name in common})


ALONE = Group()


class Report(NamedTuple):
    """What one learner did in an update."""

    steps: int
    returns: list[float]
    lengths: list[int]
    rows: float
    metrics: dict[str, float]
    interrupted: bool


def _merged(everyones: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """Metrics of all learners, of which each has learnt from a number of rows."""
    total = max(sum(rows for _, rows in everyones), 1)
    result = {}
    for name in everyones[0][0]:
        values = [metrics[name] for metrics, _ in everyones]
        mean = sum(metrics[name] * rows for metrics, rows in everyones) / total
        result[name] = max(values) if name in LARGEST else sum(values) if name in SUMMED else mean
    return result


class Others:
    """What a checkpoint holds of the learners after the first: `parts` of each, which the first has of its own too.

    It is to be the last part to be loaded: on the other learners it replaces what the first one's parts brought.
    """

    def __init__(self, group: Group, parts: dict[str, Stateful], common: dict[str, Stateful]):
        """`common` are those that all learners hold alike, to the last bit."""
        self.group, self.parts, self.common = group, parts, common

    def state_dict(self) -> dict[str, Tree]:
        """Empty but on the first learner, which alone writes."""
        digest = hashlib.sha256()
        for leaf in tree_leaves({name: dict(part.state_dict()) for name, part in self.common.items()}):
            digest.update(leaf.detach().cpu().numpy().tobytes())
        assert len(set(self.group.gather(digest.hexdigest()))) == 1, "the learners hold different weights"
        own = {name: dict(part.state_dict()) for name, part in self.parts.items()} if self.group.rank else {}
        everyones = self.group.collect(to_bytes(own, {}))
        return {str(rank): from_bytes(data)[0] for rank, data in enumerate(everyones, 1)}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        """Raises ValueError for a state of another number of learners."""
        if len(state) != self.group.size - 1:
            raise ValueError(f"it is of {len(state) + 1} learners, not of {self.group.size}")
        for name, part in self.parts.items() if self.group.rank else ():
            part.load_state_dict(state[str(self.group.rank)][name])


class Follower(Run):
    """The run as the learners after the first see it: they read its folder, and write nothing."""

    def __init__(self, folder: Path):
        super().__init__(folder, 0, "")

    def save(self, parts: dict[str, Stateful], counters: dict[str, Any]) -> None:
        """Give the first learner what it is to write."""
        for part in parts.values():
            if isinstance(part, Whole):  # the first learner puts it together for itself, which takes all
                part.state_dict()
        parts["others"].state_dict()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        pass

    def begin(self, step: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of all kinds, when a connection ends
        raise Lost from error
