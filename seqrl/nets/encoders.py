"""Encoders: an observation of any supported space becomes a vector [..., hidden_size].

Each leaf of a space is projected to the hidden size by the encoder that fits it, and the projections are added: the
same as one linear layer over all leaves side by side. Leading axes are free: [B, ...] and [T, B, ...] both do.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from seqrl.actions import is_mixed, parts, split
from seqrl.errors import UserError
from seqrl.nets.functions import Linear, tanh
from seqrl.nets.normalization import RunningNorm
from seqrl.trajectory import ACTION_MASK, Tree


class VectorEncoder(nn.Module):
    """A Box of numbers, flattened, optionally standardised by running statistics."""

    def __init__(self, space: gym.spaces.Box | gym.spaces.MultiBinary, hidden_size: int, normalize: bool):
        super().__init__()
        self.ndim, self.size = len(space.shape), int(np.prod(space.shape))
        self.norm = RunningNorm(self.size) if normalize else None
        self.linear = Linear(self.size, hidden_size)

    def flat(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.ndim - self.ndim], self.size).to(self.linear.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.flat(x)
        return self.linear(x if self.norm is None else self.norm(x))


class DiscreteEncoder(nn.Module):
    """A Discrete or MultiDiscrete space of any shape: the sum of one learned vector for each entry's value."""

    offsets: Tensor

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.MultiDiscrete, hidden_size: int):
        super().__init__()
        sizes = np.asarray([space.n] if isinstance(space, gym.spaces.Discrete) else space.nvec).flatten()
        self.ndim = len(space.shape or ())
        self.register_buffer("offsets", torch.as_tensor(np.concatenate([[0], np.cumsum(sizes)[:-1]])), persistent=False)
        self.embedding = nn.EmbeddingBag(int(sizes.sum()), hidden_size, mode="sum")
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(len(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.ndim - self.ndim]
        index = x.reshape(-1, len(self.offsets)) + self.offsets
        return self.embedding(index).reshape(*lead, -1)


class GridEncoder(nn.Module):
    """A grid of cells, MultiDiscrete [H, W, C], each with the same C kinds of category, such as MiniGrid's view.

    A cell is the sum of one learned vector for each of its categories, whatever its place, and two convolutions of
    3 × 3 follow: what was learned of an object in one place holds in all.
    """

    offsets: Tensor

    def __init__(self, space: gym.spaces.MultiDiscrete, hidden_size: int):
        super().__init__()
        self.height, self.width, num_categories = space.shape
        sizes = space.nvec[0, 0]
        self.register_buffer("offsets", torch.as_tensor(np.concatenate([[0], np.cumsum(sizes)[:-1]])), persistent=False)
        self.embedding = nn.EmbeddingBag(int(sizes.sum()), 16, mode="sum")
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(num_categories))
        self.convolutions = nn.Sequential(
            nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()
        )
        self.linear = nn.Linear(32 * (self.height - 4) * (self.width - 4), hidden_size)

    @staticmethod
    def fits(space: gym.spaces.MultiDiscrete) -> bool:
        return len(space.shape) == 3 and min(space.shape[:2]) >= 5 and bool((space.nvec == space.nvec[0, 0]).all())

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-3]
        cells = self.embedding(x.reshape(-1, len(self.offsets)) + self.offsets)
        image = cells.view(-1, self.height, self.width, cells.shape[1]).permute(0, 3, 1, 2)
        return self.linear(self.convolutions(image)).reshape(*lead, -1)


