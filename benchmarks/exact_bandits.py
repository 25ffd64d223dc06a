"""Ten pulls of five Bernoulli arms, exactly: what the Bayes-optimal player earns, and what the references do.

    python -m benchmarks.exact_bandits --output benchmarks/results/exact_bandits.json      # seconds

With uniform priors a player's belief is the number of successes and failures of each arm, and arms are alike: with ten
pulls of five arms there are a few thousand beliefs, so expected totals follow by backward induction, no trial played.
Where pulls and arms are too many for that, `bound` says what no player can exceed.

Source: Duan et al. 2016 (RL², arXiv 1611.02779), table 1, for the settings and the published figures.
"""

import argparse
import json
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from benchmarks.references import BANDIT_NAMES, BANDIT_ROWS
from seqrl.references.gittins import bernoulli_indices, packed
from seqrl.references.tuned import BANDITS

Arm = tuple[int, int]
"""Successes and failures so far."""
Chances = Callable[[tuple[Arm, ...], int], list[float]]
"""The chance that each arm is pulled, given all arms, sorted, and the pulls to go."""


def expected_total(num_arms: int, num_pulls: int, chances: Chances | None) -> float:
    """What a trial brings on average to who pulls by `chances`; to the Bayes-optimal player without.

    V_r(arms) = Σ_i c_i (p_i (1 + V_{r−1}(arm i one success up)) + (1 − p_i) V_{r−1}(arm i one failure up)), or the
    maximum over i in place of Σ c_i; p_i is arm i's posterior mean and V_0 = 0.
    """

    @cache
    def value(arms: tuple[Arm, ...], to_go: int) -> float:
        if not to_go:
            return 0.0
        known: dict[Arm, float] = {}  # arms of which the same is known are worth the same
        for arm in arms:
            if arm not in known:
                rest = list(arms)
                rest.remove(arm)
                good, bad = (tuple(sorted([*rest, after])) for after in ((arm[0] + 1, arm[1]), (arm[0], arm[1] + 1)))
                p = float(mean(arm))
                known[arm] = p * (1 + value(good, to_go - 1)) + (1 - p) * value(bad, to_go - 1)
        if chances is None:
            return max(known.values())
        return sum(c * known[arm] for c, arm in zip(chances(arms, to_go), arms, strict=True))

    return value(((0, 0),) * num_arms, num_pulls)


def mean(arm: Arm) -> Fraction:
    """The posterior mean: (s + 1) / (s + f + 2)."""
    return Fraction(arm[0] + 1, sum(arm) + 2)


def best(scores: list[Any]) -> list[float]:
    """The chances of who pulls the arm of the highest score, the first of equal ones: of equals any, as arms are alike
    where all is equal that is known of them."""
    return [float(i == int(np.argmax(scores))) for i in range(len(scores))]


def uniform(arms: tuple[Arm, ...], to_go: int) -> list[float]:
    return [1 / len(arms)] * len(arms)


def greedy(arms: tuple[Arm, ...], to_go: int) -> list[float]:
    return best([mean(arm) for arm in arms])


def ucb1(num_pulls: int, c: float) -> Chances:
    """`seqrl.references.bandits.UCB1`."""

    def chances(arms: tuple[Arm, ...], to_go: int) -> list[float]:
        ln_t = np.log(1 + num_pulls - to_go)
        return best([float(mean(arm)) + c * (2 * ln_t / (sum(arm) + 2)) ** 0.5 for arm in arms])

    return chances


def gittins(num_pulls: int) -> Chances:
    """`seqrl.references.bandits.Gittins`: the highest finite-horizon index."""
    indices = bernoulli_indices(num_pulls)

    def chances(arms: tuple[Arm, ...], to_go: int) -> list[float]:
        successes, failures = torch.tensor(arms).T
        return best(indices[to_go][packed(successes + failures, successes)].tolist())

    return chances


def thompson(num_pulls: int) -> Chances:
    """The chance that an arm's draw is the highest: ∫ f_i(x) Π_{j ≠ i} F_j(x) dx for Beta densities f and their
    integrals F. All are polynomials, whose product has a degree below 2 · 64, so Gauss's rule with 64 points is exact.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    x, weights = (nodes + 1) / 2, weights / 2

    @cache
    def density_and_integral(arm: Arm) -> tuple[np.ndarray, np.ndarray]:
        s, f = arm
        density = np.polynomial.Polynomial([0, 1]) ** s * np.polynomial.Polynomial([1, -1]) ** f
        integral = density.integ()
        return density(x) / integral(1), integral(x) / integral(1)

    @cache
    def chances(arms: tuple[Arm, ...], to_go: int) -> list[float]:
        density, integral = map(np.array, zip(*map(density_and_integral, arms), strict=True))
        others = [np.delete(integral, i, 0).prod(0) for i in range(len(arms))]
        return [float((weights * density[i] * others[i]).sum()) for i in range(len(arms))]

    return chances


def bound(num_arms: int, num_pulls: int) -> float:
    """What no player earns more than: min over λ of λ T + k W_T(λ), T pulls of k arms in all, where W_T(λ) is the most
    that one arm brings beyond λ a pull in up to T pulls (`seqrl.references.gittins`).

    Each arm on its own may be pulled up to T times here, only the sum of all pulls has to be T on average.
    """
    grid = np.linspace(0.4, 1.0, 241)
    gain = np.zeros((num_pulls + 1, len(grid)))  # by successes, with as many pulls so far as the loop says
    for pulls in reversed(range(num_pulls)):
        p = ((np.arange(pulls + 1) + 1) / (pulls + 2))[:, None]
        gain = np.maximum(0, p - grid + p * gain[1 : pulls + 2] + (1 - p) * gain[: pulls + 1])
    return float((grid * num_pulls + num_arms * gain[0]).min())


def exact(num_pulls: int = 10, num_arms: int = 5) -> dict[str, float]:
    """The expected total of each player."""
    c = BANDITS["UCB1"][num_pulls, num_arms]
    players: dict[str, Chances | None] = {
        "optimal": None,
        "Gittins": gittins(num_pulls),
        "UCB1": ucb1(num_pulls, c),
        "greedy": greedy,
        "Thompson": thompson(num_pulls),
        "random": uniform,
    }
    return {name: expected_total(num_arms, num_pulls, player) for name, player in players.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    published = dict(zip(BANDIT_NAMES, BANDIT_ROWS[10, 5], strict=True))
    totals = [{"player": name, "exact": x, "published": published.get(name)} for name, x in exact().items()]
    gittins_at = BANDIT_NAMES.index("Gittins")
    bounds = [
        {"pulls": pulls, "arms": arms, "bound": bound(arms, pulls), "published": row[gittins_at]}
        for (pulls, arms), row in BANDIT_ROWS.items()
    ]
    for rows in (totals, bounds):
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*(f"{x:.4f}" if isinstance(x, float) else str(x) for x in row.values()))
        Console().print(table)
    if options.output:
        command = f"python -m benchmarks.exact_bandits {' '.join(sys.argv[1:])}"
        answer = {"command": command, **machine(), "totals": totals, "bounds": bounds}
        options.output.write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main()
