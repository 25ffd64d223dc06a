"""Replay of sequences, with the memory's states that acting had at their starts."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from seqrl.agent import Agent
from seqrl.data.storage import Storage, Where, gather, unpack
from seqrl.data.sum_tree import SumTree
from seqrl.errors import UserError
from seqrl.trajectory import AgentInput, Trajectory, Tree, to_device, tree_like, tree_map

StartState = Literal["zero", "burn_in", "stored", "stored_burn_in", "refresh"]
"""What a replayed sequence's unroll starts from: no memory; none, then a burn-in; the state that acting had; that, then
a burn-in; or the state that acting had, made anew whenever the sequence before is learnt from."""


class Rows(NamedTuple):
    """What is kept of a row."""

    inputs: AgentInput
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor
    behaviour_log_prob: Tensor


class ReplayBatch(NamedTuple):
    """N sequences of T = burn_in + length rows, leaves [T, N, ...]; of `inputs` one row more, for the bootstrap.

    `mask` is False on the rows of the burn-in. `state` is the memory's state before the first row, leaves [N, ...], an
    empty tuple where none was stored.
    """

    inputs: AgentInput
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor
    behaviour_log_prob: Tensor
    state: Tree
    slot: Tensor
    """[N] which sequences these are, for `set_priority` and `write_back`."""
    weight: Tensor
    """[N] importance weights (N_stored · probability)^−β over their maximum."""
    age: Tensor
    """[N] learner's updates since the state was made; zeros where none was stored."""


class Replayed(Protocol):
    """What a learner asks of a replay, whatever it is made of. See `Replay`."""

    burn_in: int

    def sample(self, batch_size: int, device: torch.device | str = "cpu", version: int = 0) -> ReplayBatch: ...
    def set_priority(self, slot: Tensor, priority: Tensor) -> None: ...
    def write_back(self, slot: Tensor, state: Tree, version: int) -> None: ...
    def history(self, slot: Tensor, limit: int = 10_000) -> tuple[AgentInput, Tensor]: ...
    def priority_quantiles(self) -> dict[str, Tensor]: ...


