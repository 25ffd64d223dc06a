"""Actors that act while the learner learns, each in a process of its own on this machine."""

import contextlib
import multiprocessing
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from seqrl.distributed.actor import MakeActor, Shipment, Weights
from seqrl.distributed.engine import Engine, Meter
from seqrl.errors import UserError
from seqrl.malloc import keep_freed_memory

PATIENCE = 0.2
"""Seconds between two looks at whether all is still well."""


@final
class AsyncEngine(Engine):
    """Actors take up the newest weights before each trajectory, and act on without waiting for the learner.

    At most `queue_size` trajectories wait for it. When these are there, each actor sends one more, makes another, and
    stands still: that is the back-pressure. Weights lie in shared memory; trajectories come through pipes.

    As with all that starts processes, a script that trains so needs `if __name__ == "__main__":`.

    They are processes since threads hardly overlap: with 32 environments an actor, a thread that acts and one that
    learns get 43 % and 49 % of what each gets alone, two processes 100 % (docs/log.md).
    """

    def __init__(self, make_actor: MakeActor, num_actors: int, queue_size: int = 4):
        self.environments = _Nothing()
        self.make_actor, self.num_actors = make_actor, num_actors
        self.meter = Meter(num_actors)
        self.shared: SharedWeights | None = None
        self.processes: list[Any] = []
        self.connections: dict[Connection, int] = {}
        self.queue: queue.Queue[Shipment | UserError] = queue.Queue(queue_size)
        self.closed = threading.Event()
        self.receiver = threading.Thread(target=self._receive_all, daemon=True)

    def publish(self, weights: Weights, version: int) -> None:
        """The first call starts the actors."""
        if self.shared is not None:
            self.shared.write(weights, version)
            return
        self.shared = SharedWeights(weights, version)
        context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads may deadlock
        for index in range(self.num_actors):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_act, args=(self.make_actor, index, version, self.shared, theirs), name=f"actor {index}"
            )
            process.start()
            theirs.close()  # so that the pipe ends when the actor does
            self.processes.append(process)
            self.connections[ours] = index
        self.receiver.start()
        self.meter = Meter(self.num_actors)

    def receive(self) -> Shipment:
        start, depth, item = time.perf_counter(), self.queue.qsize(), None
        while item is None:
            assert self.receiver.is_alive() or not self.queue.empty(), "nobody is left to receive from"
            with contextlib.suppress(queue.Empty):
                item = self.queue.get(timeout=PATIENCE)
        if isinstance(item, UserError):
            raise item
        self.meter.received_after(time.perf_counter() - start, item, depth)
        return item

    def _receive_all(self) -> None:
        """Move what comes through the pipes into the queue, in a thread beside the learner."""
        open_connections = dict(self.connections)
        while open_connections and not self.closed.is_set():
            for connection in wait(list(open_connections), PATIENCE):
                assert isinstance(connection, Connection)
                try:
                    self._put(pickle.loads(connection.recv_bytes()))
                    connection.send_bytes(b"")  # the actor may send its next one
                except (EOFError, OSError):
                    self._put(self._death(open_connections.pop(connection)))

    def _death(self, index: int) -> UserError:
        self.processes[index].join(1.0)
        code = self.processes[index].exitcode
        why = "it was killed, as for want of memory" if code == -signal.SIGKILL else "what it said stands above"
        return UserError(
            f"actor {index} ended with exit code {code} ({why}): continue from the last checkpoint with --resume"
        )

    def _put(self, item: Shipment | UserError) -> None:
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put(item, timeout=PATIENCE)
                return

    def metrics(self) -> dict[str, float]:
        return self.meter.metrics()

    def restart(self, seed: int) -> None:
        raise AssertionError("environments that are not saved need no restart")

    def state_dict(self) -> dict:
        """Nothing: a run that goes on begins new episodes."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass

    def close(self) -> None:
        self.closed.set()
        if self.receiver.is_alive():
            self.receiver.join()
        for connection in self.connections:
            connection.close()  # an actor that wants to send finds the pipe broken, and ends
        end = time.monotonic() + 5
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0))
            process.kill()
            process.join()


class SharedWeights:
    """The newest weights, in memory that processes share: one writes, any number read.

    No reader holds a lock, so one that is killed leaves nothing locked. The writer counts up before and after it
    writes; a reader that meets an odd count, or another one after its copy than before it, copies again.
    """

    def __init__(self, weights: Weights, version: int):
        self.weights = {name: leaf.detach().cpu().clone().share_memory_() for name, leaf in weights.items()}
        self.count, self.version = torch.tensor(0).share_memory_(), torch.tensor(version).share_memory_()

    @torch.no_grad()
    def write(self, weights: Weights, version: int) -> None:
        self.count += 1
        for name, leaf in self.weights.items():
            leaf.copy_(weights[name])
        self.version.fill_(version)
        self.count += 1

    def read(self) -> tuple[dict[str, Tensor], int]:
        while True:
            before = int(self.count)
            if before % 2 == 0:
                result = {name: leaf.clone() for name, leaf in self.weights.items()}, int(self.version)
                if int(self.count) == before:
                    return result
            time.sleep(1e-4)


class _Nothing:
    """Environments that a checkpoint need not hold."""

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


def _act(make_actor: MakeActor, index: int, start: int, weights: SharedWeights, connection: Connection) -> None:
    """An actor's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the learner decides when to end
    torch.set_num_threads(1)
    keep_freed_memory()
    with contextlib.suppress(EOFError, OSError):  # of the pipe alone: the learner has ended
        for number, message in enumerate(_messages(make_actor, index, start, weights)):
            if number:
                connection.recv_bytes()  # until the one before has found room in the queue
            connection.send_bytes(pickle.dumps(message))


def _messages(make_actor: MakeActor, index: int, start: int, weights: SharedWeights) -> Iterator[Shipment | UserError]:
    """Trajectories without end, or up to the error that ended the actor."""
    try:
        with contextlib.closing(make_actor(index, start)) as actor:
            while True:
                yield actor.collect(*weights.read())
    except Exception as error:
        yield UserError(_describe(index, error))


def _describe(index: int, error: Exception) -> str:
    """One line of what went wrong in an actor, and where."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UserError):
        return f"actor {index}: {reason}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"actor {index} crashed ({type(error).__name__}: {reason}, {Path(frame.filename).name} line {frame.lineno}): "
        "mend it, then continue from the last checkpoint with --resume"
    )
