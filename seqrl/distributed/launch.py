"""How the learners of a run are started, by `spawn` on this machine or by torchrun, and how they end together."""

import contextlib
import datetime
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from seqrl.distributed.learners import Group, Lost
from seqrl.distributed.processes import end_with_parent
from seqrl.errors import UserError

PATIENCE = 30.0
"""Seconds that a learner which was left alone is given to be not the first cause, but another's loss."""
TIMEOUT = datetime.timedelta(hours=1)
"""How long the learners wait for one of them: far longer than an actor may hang."""
START = "spawn"
"""How processes are started: neither CUDA nor torch's threads survive a fork."""
LOST, INTERRUPTED = b"lost", b"interrupted"
"""What a learner says of its end, if not what went wrong."""


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
    """The learners are not in the terminal's process group, so that Ctrl-C comes here alone, by key or by kill.

    A second one ends them at once, whatever they wait for.
    """
    heard = False

    def forward(signum: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            raise KeyboardInterrupt
        heard = True
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
