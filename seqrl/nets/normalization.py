"""Running statistics, so that inputs and rewards of any scale reach the network near unit scale."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqrl.errors import UserError

Moments = tuple[int, Tensor, Tensor]
"""The number of some rows, their mean and their variance."""


def alone(rows: int, mean: Tensor, variance: Tensor) -> Iterable[Moments]:
    """The moments of one learner without others."""
    return [(rows, mean, variance)]


class RunningNorm(nn.Module):
    """Standardises by the mean and variance of all rows seen by `update`, clipped to ±10.

    Statistics change only in `update`, which training calls between collecting and learning, never while acting: the
    policy that learns is the policy that acted. They are buffers, so they travel with the weights.
    Source of the merge: Chan, Golub, LeVeque 1979, parallel variance.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.gather: Callable[[int, Tensor, Tensor], Iterable[Moments]] = alone
        """From this process's moments to those of all that share the statistics: `seqrl.distributed.Group.join`."""

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in rows x [N, size], and those of other learners where they share the statistics."""
        zero = torch.zeros_like(self.mean)
        mean, variance = (x.mean(0), x.var(0, correction=0)) if len(x) else (zero, zero)
        for moments in self.gather(len(x), mean, variance):
            self._merge(*moments)

    def _merge(self, rows: int, mean: Tensor, variance: Tensor) -> None:
        if rows == 0:
            return
        total = self.count + rows
        delta = mean - self.mean
        old, new = (self.count / total).to(mean.dtype), (rows / total).to(mean.dtype)
        variance = old * self.variance + new * variance + old * new * delta.square()
        if not variance.isfinite().all():
            entry = int(variance.isfinite().logical_not().nonzero()[0])
            raise UserError(
                f"entry {entry} of the observations, or the reward, is NaN or too large to be standardised (its mean "
                f"is {mean[entry]:.3g}): clip it (gymnasium.wrappers.TransformObservation, TransformReward)"
            )
        self.variance.copy_(variance)
        self.mean.add_(delta * new)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * (self.variance + 1e-8).rsqrt()).clamp(-10.0, 10.0)


def observed(statistics: nn.Module, update: Callable[[], None]) -> tuple[Moments, ...]:
    """What `update` would have told the running norms in `statistics`, which stay as they are; for `take_in`."""
    norms = [module for module in statistics.modules() if isinstance(module, RunningNorm)]
    found: list[Moments] = []

    def note(rows: int, mean: Tensor, variance: Tensor) -> Iterable[Moments]:
        found.append((rows, mean, variance))
        return []

    for norm in norms:
        norm.gather = note
    update()
    for norm in norms:
        norm.gather = alone
    return tuple(found)


def take_in(statistics: nn.Module, moments: Sequence[Moments]) -> None:
    """Merge what others of the same build have `observed`."""
    norms = [module for module in statistics.modules() if isinstance(module, RunningNorm)]
    for norm, (rows, mean, variance) in zip(norms, moments, strict=True):
        norm._merge(rows, mean.to(norm.mean), variance.to(norm.mean))


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the discounted return: any problem's values come near unit size.

    R_t = γ R_{t−1} + r_t, begun anew with each episode; the scale is 1 / std(R) over all rows so far. The mean stays:
    shifting rewards would change the task. Scaled rewards are clipped to ±10, so that a rare one beyond ten deviations
    counts less than it should: learn without the scale (--no-normalize-rewards) where that matters.
    Source: Engstrom et al. 2020, arXiv 2005.12729, section 3 (2).
    """

    carry: Tensor

    def __init__(self, num_envs: int, gamma: float, grows: bool = False):
        """With `grows`, there may be more environments later, and a checkpoint of any number of them fits."""
        super().__init__()
        self.gamma, self.grows = gamma, grows
        self.norm = RunningNorm(1)
        self.register_buffer("carry", torch.zeros(num_envs))

    def forward(self, reward: Tensor, is_first: Tensor, mask: Tensor) -> Tensor:
        """Take in rewards [T, B] (rows where `mask` is False lie between episodes) and return them scaled."""
        self.update(reward, is_first, mask)
        return self.scaled(reward)

    @torch.no_grad()
    def update(self, reward: Tensor, is_first: Tensor, mask: Tensor, first_column: int = 0) -> None:
        """Take in rewards [T, B] of the environments from `first_column` on."""
        returns = torch.empty_like(reward)
        columns = slice(first_column, first_column + reward.shape[1])
        if self.grows and columns.stop > len(self.carry):
            self.carry = torch.cat([self.carry, self.carry.new_zeros(columns.stop - len(self.carry))])
        carry = self.carry[columns]
        for t in range(reward.shape[0]):
            following = self.gamma * carry.masked_fill(is_first[t], 0.0) + reward[t]
            carry = torch.where(mask[t], following, carry)
            returns[t] = carry
        self.carry[columns] = carry
        self.norm.update(returns[mask].unsqueeze(-1))

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards of any shape, scaled and clipped to ±10."""
        return (reward * (self.norm.variance + 1e-8).rsqrt()).clamp(-10.0, 10.0)

    def clipped(self, reward: Tensor, mask: Tensor) -> Tensor:
        """How much of rewards' sum the clip moves from large ones to small ones, 0 to 1, over the rows of `mask`.

        ½ Σ |c_i / Σ c − r_i / Σ r|, the total variation distance between shares, of sizes r_i of rewards and c_i of
        clipped ones. 0 where all that are paid are of one size: to divide all by one number changes no optimum.
        """
        sizes = [paid.abs() * mask for paid in (self.scaled(reward), reward)]
        clipped, whole = (size / size.sum().clamp(min=1e-30) for size in sizes)
        return (clipped - whole).abs().sum() / 2

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        if self.grows:
            self.carry = self.carry.new_zeros(state_dict["carry"].shape)
        return super().load_state_dict(state_dict, strict, assign)
