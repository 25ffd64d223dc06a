"""Weights in shards: each learner keeps a part of every weight, and a block is put together only while it is computed.

Gradients are summed where they are needed: a learner gets those of its own part, averaged over all. So weights,
gradients and the optimiser's moments take the memory of one model over all learners, not of one on each.

Source: Rajbhandari et al. 2020, ZeRO stage 3 (arXiv 1910.02054); Zhao et al. 2023, FSDP (arXiv 2304.11277). It is
PyTorch's `fully_shard`, which `accelerate` calls too, but never for processes on the CPU: there it quietly makes whole
copies (1.15.0), and what is not tried here would be tried nowhere.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from seqrl.run import Stateful
from seqrl.trajectory import Tree, tree_map


def shard(root: nn.Module, blocks: Sequence[nn.Module], device: str, methods: Sequence[str] = ()) -> None:
    """Leave this learner its parts of all weights in `root`, on `device`. All learners call it, with the same weights.

    `blocks`, modules in `root`, are put together one at a time, and what is in none of them for each call of `root` or
    of its `methods`; a block for those of these that it has. From now on all learners have to call them together, also
    where no gradient is wanted.
    """
    # More than half a second, which nobody else is to wait for.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # into which nobody writes here
    mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)  # else weights are whole after a call without a gradient
    for name in methods:
        for module in (root, *blocks):
            if hasattr(module, name):
                register_fsdp_forward_method(module, name)


@contextlib.contextmanager
def put_together(root: Any) -> Iterator[None]:
    """Meanwhile each learner has all weights of `root`, and calls it when it likes, without a gradient. All learners
    begin together. A `root` that is not in shards is left alone.

    The first call of `root` has to be one of those that `shard` was told of, which know which parts are its own.
    """
    parts = [module for module in root.modules() if hasattr(module, "unshard")]
    if parts:
        root.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        if parts:
            root.set_reshard_after_forward(True)


def whole(tensor: Any) -> Tensor:
    """A tensor of which each learner has a part, put together, on the CPU; any other as it is."""
    return tensor.full_tensor().cpu() if _is_in_shards(tensor) else tensor


def _is_in_shards(tensor: Any) -> bool:
    """Whether it is a `DTensor`, which is imported where there are some."""
    return hasattr(tensor, "full_tensor")


class Whole:
    """A part of a checkpoint whose tensors are in shards: it is written and read whole, as that of one learner alone.

    All learners have to ask for its state together.
    """

    def __init__(self, part: Stateful) -> None:
        self.part = part

    def state_dict(self) -> dict[str, Tree]:
        return tree_map(whole, dict(self.part.state_dict()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Each learner takes its parts of tensors that all have read whole."""
        own = dict(self.part.state_dict())
        self.part.load_state_dict({name: _like(own.get(name), value) for name, value in state.items()})


def _like(own: Tree, value: Tree) -> Tree:
    """`value` in shards where `own` is."""
    if isinstance(value, tuple) and isinstance(own, tuple):
        return tuple(_like(mine, each) for mine, each in zip(own, value, strict=True))
    if _is_in_shards(own) and own.shape == value.shape:  # of other shapes whoever loads it will complain
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
    return value
