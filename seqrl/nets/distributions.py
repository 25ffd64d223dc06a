"""What a policy head returns: a distribution over actions, with any leading axes.

Each has `sample`, `mode`, `log_prob` and `entropy` over its own *raw* actions, and `to_environment`, which turns a raw
action into one the environment takes. For Gaussians the two differ: the raw action is the unbounded draw, so that its
log-probability can be computed again exactly, without inverting a clip or a tanh.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def masked(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """Logits with forbidden actions at the lowest finite number: probability 0 exactly, and no NaN in the gradient."""
    return logits if allowed is None else logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


def _draw(log_probs: Tensor, generator: Generator | None) -> Tensor:
    """A categorical draw as argmax of p / E with E ~ Exp(1): no host round trip, unlike `torch.multinomial`."""
    noise = torch.empty_like(log_probs).exponential_(generator=generator)
    # A draw of exactly 0 would make its action infinitely likely, a forbidden one too.
    return (log_probs - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log()).argmax(-1)


class Categorical:
    """One discrete action. `logits` [..., n]; `allowed` (bool, the same shape) masks actions out."""

    def __init__(self, logits: Tensor, allowed: Tensor | None = None):
        self.log_probs = F.log_softmax(masked(logits, allowed), dim=-1)

    def sample(self, generator: Generator | None = None) -> Tensor:
        return _draw(self.log_probs, generator)

    def mode(self) -> Tensor:
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def from_environment(self, action: Tensor) -> Tensor:
        return action.long()  # of a MultiBinary space they are logged as bools

    def to_environment(self, action: Tensor) -> Tensor:
        return action


class MultiCategorical:
    """Independent discrete actions. `logits` [..., Σ n_i], `sizes` the n_i; actions are [..., len(sizes)]."""

    def __init__(self, logits: Tensor, sizes: tuple[int, ...], allowed: Tensor | None = None):
        masks = [None] * len(sizes) if allowed is None else allowed.split(sizes, dim=-1)
        self.parts = [Categorical(part, mask) for part, mask in zip(logits.split(sizes, dim=-1), masks, strict=True)]

    def sample(self, generator: Generator | None = None) -> Tensor:
        return torch.stack([part.sample(generator) for part in self.parts], -1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.stack([p.log_prob(a) for p, a in zip(self.parts, action.unbind(-1), strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def from_environment(self, action: Tensor) -> Tensor:
        return action.long()  # of a MultiBinary space they are logged as bools

    def to_environment(self, action: Tensor) -> Tensor:
        return action


@dataclass(frozen=True)
class Gaussian:
    """A continuous action, diagonal. `mean`, `log_std` [..., A]; `low` and `high` [A] bound the environment's action.

    `bound` says how the raw action u ~ N(mean, std) gets into the box; in its units the box is [−1, 1]:
    "clip": clipped, and the density is that of u. "squash": by tanh(u), and the density is that of tanh(u); its entropy
    has no closed form, so the one of u plus the log-slope at the mean stands in for it (exact as std → 0).
    "none": some entry is unbounded; u is the action, clipped where there is a bound, and the density is that of u.
    """

    mean: Tensor
    log_std: Tensor
    low: Tensor
    high: Tensor
    bound: Literal["clip", "squash", "none"]

    def sample(self, generator: Generator | None = None) -> Tensor:
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.from_noise(noise)

    def from_noise(self, noise: Tensor, generator: Generator | None = None) -> Tensor:
        """The raw action for a given standard normal draw [..., A]: how a rollout correlates noise over time."""
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        log_density = -0.5 * z.square() - self.log_std - LOG_SQRT_2PI
        return (log_density - self._log_slope(action)).sum(-1)

    def entropy(self) -> Tensor:
        log_std = self.log_std.expand_as(self.mean)
        return (log_std + 0.5 + LOG_SQRT_2PI + self._log_slope(self.mean)).sum(-1)

    def from_environment(self, action: Tensor) -> Tensor:
        """The raw action of one that the environment took, [..., A]: for logs. Under "squash" the box's rim is left.

        An entry whose bounds are equal has one action, whose raw one is 0.
        """
        if self.bound == "none":
            return action
        width = self.high - self.low
        unit = torch.where(width > 0, 2.0 * (action - self.low) / width - 1.0, 0.0)
        return torch.atanh(unit.clamp(-1 + 1e-6, 1 - 1e-6)) if self.bound == "squash" else unit

    def to_environment(self, action: Tensor) -> Tensor:
        if self.bound == "none":
            return action.clamp(self.low, self.high)
        unit = torch.tanh(action) if self.bound == "squash" else action.clamp(-1.0, 1.0)
        inside = self.low + 0.5 * (unit + 1.0) * (self.high - self.low)
        return inside.clamp(self.low, self.high)  # rounding may lead out of the box, which environments refuse

    def _log_slope(self, action: Tensor) -> Tensor | float:
        """log d tanh(u)/du = 2 (log 2 − u − softplus(−2u)), stable for large |u|; 0 without squashing."""
        return 2.0 * (math.log(2.0) - action - F.softplus(-2.0 * action)) if self.bound == "squash" else 0.0


class Mixed:
    """Independent parts of any of the kinds above: the leaves of a mixed action, side by side as in `seqrl.actions`.

    `sizes` says how many numbers of the action [..., D] each part has. All is a sum over the parts, but for `mean`,
    which is that of the Gaussian parts side by side, [..., C], and of no entries without one.
    """

    def __init__(self, parts: Sequence[Categorical | MultiCategorical | Gaussian], sizes: Sequence[int]):
        self.parts, self.sizes = list(parts), list(sizes)

    @property
    def mean(self) -> Tensor:
        means = [part.mean for part in self.parts if isinstance(part, Gaussian)]
        return torch.cat(means, -1) if means else self.entropy().unsqueeze(-1)[..., :0]

    def sample(self, generator: Generator | None = None) -> Tensor:
        return self.from_noise(torch.empty_like(self.mean).normal_(generator=generator), generator)

    def from_noise(self, noise: Tensor, generator: Generator | None = None) -> Tensor:
        """The raw action for a given standard normal draw [..., C] of its Gaussian parts; the others are drawn."""
        widths = [size if isinstance(part, Gaussian) else 0 for part, size in zip(self.parts, self.sizes, strict=True)]
        own = zip(self.parts, noise.split(widths, -1), strict=True)
        return self._packed(
            [part.from_noise(e) if isinstance(part, Gaussian) else part.sample(generator) for part, e in own]
        )

    def mode(self) -> Tensor:
        return self._packed([part.mode() for part in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.stack([part.log_prob(leaf) for part, leaf in self._split(action)]).sum(0)

    def entropy(self) -> Tensor:
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def from_environment(self, action: Tensor) -> Tensor:
        return self._packed([part.from_environment(leaf) for part, leaf in self._split(action)])

    def to_environment(self, action: Tensor) -> Tensor:
        return self._packed([part.to_environment(leaf) for part, leaf in self._split(action)])

    def _split(self, action: Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Each part with its own actions of [..., D]."""
        for part, leaf in zip(self.parts, action.split(self.sizes, -1), strict=True):
            if isinstance(part, Gaussian):
                yield part, leaf
            else:
                yield part, leaf.squeeze(-1).long() if isinstance(part, Categorical) else leaf.long()

    def _packed(self, leaves: Sequence[Tensor]) -> Tensor:
        flat = [
            leaf.unsqueeze(-1) if isinstance(part, Categorical) else leaf
            for part, leaf in zip(self.parts, leaves, strict=True)
        ]
        return torch.cat([leaf if leaf.is_floating_point() else leaf.float() for leaf in flat], -1)


