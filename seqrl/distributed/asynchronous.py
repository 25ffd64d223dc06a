"""Actors that act while the learner learns, each in a process of its own on this machine."""

import contextlib
import math
import multiprocessing
import queue
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, final

import torch
from torch import Tensor

from seqrl.distributed.actor import MakeActor, Shipment, Weights
from seqrl.distributed.engine import Deaths, Engine, Meter, Unsaved, describe
from seqrl.distributed.processes import end_with_parent
from seqrl.errors import UserError
from seqrl.malloc import keep_freed_memory

PATIENCE = 0.2
"""Seconds between two looks at whether all is still well."""
BEGUN, ERROR = b"begun", b"error "
"""What an actor sends besides its trajectories, whose bytes begin with a length and hence with neither."""


@final
class AsyncEngine(Engine):
    """Actors take up the newest weights before each trajectory, and act on without waiting for the learner.

    At most `queue_size` trajectories wait for it. When these are there, each actor sends one more, makes another, and
    stands still: that is the back-pressure. Weights lie in shared memory; trajectories come through pipes.

    As with all that starts processes, a script that trains so needs `if __name__ == "__main__":`.

    They are processes since threads hardly overlap where each has few environments (docs/log.md).
    """

    def __init__(self, make_actor: MakeActor, num_actors: int, queue_size: int = 4, timeout: float = 300.0):
        """An actor that sends nothing for `timeout` seconds hangs: it is killed, and begun anew."""
        self.environments = self.acting = Unsaved()
        self.make_actor, self.num_actors, self.timeout = make_actor, num_actors, timeout
        self.meter, self.deaths = Meter(num_actors), Deaths()
        self.shared: SharedWeights | None = None
        self.start = self.added = 0
        self.processes: dict[int, Any] = {}
        self.leaving: list[Any] = []
        """Processes of actors that are to end."""
        self.connections: dict[Connection, int] = {}
        self.heard: dict[int, float] = {}
        """When an actor last gave something, or began: that takes seconds, and is not timed."""
        self.queue: queue.Queue[Shipment | UserError] = queue.Queue(queue_size)
        self.closed = threading.Event()
        self.receiver = threading.Thread(target=self._receive_all, daemon=True)

    def publish(self, weights: Weights, version: int, start: int | None = None) -> None:
        """The first call starts the actors."""
        if self.shared is not None:
            self.shared.write(weights, version)
            return
        self.shared, self.start = SharedWeights(weights, version), version if start is None else start
        for index in range(self.num_actors):
            self._begin(index)
        self.receiver.start()
        self.meter = Meter(self.num_actors)

    def _begin(self, index: int) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads may deadlock
        ours, theirs = context.Pipe()
        start = self.start + self.deaths.restarted + self.added
        process = context.Process(
            target=_act, args=(self.make_actor, index, start, self.shared, theirs), name=f"actor {index}"
        )
        process.start()
        theirs.close()  # so that the pipe ends when the actor does
        self.processes[index], self.connections[ours] = process, index
        self.heard.pop(index, None)

    def resize(self, num_actors: int) -> None:
        """The receiver sees to it: at once where it does not wait for room in the queue."""
        self.num_actors = self.meter.num_actors = num_actors

    def _follow_size(self) -> None:
        for connection in [c for c, index in self.connections.items() if index >= self.num_actors]:
            self.leaving.append(self.processes.pop(self.connections.pop(connection)))
            connection.close()  # the actor finds the pipe broken once it has a trajectory, and ends
        for index in range(len(self.processes), self.num_actors):
            self.added += 1
            self._begin(index)

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
        try:
            while not self.closed.is_set():
                self._follow_size()
                self._receive_some()
        except UserError as error:
            self._put(error)

    def _receive_some(self) -> None:
        ready = wait(list(self.connections), PATIENCE)
        for connection in list(self.connections):
            index = self.connections[connection]
            if connection not in ready:
                silent = time.monotonic() - self.heard.get(index, math.inf) > self.timeout
                if silent and not connection.poll():  # it may have sent while another's waited for room in the queue
                    self.processes[index].kill()
                    self._replace(connection, f"sent nothing for {self.timeout:g} seconds, and was killed")
                continue
            try:
                data = connection.recv_bytes()
            except (EOFError, OSError):
                self._replace(connection)
                continue
            if data.startswith(ERROR):
                raise UserError(data.removeprefix(ERROR).decode())
            if data != BEGUN:
                self._put(Shipment.from_bytes(data))
                self.deaths.sent(index)
            self.heard[index] = time.monotonic()
            with contextlib.suppress(OSError):  # dead by now: that shows the next time
                connection.send_bytes(b"")  # the actor may send its next one

    def _replace(self, connection: Connection, why: str | None = None) -> None:
        index = self.connections.pop(connection)
        connection.close()
        process = self.processes[index]
        process.join(1)
        code = process.exitcode
        process.kill()
        process.join()
        killed = why is None and code == -signal.SIGKILL
        why = why or ("was killed" if killed else f"ended with exit code {code}")
        self.deaths.died(index, why, from_outside=killed)
        self._begin(index)

    def _put(self, item: Shipment | UserError) -> None:
        while not self.closed.is_set():
            with contextlib.suppress(queue.Full):
                self.queue.put(item, timeout=PATIENCE)
                return

    def metrics(self) -> dict[str, float]:
        return {"num_actors": float(self.num_actors), **self.meter.metrics(), **self.deaths.metrics()}

    def close(self) -> None:
        self.closed.set()
        if self.receiver.is_alive():
            self.receiver.join()
        for connection in self.connections:
            connection.close()  # an actor that wants to send finds the pipe broken, and ends
        end = time.monotonic() + 5
        for process in [*self.processes.values(), *self.leaving]:
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


def _act(make_actor: MakeActor, index: int, start: int, weights: SharedWeights, connection: Connection) -> None:
    """An actor's process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the learner decides when to end
    torch.set_num_threads(1)
    keep_freed_memory()
    with contextlib.suppress(EOFError, OSError):  # of the pipe alone: the learner has ended
        connection.send_bytes(BEGUN)
        for message in _messages(make_actor, index, start, weights):
            connection.recv_bytes()  # until the one before has found room in the queue
            connection.send_bytes(message)


def _messages(make_actor: MakeActor, index: int, start: int, weights: SharedWeights) -> Iterator[bytes]:
    """Trajectories without end, or up to the error that ended the actor."""
    try:
        with contextlib.closing(make_actor(index, start)) as actor:
            while True:
                yield actor.collect(*weights.read()).to_bytes()
    except Exception as error:
        yield ERROR + describe(index, error).encode()
