"""Several learners of one run, each a process with actors of its own, that take every step together.

Each learner holds the whole agent and learns from its own share of every batch. Gradients are averaged, and running
statistics take in what all learners saw, so that all hold the same weights and statistics, bit for bit: a sum over
learners is taken once, and handed to all. Source: synchronous data parallelism, as in Espeholt et al. 2018 (IMPALA),
arXiv 1802.01561, section 3.1, whose learners keep the parameters apart; here each has them all.
"""

import contextlib
import datetime
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import gymnasium as gym
import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqrl.checkpoint import from_bytes, to_bytes
from seqrl.data import Episodes
from seqrl.distributed.actor import Shipment
from seqrl.distributed.processes import end_with_parent
from seqrl.errors import UserError
from seqrl.nets import RunningNorm
from seqrl.run import Run, Stateful
from seqrl.trajectory import Tree

PATIENCE = 30.0
"""Seconds that a learner which was left alone is given to be not the first cause, but another's loss."""
TIMEOUT = datetime.timedelta(hours=1)
"""How long the learners wait for one of them: far longer than an actor may hang."""
START = "spawn"
"""How processes are started: neither CUDA nor torch's threads survive a fork."""
LOST, INTERRUPTED = b"lost", b"interrupted"
"""What a learner says of its end, if not what went wrong."""
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

    def open(
        self, algorithm: str, config: Any, observation_space: gym.Space, action_space: gym.Space, resume: bool
    ) -> Run:
        """`Run.open`, by the first learner alone."""
        if self.rank:
            return Follower(Path(config.run_dir))
        return Run.open(algorithm, config, observation_space, action_space, resume)

    def add_others(self, parts: dict[str, Stateful], common: Sequence[str]) -> None:
        """Let a checkpoint hold, besides the first learner's `parts`, those of the others that are not in `common`."""
        if self.size > 1:
            parts["others"] = Others(self, {name: part for name, part in parts.items() if name not in common})


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

    def __init__(self, group: Group, parts: dict[str, Stateful]):
        self.group, self.parts = group, parts

    def state_dict(self) -> dict[str, Tree]:
        """Empty but on the first learner, which alone writes."""
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


def is_first() -> bool:
    """Whether this process is to write and to say anything: all are, but those that torchrun started as others."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


@contextlib.contextmanager
def torchrun_group(cuda: bool) -> Iterator[Group | None]:
    """The learners that torchrun has started, of which this process is one; None where it has not, or one alone.

    Between machines, all must see the run's folder.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield None
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    if cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(_backend(cuda), timeout=TIMEOUT)
    yield Group(dist.get_rank(), dist.get_world_size(), local_rank)
    dist.destroy_process_group()  # not after an error: it would wait for the others


def _backend(cuda: bool) -> str:
    return "cpu:gloo,cuda:nccl" if cuda else "gloo"


def spawn(work: Callable[..., object], size: int, *arguments: Any, cuda: bool = False) -> None:
    """Call work(group, *arguments) in `size` processes on this machine, and wait for them. With `cuda`, learner i is
    on the GPU i. Raises UserError where there are not enough of them.

    When one fails the others are killed, and its error is raised here, as one UserError; Ctrl-C reaches the first
    learner alone. `work` and `arguments` can be pickled. A script that calls this needs
    `if __name__ == "__main__":`.
    """
    gpus = torch.cuda.device_count()
    if cuda and size > gpus:
        raise UserError(f"--num-learners {size} on --device cuda: there are {gpus} GPUs here, and each needs one")
    context: Any = multiprocessing.get_context(START)
    with tempfile.TemporaryDirectory(prefix="seqrl-") as folder:
        store = str(Path(folder) / "store")  # a file, not a port: there is none to be taken, and none to be open
        processes, pipes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_learner, args=(rank, size, store, cuda, theirs, work, arguments), name=f"learner {rank}"
            )
            processes.append(process)
            pipes.append((ours, theirs))
        try:
            for process, (_, theirs) in zip(processes, pipes, strict=True):
                process.start()
                theirs.close()  # so that the pipe ends when the learner does
            with _interrupts_go_to(processes[0]):
                _wait_for(processes, [ours for ours, _ in pipes])
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


@contextlib.contextmanager
def _interrupts_go_to(process: Any) -> Iterator[None]:
    """The learners are not in the terminal's process group, so that Ctrl-C comes here alone, by key or by kill."""

    def forward(signum: int, frame: FrameType | None) -> None:
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for(processes: list[Any], pipes: list[Connection]) -> None:
    """Wait until all have ended. One that ends takes its connections with it, so that the others are lost soon after:
    what is raised is the failure that is not a loss."""
    running, lost_since = dict(enumerate(processes)), float("inf")
    while running and time.monotonic() < lost_since + PATIENCE:
        wait([process.sentinel for process in running.values()], 1.0)
        for rank, process in list(running.items()):
            if process.is_alive():
                continue
            del running[rank]
            said = b""
            with contextlib.suppress(EOFError):  # where it said nothing
                said = pipes[rank].recv_bytes()
            if said == LOST:
                lost_since = min(lost_since, time.monotonic())
            elif said == INTERRUPTED:
                raise KeyboardInterrupt
            elif said or process.exitcode:
                raise UserError(said.decode() or _ended(rank, process.exitcode))
    if lost_since < float("inf"):
        raise Lost


def _ended(rank: int, code: int) -> str:
    how = "was killed" if code == -signal.SIGKILL else f"ended with exit code {code}"
    return f"learner {rank} {how}: continue from the last checkpoint with --resume"


def _learner(
    rank: int,
    size: int,
    store: str,
    cuda: bool,
    pipe: Connection,
    work: Callable[..., object],
    arguments: Sequence[Any],
) -> None:
    """A learner's process."""
    end_with_parent()
    os.setpgid(0, 0)
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one decides when to end, for all
    if cuda:
        torch.cuda.set_device(rank)
    try:
        with _process_group(rank, size, store, cuda):
            work(Group(rank, size), *arguments)
    except Lost:
        _end_with(pipe, LOST)
    except KeyboardInterrupt:
        _end_with(pipe, INTERRUPTED)
    except UserError as error:
        _end_with(pipe, (f"learner {rank}: {error}" if rank else str(error)).encode())
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _end_with(pipe, f"learner {rank} crashed ({reason}): continue from the last checkpoint with --resume".encode())


def _end_with(pipe: Connection, message: bytes) -> None:
    pipe.send_bytes(message)
    pipe.close()
    sys.exit(1)


@contextlib.contextmanager
def _process_group(rank: int, size: int, store: str, cuda: bool) -> Iterator[None]:
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:  # gloo would take the address of the machine's name, which strangers may reach, or which has none
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    dist.init_process_group(
        _backend(cuda), store=dist.FileStore(store, size), rank=rank, world_size=size, timeout=TIMEOUT
    )
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others
