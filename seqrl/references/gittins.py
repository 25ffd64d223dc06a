"""Gittins indices of arms that are pulled for a known number of pulls, computed by dynamic programming.

The index of an arm with r pulls to go is the sure reward λ a pull at which one may as well leave the arm at once:
sup over stopping times τ ≤ r of E[Σ_{t<τ} γᵗ R_t] / E[Σ_{t<τ} γᵗ]. With W_r the gain over taking λ for all r pulls,

    W_r(arm) = max(0, D_r(arm)),   D_r(arm) = E[R] − λ + γ E[W_{r−1}(arm after a pull)],   W_0 = 0,

and the index is the root of D_r in λ. With γ = 1 it is the finite-horizon index, which is what the references play:
trials have a known end, and an index that knows it leaves no discount to be tuned. With γ < 1 and r ≫ 1 / (1 − γ) it is
Gittins' own, to the last digit of the published tables. Pulling the highest index is optimal in Gittins' problem, which
is discounted and never ends; for a known end it is nearly so.

Sources: Gittins 1979; Gittins, Glazebrook & Weber 2011, chapter 8 (calibration by λ); Niño-Mora 2011 and Kaufmann 2018
(arXiv 1601.01190) for the finite horizon.
"""

from functools import lru_cache

import torch
from torch import Tensor

NUM_LAMBDAS = 96
CHUNK = 12


@lru_cache(maxsize=4)
def bernoulli_indices(horizon: int, discount: float = 1.0, num_lambdas: int = NUM_LAMBDAS) -> list[Tensor]:
    """Indices of Bernoulli arms with a uniform prior: entry r, for r ≤ `horizon` pulls to go, holds those of all arms
    that have been pulled at most horizon − r times, float32 by `packed(pulls, successes)`. Entry 0 is empty.

    λ runs through a grid on [0, 1], between whose points D_r is taken for linear: at 96 points that is wrong by less
    than 1e-4. Memory is horizon³ / 6 numbers, 84 MB for 500 pulls.
    """
    table = [torch.zeros(_number(horizon - r) if r else 0) for r in range(horizon + 1)]
    grid = torch.linspace(0.0, 1.0, num_lambdas + 1)
    for start in range(0, num_lambdas, CHUNK):
        _sweep(table, grid[start : start + CHUNK + 1], horizon, discount)
    return table


def _sweep(table: list[Tensor], grid: Tensor, horizon: int, discount: float) -> None:
    """Enter the indices that lie among the λ of `grid` [C] into `table`. Gains are [arms, C]."""
    pulls = torch.arange(horizon).repeat_interleave(torch.arange(1, horizon + 1))
    successes = torch.arange(len(pulls)) - pulls * (pulls + 1) // 2
    mean = ((successes + 1) / (pulls + 2))[:, None]
    after_failure = torch.arange(len(pulls)) + pulls + 1  # packed(pulls + 1, successes)
    gain = torch.zeros(_number(horizon), len(grid))
    for r in range(1, horizon + 1):
        number = _number(horizon - r)
        p, failure = mean[:number], after_failure[:number]
        after = torch.lerp(gain.index_select(0, failure), gain.index_select(0, failure + 1), p)
        advantage = after.mul_(discount).add_(p).sub_(grid)
        positive = (advantage > 0).sum(1)
        here = ((positive > 0) & (positive < len(grid))).nonzero()[:, 0]
        last = positive[here, None] - 1
        high, low = advantage[here].gather(1, last)[:, 0], advantage[here].gather(1, last + 1)[:, 0]
        table[r][here] = grid[last[:, 0]] + (grid[1] - grid[0]) * high / (high - low)
        gain = advantage.clamp_(min=0.0)


def _number(pulls: int) -> int:
    """How many (pulls, successes) there are with at most so many pulls."""
    return (pulls + 1) * (pulls + 2) // 2


def packed(pulls: Tensor, successes: Tensor) -> Tensor:
    """Where an arm stands in a table of `bernoulli_indices`."""
    return pulls * (pulls + 1) // 2 + successes


@lru_cache(maxsize=4)
def gaussian_bonuses(horizon: int, discount: float = 1.0, num_points: int = 161) -> Tensor:
    """What the index of a Gaussian arm exceeds its posterior mean by, float32 [horizon + 1, horizon]: by the pulls to
    go and the pulls so far, 0 where they are more than the horizon together. Rewards are N(μ, 1), μ ~ N(0, 1).

    After m pulls the posterior is N(x, v), v = 1 / (1 + m), and the index is x + bonus(m, r), since D_r depends on
    x − λ alone. D_r is kept on a grid of x / √v in [−5, 5], and taken for linear between its points and beyond them;
    the expectation over the next reward is then exact: a sum of E[(N − k)⁺], one for each bend k.
    """
    nodes = torch.linspace(-5.0, 5.0, num_points, dtype=torch.float64)
    scale = (1.0 / torch.arange(1, horizon + 2, dtype=torch.float64)).sqrt()  # √v after 0 … horizon pulls
    step = (scale[:-1] ** 2 - scale[1:] ** 2).sqrt()  # the posterior mean's standard deviation over the next pull
    x = scale[:horizon, None] * nodes
    ramp = _expected_excess(x[:, :, None], step[:, None, None], (scale[1:, None] * nodes)[:, None, :])
    bonus = torch.zeros(horizon + 1, horizon)
    gain = torch.zeros(horizon + 1, num_points, dtype=torch.float64)  # by pulls so far, then node
    for r in range(1, horizon + 1):
        number = horizon - r + 1
        slope = gain[1 : number + 1].diff(dim=1) / (scale[1 : number + 1, None] * (nodes[1] - nodes[0]))
        bends = torch.nn.functional.pad(slope.diff(dim=1, prepend=torch.zeros_like(slope[:, :1])), (0, 1))
        advantage = x[:number] + discount * torch.bmm(ramp[:number], bends[:, :, None])[:, :, 0]
        last = (advantage <= 0).sum(1, keepdim=True) - 1
        low, high = advantage.gather(1, last)[:, 0], advantage.gather(1, last + 1)[:, 0]
        root = nodes[last[:, 0]] + (nodes[1] - nodes[0]) * -low / (high - low)
        bonus[r, :number] = (-root * scale[:number]).float()
        gain = advantage.clamp(min=0.0)
    return bonus


def _expected_excess(mean: Tensor, deviation: Tensor, threshold: Tensor) -> Tensor:
    """E[(X − threshold)⁺] for X ~ N(mean, deviation²)."""
    z = (mean - threshold) / deviation
    density = torch.exp(-0.5 * z * z) / (2 * torch.pi) ** 0.5
    return deviation * (z * torch.special.ndtr(z) + density)
