"""A replay whose shards are Ray actors: trajectories reach them without passing through the learner."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqrl.data.replay import Replay, ReplayBatch
from seqrl.data.sharded_replay import ShardedReplay, join, join_histories, shares
from seqrl.errors import UserError
from seqrl.trajectory import AgentInput, Trajectory, Tree, to_device, tree_map

AHEAD = 2
"""Batches that are drawn before the learner asks for them."""
WAITING = 4
"""Trajectories of each actor that may be on their way into the shards before the learner waits for them."""


class Report(NamedTuple):
    """What a process says of its shards with each answer."""

    total: float
    """Of their priorities^exponent."""
    save_is_due: bool


class RayShards:
    """A `ShardedReplay` in several Ray actors, each with the shards of some of the run's actors.

    Batches are drawn two updates ahead, while the learner learns, and priorities and refreshed states go back without
    being waited for. So a draw does not know of the priorities of the two updates before it, and where a sequence has
    left the replay by the time that its priority comes, that is dropped: sequences are numbered from the start of the
    run, not by their place. What a shard has against a priority the learner hears with a later one, or when it saves.
    Each process draws its share by the total of its priorities when it answered last.

    Rows are in the run's folder, as those of shards in the learner's process: on a cluster, on a disk that all machines
    share. The states of both are the same, so that a run goes on with either. The processes end when nothing refers to
    this object any more.

    Source: Horgan et al. 2018 (Ape-X), arXiv 1803.00933, section 3 and appendix D.
    """

    def __init__(
        self,
        ray: Any,
        make_shard: Callable[[int], Replay],
        num_actors: int,
        num_processes: int,
        *,
        burn_in: int,
        importance_exponent: float = 0.0,
        seed: int = 0,
        max_unsaved: int | None = None,
    ):
        """`make_shard(actor)` makes the shard of an actor, in another process; `ray` is Ray's module."""
        self.ray, self.num_actors, self.burn_in, self.importance_exponent = (
            ray,
            num_actors,
            burn_in,
            importance_exponent,
        )
        owned = [range(first, num_actors, num_processes) for first in range(num_processes)]
        remote = ray.remote(num_cpus=0, max_restarts=0)(_Shards)
        self.processes = [remote.remote(make_shard, list(own), num_actors, seed, max_unsaved) for own in owned]
        self.owned = owned
        self.generator = torch.Generator().manual_seed(seed)
        self.totals = torch.zeros(num_processes, dtype=torch.float64)
        self.save_is_due = False
        self.adding: deque[tuple[int, Any]] = deque()
        """Trajectories on their way: the process that takes each in, and what will be its report."""
        self.drawing: deque[tuple[int, list[tuple[int, Any]]]] = deque()
        """Batches on their way: the version when they were asked for, and each process's part."""
        self.telling: deque[Any] = deque()
        """Priorities and states on their way: what answers that they have been taken in."""
        self.first_rows: dict[int, int] = {}
        """Of each actor, the first row of the trajectory that it sent last."""
        self.begun_anew = False
        """Whether an actor has, since the last checkpoint."""

    def add(self, trajectory: Any, version: int, actor: int, first_row: int, priority: Tree) -> None:
        """`ShardedReplay.add`, of a trajectory that is referred to.

        Rows of an actor that began anew may make a checkpoint due, before more of them come: from then on each report
        is waited for.
        """
        process = actor % len(self.processes)
        answer = self.processes[process].add.remote(trajectory, version, actor, first_row, to_arrays(priority))
        self.adding.append((process, answer))
        self.begun_anew |= first_row <= self.first_rows.get(actor, -1)
        self.first_rows[actor] = first_row
        self._hear(at_most=0 if self.begun_anew else WAITING * self.num_actors)

    def _hear(self, at_most: int) -> None:
        """Take in the reports that have come, and wait for those of all but the last `at_most` trajectories."""
        while self.adding:
            process, answer = self.adding[0]
            if len(self.adding) <= at_most and not self.ray.wait([answer], timeout=0)[0]:
                return
            self.adding.popleft()
            self._note(process, self._get(answer))

    def _tell(self, answer: Any) -> None:
        """Do not wait for an answer that says nothing unless the shard failed; of those before, take in what came."""
        self.telling.append(answer)
        while self.telling and self.ray.wait([self.telling[0]], timeout=0)[0]:
            self._get(self.telling.popleft())

    def _note(self, process: int, report: Report) -> None:
        self.totals[process] = report.total
        self.save_is_due |= report.save_is_due

    def _get(self, reference: Any) -> Any:
        """An answer. Raises UserError where a shard failed, or was lost."""
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from None
            reason = f"a shard of the replay is lost ({type(error).__name__})"
            raise UserError(f"{reason}: continue from the last checkpoint with --resume") from error

    def sample(self, batch_size: int, device: torch.device | str = "cpu", version: int = 0) -> ReplayBatch:
        """`ShardedReplay.sample`, of a batch that was drawn ahead."""
        self._hear(at_most=0 if not self.totals.any() else WAITING * self.num_actors)
        while len(self.drawing) <= AHEAD:
            self._draw(batch_size, version)
        asked, parts = self.drawing.popleft()
        batches, leaves = [], []
        for process, answer in parts:
            batch, part, report = self._get(answer)
            batches.append(ReplayBatch(*to_tensors(batch)))
            leaves.append(to_tensors(part))
            self._note(process, report)
        batch = join(batches, torch.cat(leaves), self.importance_exponent)
        if batch.state != ():
            batch = batch._replace(age=batch.age + (version - asked))
        return to_device(batch, device)

    def _draw(self, batch_size: int, version: int) -> None:
        drawn = enumerate(shares(self.totals, batch_size, self.generator))
        parts = [(process, self.processes[process].sample.remote(n, version)) for process, n in drawn if n]
        self.drawing.append((version, parts))

    def set_priority(self, slot: Tensor, priority: Tensor) -> None:
        """`ShardedReplay.set_priority`, on its way."""
        priority = priority.detach().cpu()
        for process, index, numbers in self._by_process(slot):
            self._tell(self.processes[process].set_priority.remote(numbers.numpy(), priority[index].numpy()))

    def write_back(self, slot: Tensor, state: Tree, version: int) -> None:
        """`ShardedReplay.write_back`, on its way."""
        state = to_device(tree_map(torch.Tensor.detach, state), "cpu")
        for process, index, numbers in self._by_process(slot):
            part = to_arrays(tree_map(lambda leaf, index=index: leaf[index], state))
            self._tell(self.processes[process].write_back.remote(numbers.numpy(), part, version))

    def history(self, slot: Tensor, limit: int = 10_000) -> tuple[AgentInput, Tensor]:
        """`ShardedReplay.history`. Those of sequences that have left the replay are not whole."""
        asked = [
            (index, self.processes[process].history.remote(numbers.numpy(), limit))
            for process, index, numbers in self._by_process(slot)
        ]
        found = [(index, *to_tensors(self._get(answer))) for index, answer in asked]
        return join_histories(found)

    def _by_process(self, slot: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        slot = slot.cpu()
        process = slot % self.num_actors % len(self.processes)
        for k in process.unique().tolist():
            index = (process == k).nonzero().flatten()
            yield k, index, slot[index]

    def priority_quantiles(self) -> dict[str, Tensor]:
        """Those of `ShardedReplay.priority_quantiles`, each the mean over the processes."""
        found = [self._get(process.priority_quantiles.remote()) for process in self.processes]
        found = [to_tensors(quantiles) for quantiles in found if quantiles]
        return (
            {name: torch.stack([quantiles[name] for quantiles in found]).mean() for name in found[0]} if found else {}
        )

    def interrupt(self, state: Any) -> None:
        raise AssertionError("the episodes of actors apart from the learner are never cut off by it")

    def state_dict(self) -> dict[str, Any]:
        """That of a `ShardedReplay`."""
        self._hear(at_most=0)
        while self.telling:
            self._get(self.telling.popleft())
        answers = [process.state_dict.remote() for process in self.processes]
        states = [to_tensors(self._get(answer)) for answer in answers]
        self.save_is_due = self.begun_anew = False
        shards: list[Any] = [None] * self.num_actors
        next_row = torch.zeros(self.num_actors, dtype=torch.int64)
        for own, state in zip(self.owned, states, strict=True):
            for actor, shard, row in zip(own, state["shards"], state["next_row"], strict=True):
                shards[actor], next_row[actor] = shard, row
        return {"shards": tuple(shards), "next_row": next_row, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a state of another number of shards, and UserError as `Replay.load_state_dict` does."""
        if len(state["shards"]) != self.num_actors:
            raise ValueError(f"{len(state['shards'])} shards, not {self.num_actors}")
        answers = []
        for process, own in zip(self.processes, self.owned, strict=True):
            shards = tuple(state["shards"][actor] for actor in own)
            part = {"shards": shards, "next_row": state["next_row"][list(own)], "generator": state["generator"]}
            answers.append(process.load_state_dict.remote(to_arrays(part)))
        for process_, answer in enumerate(answers):
            self._note(process_, self._get(answer))
        self.generator.set_state(state["generator"].cpu())


class _Shards:
    """The process of some shards. What comes and goes are trees of arrays, which need not be pickled.

    A sequence is numbered by `(sequence of its column · environments + column) · actors + actor`.
    """

    def __init__(
        self,
        make_shard: Callable[[int], Replay],
        own: Sequence[int],
        num_actors: int,
        seed: int,
        max_unsaved: int | None,
    ):
        torch.set_num_threads(1)
        self.own, self.num_actors = list(own), num_actors
        self.replay = ShardedReplay([make_shard(actor) for actor in own], seed + 1 + own[0], max_unsaved)

    def _report(self) -> Report:
        return Report(sum(shard.tree.total for shard in self.replay.shards), self.replay.save_is_due)

    def add(self, trajectory: Any, version: int, actor: int, first_row: int, priority: Any) -> Report:
        trajectory = Trajectory(*to_tensors(trajectory))
        self.replay.add(trajectory, version, self.own.index(actor), first_row, to_tensors(priority))
        return self._report()

    def sample(self, number: int, version: int) -> tuple[Any, Any, Report]:
        batch = self.replay.sample(number, version=version)
        leaves, numbers = torch.empty(number, dtype=torch.float64), torch.empty_like(batch.slot)
        for k, index, slot in self.replay.by_shard(batch.slot):
            shard = self.replay.shards[k]
            leaves[index] = shard.tree.leaves[slot]
            numbers[index] = shard.number(slot) * self.num_actors + self.own[k]
        return to_arrays(batch._replace(slot=numbers)), to_arrays(leaves), self._report()

    def _find(self, numbers: Any) -> tuple[Tensor, Tensor]:
        """The slots of the sequences `numbers` [N], and whether they are still there: both [N]."""
        number = torch.from_numpy(numbers.copy())
        slot, there = torch.empty_like(number), torch.zeros(len(number), dtype=torch.bool)
        for k, actor in enumerate(self.own):
            index = (number % self.num_actors == actor).nonzero().flatten()
            shard, own = self.replay.shards[k], number[index] // self.num_actors
            slot[index] = own % self.replay.slots + k * self.replay.slots
            there[index] = shard.number(own % self.replay.slots) == own
        return slot, there

    def set_priority(self, numbers: Any, priority: Any) -> None:
        slot, there = self._find(numbers)
        self.replay.set_priority(slot[there], to_tensors(priority)[there])

    def write_back(self, numbers: Any, state: Any, version: int) -> None:
        slot, there = self._find(numbers)
        self.replay.write_back(slot[there], tree_map(lambda leaf: leaf[there], to_tensors(state)), version)

    def history(self, numbers: Any, limit: int) -> Any:
        slot, there = self._find(numbers)
        before, whole = self.replay.history(slot, limit)
        return to_arrays((before, whole & there))

    def priority_quantiles(self) -> Any:
        return to_arrays(self.replay.priority_quantiles()) if self.replay.num_sequences else {}

    def state_dict(self) -> Any:
        return to_arrays(self.replay.state_dict())

    def load_state_dict(self, state: Any) -> Report:
        self.replay.load_state_dict(to_tensors(state))
        return self._report()


def to_arrays(tree: Tree) -> Any:
    """Tensors as NumPy's arrays, which Ray hands over without pickling them."""
    return tree_map(lambda leaf: leaf.detach().contiguous().numpy(), tree)


def to_tensors(tree: Any) -> Tree:
    """Arrays as tensors of their own: those in the object store are read alone."""
    return tree_map(lambda leaf: torch.from_numpy(leaf.copy()), tree)