@dataclass(frozen=True)
class EpsilonGreedy:
    """The action of the largest value, and with probability `epsilon` any allowed one instead, all equally likely.

    `values` [..., n] are lowest where an action is forbidden; `allowed` (bool, the same shape) says which are not.
    `epsilon` is one number, or one for each element of the batch, [B], the last of the leading axes.
    """

    values: Tensor
    allowed: Tensor | None = None
    epsilon: Tensor | float = 0.0

    def with_epsilon(self, epsilon: Tensor | float) -> "EpsilonGreedy":
        return EpsilonGreedy(self.values, self.allowed, epsilon)

    @property
    def probs(self) -> Tensor:
        """[..., n]; of equal largest values the first is the greedy one."""
        epsilon = torch.as_tensor(self.epsilon, device=self.values.device).unsqueeze(-1)
        any_action = torch.ones_like(self.values) if self.allowed is None else self.allowed.to(self.values.dtype)
        greedy = F.one_hot(self.mode(), self.values.shape[-1])
        return (1 - epsilon) * greedy + epsilon * any_action / any_action.sum(-1, keepdim=True)

    def sample(self, generator: Generator | None = None) -> Tensor:
        return _draw(self.probs.log(), generator)

    def mode(self) -> Tensor:
        return self.values.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.probs.gather(-1, action.unsqueeze(-1)).squeeze(-1).log()

    def entropy(self) -> Tensor:
        probs = self.probs
        return -torch.xlogy(probs, probs).sum(-1)

    def to_environment(self, action: Tensor) -> Tensor:
        return action


Distribution = Categorical | EpsilonGreedy | Gaussian | Mixed | MultiCategorical
