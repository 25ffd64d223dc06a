"""Rollouts cut into sequences to learn from."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqrl.acting import ActingModule
from seqrl.trajectory import AgentInput, Tree, to_device, tree_cat, tree_like, tree_map


class Batch(NamedTuple):
    """Rows to learn from, leaves [T, N, ...], and the memory's state before the first of them.

    Of sequences with a burn-in, the first rows only warm the state up: `mask` is False on them.
    """

    inputs: AgentInput
    action: Tensor
    behaviour_log_prob: Tensor
    advantage: Tensor
    target: Tensor
    mask: Tensor
    state: Tree


class Sequences:
    """Cuts each rollout of `rollout_length` rows into sequences of `length`, each behind `burn_in` earlier rows.

    The rows before a rollout's first sequence are those that ended the rollout before; in front of the very first one
    stand masked rows, each of which resets the memory. Sequence c of column b is column c·B + b of the result.
    """

    def __init__(self, rollout_length: int, length: int, burn_in: int, seed: int):
        self.rollout_length, self.length, self.burn_in = rollout_length, length, burn_in
        self.generator = torch.Generator().manual_seed(seed)
        self.carried: tuple[Tree, Tree] | None = None
        # Sequence c starts burn_in rows before row c·length. Where that lies before this rollout, the state was kept in
        # the rollout before, at the same distance from its end; the two cases fill one residue class.
        self.state_rows = tuple(t for t in range(rollout_length) if (t + burn_in) % length == 0)

    def cut(self, rows: Batch) -> Batch:
        """The sequences of one rollout: `rows` [T, B, ...], with the states before each of `state_rows`, [C, B, ...].

        A rollout of another length than `rollout_length` (its environments reset within the step) is one sequence.
        """
        columns, states = tuple(rows[:-1]), rows.state
        if self.burn_in:
            columns, states = self._behind_earlier_rows(columns, states)
        num_rows = rows.mask.shape[0]
        length = self.length if num_rows == self.rollout_length else num_rows
        pieces = [
            tree_map(lambda leaf, c=c: leaf[c * length : (c + 1) * length + self.burn_in], columns)
            for c in range(num_rows // length)
        ]
        leaves = tree_cat(pieces, dim=1)
        if self.burn_in:
            leaves[-1][: self.burn_in] = False  # the mask
        return Batch._make((*leaves, tree_map(lambda leaf: leaf.flatten(0, 1), states)))

    def _behind_earlier_rows(self, columns: Tree, states: Tree) -> tuple[Tree, Tree]:
        if self.carried is None:
            inputs, *rest = tree_map(lambda leaf: torch.zeros_like(leaf[: self.burn_in]), columns)
            inputs = inputs._replace(is_first=torch.ones_like(inputs.is_first))
            kept = sum(t >= self.rollout_length - self.burn_in for t in self.state_rows)
            self.carried = (inputs, *rest), tree_map(lambda leaf: torch.zeros_like(leaf[:kept]), states)
        earlier, before = to_device(self.carried, columns[-1].device)  # out of a checkpoint they are on the CPU
        rows, before = tree_cat([earlier, columns]), tree_like(states, before)
        used = sum(t < self.rollout_length - self.burn_in for t in self.state_rows)
        now = tree_map(lambda leaf: leaf[:used], states)
        self.carried = (
            tree_map(lambda leaf: leaf[self.rollout_length - self.burn_in :].clone(), columns),
            tree_map(lambda leaf: leaf[used:].clone(), states),
        )
        return rows, tree_cat([before, now])

    def minibatches(self, batch: Batch, number: int) -> Iterator[Batch]:
        """The sequences in a new random order, in `number` parts of whole sequences."""
        order = torch.randperm(batch.mask.shape[1], generator=self.generator).to(batch.mask.device)
        for index in order.tensor_split(number):
            # index_select, since leaf[:, index] is laid out batch first, and all that follows would be so too.
            rows = tree_map(lambda leaf, index=index: leaf.index_select(1, index), tuple(batch[:-1]))
            yield Batch._make((*rows, tree_map(lambda leaf, index=index: leaf.index_select(0, index), batch.state)))

    @torch.no_grad()
    def refresh(self, agent: ActingModule, batch: Batch, batch_size: int) -> Batch:
        """`batch` with each sequence's first state as today's weights make it from the rollout's own first state.

        Stored states go stale as the weights move (sb3-contrib#265). `batch_size` is B, the columns of the rollout.
        """
        state = tree_map(lambda leaf: leaf[:batch_size], batch.state)
        states = []
        for start in range(0, batch.mask.shape[1], batch_size):
            states.append(state)
            inputs = tree_map(lambda leaf, s=start: leaf[: self.length, s : s + batch_size], batch.inputs)
            _, state = agent.unroll(inputs, state)
        return batch._replace(state=tree_cat(states))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), **({"carried": self.carried} if self.carried else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        if "carried" in state:
            (inputs, *rest), states = state["carried"]
            self.carried = (AgentInput(*inputs), *rest), states
