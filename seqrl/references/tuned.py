"""What weighs exploration in the references, found by a search for each of RL²'s settings, as there.

The best of a grid by the mean total reward, on seeds of its own, with what `python -m benchmarks.references --search`
runs, at times on coarser grids and fewer trials than it takes by default. Gaussian bandits and other settings take the
values of the nearest of these.
"""

import math

Table = dict[tuple[int, ...], float]

BANDITS: dict[str, Table] = {
    "UCB1": {(10, 5): 0.05, (100, 5): 0.15, (100, 10): 0.2, (100, 50): 0.2, (500, 5): 0.25, (500, 50): 0.2},
    "ε-greedy": {(10, 5): 0.005, (100, 5): 0.02, (100, 10): 0.005, (100, 50): 0.02, (500, 5): 0.05, (500, 50): 0.05},
    "optimistic Thompson": {(10, 5): 30, (100, 5): 10, (100, 10): 30, (100, 50): 30, (500, 5): 10, (500, 50): 10},
}
"""By pulls and arms, Bernoulli: `c`, ε, the number of draws. The last was not searched at (500, 50): it takes long."""

TABULAR: dict[str, Table] = {
    "ε-greedy": {(10,): 0.02, (25,): 0.1, (50,): 0.1, (75,): 0.1},
    "OPSRL": {(10,): 20, (25,): 20, (75,): 20},
    "UCRL2": {(10,): 0.3, (25,): 0.3, (50,): 0.3, (75,): 0.25},
    "BEB, timed": {(10,): 3.0, (25,): 3.0, (50,): 3.0, (75,): 3.0},
    "BEB": {(10,): 1.4, (25,): 2.0, (50,): 2.0, (75,): 2.0},
}
"""By inner episodes, 10 states, 5 actions, horizon 10: ε, the number of draws, the width and β (twice)."""


def nearest(table: Table, *setting: int) -> float:
    """The value of the setting in `table` whose numbers are in the nearest ratio to those of `setting`."""
    return table[min(table, key=lambda known: sum(math.log(a / b) ** 2 for a, b in zip(known, setting, strict=True)))]
