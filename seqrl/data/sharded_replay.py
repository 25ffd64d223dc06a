"""A replay that several actors fill: a shard for each, and one draw over all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from seqrl.data.replay import Replay, ReplayBatch
from seqrl.trajectory import AgentInput, Trajectory, Tree, to_device, tree_cat, tree_like, tree_map


class ActedSequences:
    """An actor's view of its shard: where the shard's sequences begin, and how surprising each one was to the actor.

    `rows` is counted as the shard counts, from the actor's first row on. Of each row `record(trajectory)` is kept, a
    tree with leaves [T, B, ...], until all sequences with the row in them were judged: burn_in + length + 1 rows at the
    most behind the newest. `judge` gives a sequence's first priority, [B], from what was kept of its rows and of the
    one behind it, leaves [burn_in + length + 1, B, ...]. Sequences that began before the actor did, or before an
    `interrupt`, get none. Without `record`, no sequence gets one.

    Source: Horgan et al. 2018 (Ape-X), arXiv 1803.00933, section 3.
    """

    def __init__(
        self,
        length: int,
        overlap: int,
        burn_in: int,
        *,
        stores_states: bool,
        record: Callable[[Trajectory], Tree] | None = None,
        judge: Callable[[Tree], Tensor] | None = None,
    ):
        self.num_rows, self.stride, self.stores_states = burn_in + length + 1, length - overlap, stores_states
        self.record, self.judge = record, judge
        self.rows = 0
        self.kept: Tree = ()
        """What is kept of the last rows, from a row on at which a sequence begins."""

    def state_rows(self, num_steps: int) -> Sequence[int]:
        """Of the next `num_steps` rows, those that begin a sequence, if states are stored: `Replay.state_rows`."""
        return [t for t in range(num_steps) if (self.rows + t) % self.stride == 0] if self.stores_states else []

    def add(self, trajectory: Trajectory) -> Tree:
        """Take in the next rows. Returns priorities [C, B] of the C sequences that became whole, oldest first."""
        before = self.rows
        self.rows += len(trajectory.reward)
        if self.record is None or self.judge is None:
            return ()
        kept = self.record(trajectory)
        if self.kept != ():
            before -= _num_rows(self.kept)
            earlier = to_device(tree_like(kept, self.kept), kept[0].device)  # out of a checkpoint they are on the CPU
            kept = tree_cat([earlier, kept])
        first = -before % self.stride  # of `kept`, the first row that begins a sequence
        priority = []
        while first + self.num_rows <= _num_rows(kept):
            priority.append(self.judge(_rows(kept, first, first + self.num_rows)))
            first += self.stride
        self.kept = _rows(kept, first, None) if first < _num_rows(kept) else ()
        return torch.stack(priority) if priority else ()

    def interrupt(self) -> None:
        """New episodes begin, and the shard takes in a row that tells of it, unless it is empty: `Replay.interrupt`."""
        self.rows += self.rows > 0
        self.kept = ()

    def state_dict(self) -> dict[str, Tree]:
        return {"rows": torch.tensor(self.rows), "kept": tree_map(torch.clone, self.kept)}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        self.rows, self.kept = int(state["rows"]), state["kept"]


class ShardedReplay:
    """Several replays of the same settings, an actor's rows in each, drawn from and learnt from as if they were one.

    A shard's columns are one actor's environments, so that each row follows on the one above it. Of a batch, each shard
    gives a share in proportion to the total of its priorities^exponent: with s_k that share of a batch of N and u drawn
    uniformly, shard k gives as many as there are whole numbers in [s_1 + … + s_{k−1} − u, s_1 + … + s_k − u). That is
    s_k on average, and less than one off. Within a shard the draw is the shard's own, stratified.

    A sequence's number counts through all shards: `shard · slots + slot`. Of one shard, all is as without this class.

    `add` sees by `first_row` when an actor has begun anew: the rows before are interrupted, since the new ones do not
    follow on them. `max_unsaved` is the most rows of a shard for which its `slack` provides between two checkpoints;
    `save_is_due` says that there were more, since actors that begin anew bring rows of their own.
    """

    def __init__(self, shards: Sequence[Replay], seed: int = 0, max_unsaved: int | None = None):
        self.shards, self.max_unsaved = list(shards), max_unsaved
        first = self.shards[0]
        self.burn_in, self.importance_exponent = first.burn_in, first.importance_exponent
        self.slots = first.tree.num_leaves
        self.generator = torch.Generator().manual_seed(seed)
        self.next_row = [0] * len(self.shards)
        """The row that each actor sends next, as it counts them itself."""
        self.saved = [0] * len(self.shards)
        """Rows of each shard at the last checkpoint."""

    def __len__(self) -> int:
        """Steps that are stored."""
        return sum(len(shard) for shard in self.shards)

    @property
    def num_sequences(self) -> int:
        """Sequences that may be drawn."""
        return sum(shard.num_sequences for shard in self.shards)

    @property
    def save_is_due(self) -> bool:
        """Whether a checkpoint must be written before more rows are added."""
        unsaved = (shard.rows - saved for shard, saved in zip(self.shards, self.saved, strict=True))
        return self.max_unsaved is not None and max(unsaved) > self.max_unsaved

    def add(
        self, trajectory: Trajectory, version: int = 0, actor: int = 0, first_row: int = 0, priority: Tree = ()
    ) -> None:
        """Write what an actor sent; `priority` [C, B] for the last C sequences that become whole by it, the largest
        priority so far for the others."""
        shard = self.shards[actor]
        if first_row != self.next_row[actor]:
            self._begin_anew(shard, first_row)
        shard.add(trajectory, version)
        self.next_row[actor] = first_row + len(trajectory.reward)
        stored = shard.num_sequences // shard.num_envs
        if len(priority) and stored:
            priority = priority[-stored:]
            sequence = torch.arange(shard.complete - len(priority), shard.complete) % len(shard.version)
            slot = sequence[:, None] * shard.num_envs + torch.arange(shard.num_envs)
            shard.set_priority(slot.flatten(), priority.flatten())

    def _begin_anew(self, shard: Replay, first_row: int) -> None:
        """End the episodes of the actor before, and fill up with masked rows until the actor's sequences, which it
        counts from its own first row on, begin where the shard's do.

        A sequence that begins with such a row needs no state: the row is masked, and the memory resets behind it.
        """
        empty = tree_map(lambda leaf: torch.zeros_like(leaf[0]), shard.states)
        begun = False
        while shard.rows and not (begun and (shard.rows - first_row) % shard.stride == 0):
            shard.interrupt(empty)
            begun = True

    def interrupt(self, state: Sequence[Tree]) -> None:
        """All actors are about to begin new episodes; `state` is that of each one's memory. See `Replay.interrupt`."""
        for k, shard in enumerate(self.shards):
            before = shard.rows
            shard.interrupt(state[k])
            self.next_row[k] += shard.rows - before

    def sample(self, batch_size: int, device: torch.device | str = "cpu", version: int = 0) -> ReplayBatch:
        """Draw `batch_size` sequences. See `Replay.sample`; weights are over the maximum of the whole batch."""
        if len(self.shards) == 1:
            return self.shards[0].sample(batch_size, device, version)
        totals = torch.tensor([shard.tree.total for shard in self.shards], dtype=torch.float64)
        drawn = [(k, n) for k, n in enumerate(shares(totals, batch_size, self.generator)) if n]
        batches = [self.shards[k].sample(n, device, version) for k, n in drawn]
        leaves = [self.shards[k].tree.leaves[batch.slot.cpu()] for (k, _), batch in zip(drawn, batches, strict=True)]
        numbered = [
            batch._replace(slot=batch.slot + k * self.slots) for (k, _), batch in zip(drawn, batches, strict=True)
        ]
        return join(numbered, torch.cat(leaves), self.importance_exponent)

    def set_priority(self, slot: Tensor, priority: Tensor) -> None:
        """New priorities [N] of the sequences `slot` [N]. See `Replay.set_priority`."""
        for k, index, own in self.by_shard(slot):
            self.shards[k].set_priority(own, priority.detach().cpu()[index])

    def write_back(self, slot: Tensor, state: Tree, version: int) -> None:
        """Replace the states that the sequences after `slot` [N] start from. See `Replay.write_back`."""
        state = tree_map(lambda leaf: leaf.detach().cpu(), state)
        for k, index, own in self.by_shard(slot):
            self.shards[k].write_back(own, tree_map(lambda leaf, index=index: leaf[index], state), version)

    def history(self, slot: Tensor, limit: int = 10_000) -> tuple[AgentInput, Tensor]:
        """What came before the sequences `slot` [N] in their episodes. See `Replay.history`."""
        return join_histories([(index, *self.shards[k].history(own, limit)) for k, index, own in self.by_shard(slot)])

    def by_shard(self, slot: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each shard with sequences among `slot` [N]: which of the N these are, and the shard's own numbers of them."""
        slot = slot.cpu()
        for k in range(len(self.shards)):
            index = (slot // self.slots == k).nonzero().flatten()
            if len(index):
                yield k, index, slot[index] - k * self.slots

    def priority_quantiles(self) -> dict[str, Tensor]:
        """Those of `Replay.priority_quantiles`, each the mean over the shards."""
        found = [shard.priority_quantiles() for shard in self.shards if shard.num_sequences]
        return {name: torch.stack([quantiles[name] for quantiles in found]).mean() for name in found[0]}

    def state_dict(self) -> dict[str, Any]:
        """See `Replay.state_dict`."""
        self.saved = [shard.rows for shard in self.shards]
        return {
            "shards": tuple(shard.state_dict() for shard in self.shards),
            "next_row": torch.tensor(self.next_row),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a state of another number of shards, and UserError as `Replay.load_state_dict` does."""
        for shard, saved in zip(self.shards, state["shards"], strict=True):
            shard.load_state_dict(saved)
        self.next_row = state["next_row"].tolist()
        self.saved = [shard.rows for shard in self.shards]
        self.generator.set_state(state["generator"].cpu())


def shares(totals: Tensor, batch_size: int, generator: torch.Generator) -> list[int]:
    """How many of a batch each shard gives, whose priorities sum up to `totals` [K]: see `ShardedReplay`."""
    up_to = totals.cumsum(0)
    edges = up_to * (batch_size / up_to[-1])
    edges[-1] = batch_size  # not a rounding error more or less
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    below = (edges - offset).ceil().long().clamp(0, batch_size)  # whole numbers from 0 up to each edge, less u
    below[totals.nonzero().max() :] = batch_size  # a shard without priorities gives nothing
    return below.diff(prepend=below.new_zeros(1)).tolist()


def join(batches: list[ReplayBatch], leaves: Tensor, importance_exponent: float) -> ReplayBatch:
    """One batch of those of several shards; `leaves` [N] are the priorities^exponent of all sequences."""
    rows = tree_cat([batch[:7] for batch in batches], dim=1)
    state, slot, weight, age = tree_cat([batch[7:] for batch in batches])
    if importance_exponent:  # a shard has its own maximum
        weight = (leaves / leaves.min()).pow(-importance_exponent).to(weight)
    return ReplayBatch._make((*rows, state, slot, weight, age))


def join_histories(found: list[tuple[Tensor, AgentInput, Tensor]]) -> tuple[AgentInput, Tensor]:
    """What `Replay.history` gives, of N sequences in several shards; `found` says which of the N are in each."""
    longest = max(len(before.is_first) for _, before, _ in found)
    rows = tree_cat([_filled_up(AgentInput(*before), longest) for _, before, _ in found], dim=1)
    order = torch.cat([index for index, _, _ in found]).argsort()
    whole = torch.cat([whole for _, _, whole in found])
    return tree_map(lambda leaf: leaf[:, order], rows), whole[order]


def _filled_up(before: AgentInput, num_rows: int) -> AgentInput:
    """With rows of zeros in front, up to `num_rows`: the memory resets behind them."""

    def fill(leaf: Tensor) -> Tensor:
        return torch.cat([leaf.new_zeros(num_rows - len(leaf), *leaf.shape[1:]), leaf])

    return tree_map(fill, before)


def _num_rows(tree: Tree) -> int:
    return len(tree[0])


def _rows(tree: Tree, start: int, stop: int | None) -> Tree:
    return tree_map(lambda leaf: leaf[start:stop], tree)