class ImageEncoder(nn.Module):
    """A uint8 image, [H, W, C] or [C, H, W], scaled to [0, 1].

    From 36 pixels on, the three convolutions of Mnih et al. 2015 (doi 10.1038/nature14236); below that three of 3 × 3
    and stride 1, 2, 2, since the large kernels would not fit.
    """

    def __init__(self, space: gym.spaces.Box, hidden_size: int):
        super().__init__()
        shape = space.shape
        self.channels_last = shape[-1] < shape[0]
        height, width, channels = shape if self.channels_last else (shape[1], shape[2], shape[0])
        if min(height, width) >= 36:
            layers: list[nn.Module] = [nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3, 1)]
        else:
            layers = [nn.Conv2d(channels, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
            layers += [nn.Conv2d(64, 64, 3, 2, 1)]
        self.convolutions = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, channels, height, width)).shape[1]
        self.linear = nn.Linear(size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        # One copy, and with the channels last in memory, which makes the convolutions a tenth faster on a CPU. Of one
        # channel the strides fit both formats, and torch.export takes Flatten for a view that does not exist.
        format = torch.channels_last if x.shape[1] > 1 else torch.contiguous_format
        x = x.to(self.linear.weight.dtype, memory_format=format, copy=True).div_(255.0)
        return self.linear(self.convolutions(x)).reshape(*lead, -1)


class Encoder(nn.Module):
    """A vector [..., hidden_size] = tanh of the sum over leaves of their projections, for a space of any nesting.

    Box, Discrete, MultiDiscrete and MultiBinary leaves, in Dict and Tuple spaces. `normalize` standardises the vector
    leaves by running statistics. Raises UserError for a space it cannot encode.
    """

    def __init__(self, space: gym.Space, hidden_size: int, *, normalize: bool = False):
        super().__init__()
        self.output_size = hidden_size
        self.paths = [path for path, _ in _leaves(space)]
        self.encoders = nn.ModuleList(_leaf_encoder(s, p, hidden_size, normalize) for p, s in _leaves(space))
        if not self.paths:
            raise UserError(f"the observation space {space} has nothing to observe: hide fewer entries")

    def project(self, observation: Tree) -> Tensor:
        """The sum of the projections, before the tanh: other inputs may be added to it."""
        terms = [encoder(_at(observation, p)) for p, encoder in zip(self.paths, self.encoders, strict=True)]
        return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)

    def forward(self, observation: Tree) -> Tensor:
        return tanh(self.project(observation))

    def update_statistics(self, observation: Tree, mask: Tensor) -> None:
        """Take rows of experience, [T, B, ...] where `mask` [T, B], into the running statistics."""
        for path, encoder in zip(self.paths, self.encoders, strict=True):
            if isinstance(encoder, VectorEncoder) and encoder.norm is not None:
                encoder.norm.update(encoder.flat(_at(observation, path))[mask])


class ActionEncoder(Encoder):
    """The encoder of actions as tensors: a mixed one is split into its leaves first."""

    def __init__(self, space: gym.Space, hidden_size: int):
        super().__init__(
            gym.spaces.Tuple([part.space for part in parts(space)]) if is_mixed(space) else space, hidden_size
        )
        self.space = space

    def project(self, observation: Tensor) -> Tensor:
        return super().project(tuple(split(observation, self.space)) if is_mixed(self.space) else observation)


def _leaves(space: gym.Space, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], gym.Space]]:
    items: list[tuple[Any, gym.Space]]
    if isinstance(space, gym.spaces.Dict):
        items = [(k, s) for k, s in space.spaces.items() if path or k != ACTION_MASK]
    elif isinstance(space, gym.spaces.Tuple):
        items = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, child in items for leaf in _leaves(child, (*path, key))]


def _at(tree: Tree, path: tuple[Any, ...]) -> Tensor:
    for key in path:
        tree = tree[key]
    return tree


def _leaf_encoder(space: gym.Space, path: tuple[Any, ...], hidden_size: int, normalize: bool) -> nn.Module:
    if isinstance(space, gym.spaces.MultiDiscrete) and GridEncoder.fits(space):
        return GridEncoder(space, hidden_size)
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        return DiscreteEncoder(space, hidden_size)
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return ImageEncoder(space, hidden_size)
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        return VectorEncoder(space, hidden_size, normalize)
    where = "observation" + "".join(f"[{key!r}]" for key in path)
    raise UserError(
        f"no encoder for {where} of space {space}: "
        "use Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, or wrap the environment"
    )
