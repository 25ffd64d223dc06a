"""Gradient checkpointing: a layer's inner results are not kept for the gradient, but computed again for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def checkpointed(layer: Callable[..., Any], active: bool, *inputs: Any) -> Any:
    """layer(*inputs). Where it is `active` and a gradient is wanted, only the inputs are kept until the backward pass.

    With L layers, memory falls from L times what a layer keeps to L inputs and one layer's; a layer is computed twice.
    The second time is the same computation, autocast included; our layers draw no random numbers, so no random state is
    kept. Source: Chen et al. 2016 (arXiv 1604.06174), by PyTorch; here the pieces are the layers.
    """
    if not (active and torch.is_grad_enabled()):
        return layer(*inputs)
    return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