class Replay:
    """The last `capacity` steps of B environments, as overlapping sequences of one length.

    A sequence is `burn_in` rows to warm the state up and `length` rows to learn from; the next one of its column begins
    `length − overlap` rows later. Sequences are cut wherever they fall: where an episode ends inside one, `is_first`
    says so, and the memory resets there. Nothing is padded, and a row is stored once, however many sequences share it.

    Sequences are drawn in proportion to priority^`priority_exponent`, 1 for new ones or the largest there is;
    with exponent 0, uniformly. `stores_states` keeps the memory's state before each sequence.

    Steps are kept `where` "memory" or "disk" says (`Storage`). With a `folder`, `state_dict` leaves everything on disk
    that a resumed run needs. Rows written after that must not overwrite rows that it counts on: `slack` is the largest
    number of steps of one environment between two checkpoints.

    Source: Kapturowski et al. 2019 (R2D2), section 2.3; Schaul et al. 2016 (arXiv 1511.05952). Differs: R2D2 ends a
    sequence with its episode, and counts the burn-in as part of the sequence's length.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        length: int,
        overlap: int = 0,
        burn_in: int = 0,
        *,
        stores_states: bool = True,
        priority_exponent: float = 0.9,
        importance_exponent: float = 0.0,
        where: Where = "memory",
        folder: Path | None = None,
        slack: int = 0,
        seed: int = 0,
    ):
        if not (length >= 1 and 0 <= overlap < length and burn_in >= 0):
            raise ValueError(f"sequences of {length} rows with overlap {overlap} behind {burn_in}: not possible")
        self.num_envs, self.length, self.burn_in, self.stride = num_envs, length, burn_in, length - overlap
        self.stores_states, self.where, self.folder = stores_states, where, folder
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self.num_rows = burn_in + length + 1  # of a sequence, with the bootstrap's
        self.capacity = max(-(-capacity // num_envs), self.num_rows + self.stride - 1)
        """Rows of each column that sequences may be drawn from: enough to hold a whole one at any time."""
        per_column = -(-(self.capacity + self.num_rows + slack) // self.stride)
        self.ring = per_column * self.stride
        self.tree = SumTree(per_column * num_envs)
        self.max_priority = 1.0
        self.rows = 0
        """Rows of each column that were written, ever."""
        self.complete = 0
        """Sequences of each column that became whole, ever."""
        self.generator = torch.Generator().manual_seed(seed)
        self.storage: Storage | None = None
        self.states: Tree = ()
        self.version = torch.zeros(per_column, num_envs, dtype=torch.int64)
        self.acted = 0
        """The version of the weights that acted last."""
        self.last: AgentInput | None = None

    def __len__(self) -> int:
        """Steps that are stored."""
        return min(self.rows, self.capacity) * self.num_envs

    @property
    def num_sequences(self) -> int:
        """Sequences that may be drawn."""
        return max(self.complete - self._oldest(), 0) * self.num_envs

    def state_rows(self, num_steps: int) -> Sequence[int]:
        """Of the next `num_steps` rows, those before which the memory's state must be kept for `add`."""
        return [t for t in range(num_steps) if (self.rows + t) % self.stride == 0] if self.stores_states else []

    def add(self, trajectory: Trajectory, version: int = 0) -> None:
        """Write a rollout of T rows, that goes on where the one before ended, with the states before `state_rows(T)`.

        `version` is the number of updates that the weights which acted have had.
        """
        trajectory = to_device(trajectory, "cpu")
        inputs = tree_map(lambda leaf: leaf[:-1], trajectory.inputs)
        rows = Rows(inputs, *trajectory[1:7])
        if self.storage is None:
            self.storage = self._make_storage(tree_map(lambda leaf: leaf[0], rows))
        if self.last is not None and not torch.equal(self.last.is_first, inputs.is_first[0]):
            raise ValueError("a rollout does not continue the one before it: call `interrupt` in between")
        self._write(rows, trajectory.states, version)
        self.acted = version
        self.last = tree_map(lambda leaf: leaf[-1].clone(), trajectory.inputs)

    def interrupt(self, state: Tree) -> None:
        """All environments are about to begin new episodes, though theirs go on: call this before they do.

        It ends the episodes by truncation, with the last observations in masked rows, for their bootstrap. `state` is
        the memory's before these rows, leaves [B, ...].
        """
        if self.storage is None or self.last is None:
            return
        end = torch.tensor([(self.rows - 1) % self.ring])
        before: Rows = self.storage.read(torch.arange(self.num_envs), end.expand(1, self.num_envs))
        going_on = before.mask & ~before.terminated
        self.storage.write(before._replace(truncated=before.truncated | going_on), end)
        empty = tree_map(torch.zeros_like, before)
        states = tree_map(lambda leaf: leaf[None].cpu(), state) if self.state_rows(1) else ()
        self._write(empty._replace(inputs=tree_map(lambda leaf: leaf[None], self.last)), states, self.acted)
        self.last = self.last._replace(is_first=torch.ones_like(self.last.is_first))

    def _write(self, rows: Rows, states: Tree, version: int) -> None:
        num_steps = len(rows.reward)
        if kept := self.state_rows(num_steps):
            if isinstance(self.states, tuple) and not self.states:
                self.states = tree_map(lambda leaf: leaf.new_zeros(len(self.version), *leaf.shape[1:]), states)
            index = torch.tensor([(self.rows + t) // self.stride for t in kept]) % len(self.version)
            tree_map(lambda leaf, new: leaf.index_copy_(0, index, new), self.states, states)
            self.version[index] = version
        assert self.storage is not None
        self.storage.write(rows, torch.arange(self.rows, self.rows + num_steps) % self.ring)
        oldest = self._oldest()
        self.rows += num_steps
        complete = max((self.rows - self.num_rows) // self.stride + 1, 0)
        self._set_leaves(range(oldest, min(self._oldest(), self.complete)), 0.0)
        self._set_leaves(range(max(self.complete, self._oldest()), complete), self.max_priority**self.priority_exponent)
        self.complete = complete

    def _oldest(self) -> int:
        """The first sequence of each column that lies within the capacity."""
        return -(-max(self.rows - self.capacity, 0) // self.stride)

    def _set_leaves(self, sequences: range, value: float) -> None:
        if sequences:
            row = torch.tensor(sequences) % len(self.version)
            slots = (row[:, None] * self.num_envs + torch.arange(self.num_envs)).view(-1)
            self.tree.set(slots, torch.full((len(slots),), value, dtype=torch.float64))

    def sample(self, batch_size: int, device: torch.device | str = "cpu", version: int = 0) -> ReplayBatch:
        """Draw `batch_size` sequences, as the priorities say. `version` is the learner's number of updates."""
        assert self.storage is not None
        assert self.num_sequences > 0
        slot, probability = self.tree.sample(batch_size, self.generator)
        records = self.storage.read_sequences(slot, self.stride, device)
        fields: Rows = self.storage.fields
        inputs, decisions = unpack(fields.inputs, records), unpack(fields[1:], records[:-1])
        beta = self.importance_exponent
        rest = (
            tree_map(lambda leaf: gather(leaf.flatten(0, 1), slot, 1)[0], self.states),
            slot,
            (probability / probability.min()).pow(-beta).float() if beta else torch.ones(batch_size),
            version - self.version.view(-1).index_select(0, slot) if self.stores_states else torch.zeros_like(slot),
        )
        batch = ReplayBatch(inputs, *decisions, *to_device(rest, device))
        if self.burn_in:
            batch.mask[: self.burn_in] = False
        return batch

    def _start(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """The first row of each sequence [N], counted from the run's start, and its column [N]."""
        oldest, per_column = self._oldest(), len(self.version)
        sequence = oldest + (slot // self.num_envs - oldest) % per_column
        return sequence * self.stride, slot % self.num_envs

    def number(self, slot: Tensor) -> Tensor:
        """Numbers [N] that say which sequences are at `slot` [N]: they stay theirs when these are overwritten."""
        first, column = self._start(slot)
        return first // self.stride * self.num_envs + column

    def set_priority(self, slot: Tensor, priority: Tensor) -> None:
        """New priorities [N] of the sequences `slot` [N]; one that was drawn several times gets its largest.

        Raises UserError where one is not finite.
        """
        priority = priority.detach().double().cpu()
        largest = float(priority.max())
        if not math.isfinite(largest):
            raise UserError(f"a priority is {largest}: the update diverged; lower --learning-rate or --max-grad-norm")
        self.max_priority = max(self.max_priority, largest)
        self.tree.set(slot.cpu(), priority.clamp(min=1e-6) ** self.priority_exponent)

    def write_back(self, slot: Tensor, state: Tree, version: int) -> None:
        """Replace the states that the sequences after `slot` [N] start from, by `state`, leaves [N, ...].

        It is the memory's `length − overlap` rows into the sequences `slot`. The next sequence has a state as soon as
        acting has reached its first row, long before it can be drawn.
        """
        row = (slot.cpu() // self.num_envs + 1) % len(self.version)
        column = slot.cpu() % self.num_envs
        tree_map(
            lambda leaf, new: leaf.index_put_((row, column), new.detach().cpu().to(leaf.dtype)), self.states, state
        )
        self.version[row, column] = version

    def history(self, slot: Tensor, limit: int = 10_000) -> tuple[AgentInput, Tensor]:
        """What came before the sequences `slot` [N] in their episodes: inputs [C, N], and who has a whole one, [N].

        C rows reach back to the first row of the longest history; in front of shorter ones stand rows of older
        episodes, from which the memory resets. A history that began more than `limit` rows ago, or before the oldest
        row stored, is not whole.
        """
        first, column = self._start(slot.cpu())
        reach = min(int(first.max()) - self._oldest_row(), limit)
        back = torch.arange(reach, -1, -1)[:, None]  # rows before the sequence; 0 is its own first row
        rows = (first - back).clamp(min=self._oldest_row())
        is_first = self._read(column, rows).inputs.is_first
        begins = (back * is_first + (reach + 1) * ~is_first).amin(0)  # how far back the newest first row lies
        whole = begins <= torch.minimum(first - self._oldest_row(), torch.tensor(limit))
        longest = int(begins[whole].max()) if whole.any() else 0
        return self._read(column, rows[reach - longest : reach]).inputs, whole

    def priority_quantiles(self) -> dict[str, Tensor]:
        """The median, the 90th percentile and the largest of the priorities, before the exponent."""
        if self.priority_exponent == 0:
            return {}
        leaves = self.tree.leaves
        priority = leaves[leaves > 0] ** (1 / self.priority_exponent)
        found = priority.sort().values[((len(priority) - 1) * torch.tensor([0.5, 0.9, 1.0])).long()]
        return dict(zip(("priority_median", "priority_90", "priority_max"), found.float(), strict=True))

    def _oldest_row(self) -> int:
        return max(self.rows - self.capacity, 0)

    def _make_storage(self, row: Rows, restore: bool = False) -> Storage:
        return Storage(row, self.ring, self.num_rows, self.where, self.folder, restore=restore)

    def _read(self, column: Tensor, rows: Tensor) -> Rows:
        assert self.storage is not None
        return self.storage.read(column, rows % self.ring)

    def state_dict(self) -> dict[str, Tree]:
        """What a resumed run needs besides the files, which this brings up to date."""
        if self.storage is None:
            return {}
        self.storage.save()
        return {
            "row": self.storage.row,
            "last": self.last,
            "states": self.states,
            "version": self.version,
            "leaves": self.tree.leaves,
            "max_priority": torch.tensor(self.max_priority, dtype=torch.float64),
            "rows": torch.tensor(self.rows),
            "complete": torch.tensor(self.complete),
            "acted": torch.tensor(self.acted),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        """Raises UserError where the files in `folder` are missing or of other settings."""
        if not state:
            return
        row = Rows(AgentInput(*state["row"][0]), *state["row"][1:])
        self.storage = self._make_storage(row, restore=True)
        self.last, self.states = AgentInput(*state["last"]), tree_map(torch.clone, state["states"])
        self.version.copy_(state["version"])
        self.tree.set(torch.arange(self.tree.num_leaves), state["leaves"])
        self.max_priority = float(state["max_priority"])
        self.rows, self.complete, self.acted = int(state["rows"]), int(state["complete"]), int(state["acted"])
        self.generator.set_state(state["generator"].cpu())


def start_state(agent: Agent, batch: ReplayBatch, strategy: StartState) -> Tree:
    """The memory's state before the first row of `batch`, leaves [N, ...]."""
    fresh = agent.initial_state(len(batch.slot))
    return fresh if strategy in ("zero", "burn_in") else tree_like(fresh, batch.state)


@torch.no_grad()
def discrepancy(agent: Agent, replay: Replayed, batch: ReplayBatch, strategy: StartState) -> dict[str, Tensor]:
    """How far the start state leads the values astray, at the first and at the last row that is learnt from.

        ΔQ_t = ‖q̂_t − q_t‖₂ / max_{j, a} |q̂_j(a)|

    q̂ are the values from the state that `strategy` gives; q from the one that today's weights make of the whole
    episode so far; j are the rows learnt from. Means over the sequences whose episodes are still stored whole, and
    whose row is not masked; nothing where there is none.

    Source: Kapturowski et al. 2019 (R2D2), section 3. Differs: the largest |q̂|, where the paper has |max q̂|, which may
    be near 0 where returns are negative.
    """
    before, whole = replay.history(batch.slot)
    if not whole.any():
        return {}
    exact = agent.initial_state(len(batch.slot))
    if len(before.is_first):
        _, exact = agent.unroll(to_device(before, agent.device), exact)
    inputs = tree_map(lambda leaf: leaf[:-1], batch.inputs)
    states = (start_state(agent, batch, strategy), exact)
    stale, fresh = (agent.unroll(inputs, state)[0]["policy"].values[replay.burn_in :] for state in states)
    forbidden = stale == torch.finfo(stale.dtype).min
    stale, fresh = stale.masked_fill(forbidden, 0.0), fresh.masked_fill(forbidden, 0.0)
    delta = (stale - fresh).norm(dim=-1) / stale.abs().amax((0, 2)).clamp(min=1e-6)
    valid = batch.mask[replay.burn_in :] & whole.to(batch.mask.device)
    rows = {"delta_q_first": 0, "delta_q_last": -1}
    return {name: delta[t][valid[t]].mean() for name, t in rows.items() if valid[t].any()}
