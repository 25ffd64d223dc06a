"""What flows through the library: TimeStep, Trajectory, and the few operations on trees of tensors.

Every sequence is time first, [T, B, ...]. Four flags have four jobs, and nothing is called `done`:

==============================  ==========================================================
`terminated`                    zeroes the bootstrap: the task itself ended
`terminated | truncated`        cuts the trace of returns and advantages
`is_first`                      resets memory before its row is read
`mask`                          zeroes the loss (False on rows that hold no decision)
==============================  ==========================================================

Row t holds the observation o_t, the action a_t taken on it, and what that action caused: r_t, terminated_t and
truncated_t. When a step ends an episode, the next row holds the final observation, with `mask` False: its action is
ignored, but its value is the bootstrap of a truncation. The row after it holds the new episode's first observation,
with `is_first` True. (This is Gymnasium's next-step autoreset, seen as a sequence.)
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tree = Any
"""A tensor, or a tuple, a named tuple or a dict of trees."""
ACTION_MASK = "action_mask"
"""The key of a dict observation that restricts the policy: it says what may be done, and is not seen."""


def action_mask(observation: Tree) -> Tree | None:
    """What an observation allows, [..., n] bool; None where it has no mask, and allows everything."""
    return observation.get(ACTION_MASK) if isinstance(observation, dict) else None


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `function` to each leaf of `tree`, together with the same leaf of each tree of `rest`."""
    if isinstance(tree, dict):
        return {key: tree_map(function, value, *(other[key] for other in rest)) for key, value in tree.items()}
    if isinstance(tree, tuple):
        if rest:
            children = [tree_map(function, *values) for values in zip(tree, *rest, strict=True)]
        else:
            children = [tree_map(function, value) for value in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)
    return function(tree, *rest)


def tree_leaves(tree: Tree) -> Iterator[Tensor]:
    """The leaves of `tree`, in a fixed order."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from tree_leaves(value)
    elif isinstance(tree, tuple):
        for value in tree:
            yield from tree_leaves(value)
    else:
        yield tree


def tree_like(like: Tree, tree: Tree) -> Tree:
    """`tree` with the types of `like`: a checkpoint gives named tuples back as plain ones."""
    return tree_map(lambda _, leaf: leaf, like, tree)


def tree_stack(trees: list[Tree]) -> Tree:
    """Stack trees of one structure, leaf by leaf, along a new first axis."""
    return tree_map(lambda *leaves: torch.stack(leaves), *trees)


def tree_cat(trees: list[Tree], dim: int = 0) -> Tree:
    """Concatenate trees of one structure, leaf by leaf, along an axis."""
    return tree_map(lambda *leaves: torch.cat(leaves, dim), *trees)


def to_device(tree: Tree, device: torch.device | str) -> Tree:
    """`tree` with every leaf on `device`."""
    return tree_map(lambda leaf: leaf.to(device), tree)


def tree_flatten(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """The leaves of `tree` by dotted path: how a tree goes into a safetensors file."""
    if isinstance(tree, dict):
        items = [(str(key), value) for key, value in tree.items()]
    elif isinstance(tree, tuple):
        items = [(str(index), value) for index, value in enumerate(tree)]
    else:
        return {prefix: tree}
    flat: dict[str, Tensor] = {}
    for key, value in items:
        flat |= tree_flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def where_rows(condition: Tensor, new: Tree, old: Tree) -> Tree:
    """Leaf by leaf, row b of `new` where `condition[b]`, else of `old`. `condition` is [B]; leaves are [B, ...]."""
    return tree_map(lambda n, o: torch.where(condition.view(-1, *[1] * (n.ndim - 1)), n, o), new, old)


class TimeStep(NamedTuple):
    """What a batch of B environments returns from `reset` and `step`. Leaves are [B] or [B, ...], on one device.

    `reward`, `terminated` and `truncated` were caused by the action just taken (zero and False after a reset);
    `observation`, `is_first` and `mask` belong to the row that comes next.
    """

    observation: Tree
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    is_first: Tensor
    mask: Tensor
    final_observation: Tree | None = None
    """Only from environments that start the new episode within the same step: the observation each row would have shown
    had it not been reset (equal to `observation` where the episode goes on). The rollout puts it back into the sequence
    as the masked row described above."""


class AgentInput(NamedTuple):
    """What an agent reads: leaves [T, B, ...] in `unroll`, [B, ...] in `step`.

    `previous_action` and `previous_reward` are those of the row before, zero where `is_first`. An observation that is a
    dict with the key `action_mask` (bool, True where an action is allowed) restricts the policy.
    """

    observation: Tree
    previous_action: Tensor
    previous_reward: Tensor
    is_first: Tensor

    @staticmethod
    def following(step: TimeStep, action: Tensor) -> "AgentInput":
        """The next row's input, after `action` [B, ...] led to `step`. What came before a first row is hidden."""
        going_on = ~step.is_first
        previous = action * going_on.view(-1, *[1] * (action.ndim - 1))
        return AgentInput(step.observation, previous, step.reward * going_on, step.is_first)


class Trajectory(NamedTuple):
    """T rows of B environments, as written by the rollout.

    `inputs` has T + 1 rows: the last one is the observation after the last action, for the bootstrap. All else has T.
    `value` has T + 1 rows as well. `states` holds the memory's state before the rows listed in `state_rows`,
    a tree with leaves [S, B, ...].
    """

    inputs: AgentInput
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor
    behaviour_log_prob: Tensor
    value: Tensor
    states: Tree
