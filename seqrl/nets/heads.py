"""Heads: what an agent says about the history, read off the memory's output. Each takes features [..., H]."""

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from seqrl.actions import choices, is_mixed, parts
from seqrl.errors import UserError
from seqrl.nets.distributions import Categorical, Distribution, EpsilonGreedy, Gaussian, Mixed, MultiCategorical, masked
from seqrl.nets.functions import Linear


def _linear(input_size: int, output_size: int, gain: float) -> Linear:
    layer = Linear(input_size, output_size)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class LinearHead(nn.Module):
    """A head of one linear layer, and what its outputs mean. Several of them take one product (`side_by_side`)."""

    linear: Linear

    def read(self, out: Tensor, allowed: Tensor | None) -> Any:
        """What the layer's outputs [..., N] mean."""
        raise NotImplementedError

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Any:
        return self.read(self.linear(features), allowed)


def is_plain(head: nn.Module) -> TypeGuard[LinearHead]:
    """Whether calling `head` is its linear layer and `read`: no subclass, and no hook, has it do more."""
    hooks = head._forward_hooks or head._forward_pre_hooks
    return isinstance(head, LinearHead) and type(head).forward is LinearHead.forward and not hooks


class _Policy(nn.Module):
    """Reads a distribution over the actions of a space off numbers [..., Σ sizes], those of parts in their order."""

    low: Tensor
    high: Tensor

    def __init__(self, space: gym.Space, squash: bool, initial_log_std: float, part: str = ""):
        super().__init__()
        self.space, self.squash, self.part = space, squash, part
        self.sizes: tuple[int, ...] = tuple(choices(space).values())
        if is_mixed(space):
            leaves = parts(space)
            own = [_Policy(leaf.space, squash, initial_log_std, leaf.name) for leaf in leaves]
            self.parts = nn.ModuleList(own)
            self.sizes = tuple(size for part in own for size in part.sizes)
            self.part_sizes = [leaf.size for leaf in leaves]
        elif isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self._init_gaussian(space, initial_log_std)
        elif not self.sizes or (len(space.shape or ()) > 1 and not part):
            raise UserError(
                f"no policy head for the action space {space}: use Discrete, MultiDiscrete or MultiBinary of one axis, "
                "or a floating-point Box, or wrap the environment"
            )

    def _init_gaussian(self, space: gym.spaces.Box, initial_log_std: float) -> None:
        low, high = (torch.as_tensor(bound, dtype=torch.float32).flatten() for bound in (space.low, space.high))
        bounded = bool((high - low).isfinite().all())  # float32's own extremes bound nothing
        if self.squash and not bounded:
            which = f"{space} of {self.part}" if self.part else space
            raise UserError(f"a squashed policy needs a bounded action space, not {which}: use clipped actions")
        self.sizes = (int(np.prod(space.shape)),)
        self.bound: Literal["clip", "squash", "none"] = ("squash" if self.squash else "clip") if bounded else "none"
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.log_std = nn.Parameter(torch.full(self.sizes, initial_log_std))

    def read(self, out: Tensor, allowed: Tensor | None) -> Distribution:
        if is_mixed(self.space):
            return self._read_parts(out, allowed)
        return self.read_plain(out, allowed)

    def read_plain(self, out: Tensor, allowed: Tensor | None) -> Categorical | MultiCategorical | Gaussian:
        if isinstance(self.space, gym.spaces.Box):
            if allowed is not None:
                raise UserError(f"an action mask needs discrete actions, not {self.space}: remove `action_mask`")
            return Gaussian(out, self.log_std, self.low, self.high, self.bound)
        if isinstance(self.space, gym.spaces.Discrete):
            return Categorical(out, allowed)
        return MultiCategorical(out, self.sizes, allowed)

    def _read_parts(self, out: Tensor, allowed: Tensor | None) -> Mixed:
        own = cast(list[_Policy], list(self.parts))
        widths = [sum(part.sizes) for part in own]
        masks: Sequence[Tensor | None] = [None] * len(own)
        if allowed is not None:
            choosing = [sum(choices(part.space).values()) for part in own]
            if not any(choosing):
                raise UserError(f"an action mask needs discrete actions, not {self.space}: remove `action_mask`")
            masks = [mask if mask.shape[-1] else None for mask in allowed.split(choosing, -1)]
        read = zip(own, out.split(widths, -1), masks, strict=True)
        return Mixed([part.read_plain(numbers, mask) for part, numbers, mask in read], self.part_sizes)


class PolicyHead(_Policy, LinearHead):
    """A distribution over the actions of a space.

    Discrete and multi-discrete spaces give categoricals, with an optional mask of allowed actions [..., Σ n_i].
    Box spaces give a Gaussian whose log standard deviation is one learned number an action; bounded ones may be
    squashed by a tanh, else actions are clipped. In others the draw is the action, clipped where an entry has a bound.
    Dict and Tuple spaces give all these side by side, independent of each other given the history; a mask has the
    entries of the discrete leaves, in the order of the space.

    The last layer starts near zero, so that the first policy is nearly uniform.
    """

    def __init__(self, input_size: int, space: gym.Space, *, squash: bool = False, initial_log_std: float = 0.0):
        super().__init__(space, squash, initial_log_std)
        self.linear = _linear(input_size, sum(self.sizes), gain=0.01)


class ValueHead(LinearHead):
    """The expected return of the history: features [..., H] to a value [...]."""

    def __init__(self, input_size: int):
        super().__init__()
        self.linear = _linear(input_size, 1, gain=1.0)

    def read(self, out: Tensor, allowed: Tensor | None) -> Tensor:
        return out.squeeze(-1)


class ActionValueHead(nn.Module):
    """A value for each action of a Discrete space, dueling: q = v + a − mean a over the allowed actions.

    v and a have a hidden layer each, as wide as the input. The result acts greedily until it is given an ε.
    Source: Wang et al. 2016, arXiv 1511.06581, equation 9. Raises UserError for any other space.
    """

    def __init__(self, input_size: int, space: gym.Space):
        super().__init__()
        if not isinstance(space, gym.spaces.Discrete):
            other = "ppo or recurrent_sac" if isinstance(space, gym.spaces.Box) else "ppo"
            raise UserError(f"no value for each action of {space}: use a Discrete action space, or {other}")
        self.hidden = nn.Linear(input_size, 2 * input_size)
        self.value = _linear(input_size, 1, gain=1.0)
        self.advantage = _linear(input_size, int(space.n), gain=0.01)

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> EpsilonGreedy:
        for_value, for_advantage = torch.relu(self.hidden(features)).chunk(2, -1)
        advantage = self.advantage(for_advantage)
        if allowed is None:
            mean = advantage.mean(-1, keepdim=True)
        else:
            allowed = allowed | ~allowed.any(-1, keepdim=True)  # a final observation may allow nothing
            mean = (advantage * allowed).sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True)
        return EpsilonGreedy(masked(self.value(for_value) + advantage - mean, allowed), allowed)
