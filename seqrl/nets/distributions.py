"""What a policy head returns: a distribution over actions, with any leading axes.

Each has `sample`, `mode`, `log_prob` and `entropy` over its own *raw* actions, and `to_environment`, which turns a raw
action into one the environment takes. For Gaussians the two differ: the raw action is the unbounded draw, so that its
log-probability can be computed again exactly, without inverting a clip or a tanh.
"""

import math
from dataclasses import dataclass
from typing import Literal

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

    def from_noise(self, noise: Tensor) -> Tensor:
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


Distribution = Categorical | EpsilonGreedy | Gaussian | MultiCategorical
