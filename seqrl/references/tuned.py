"""What weighs exploration in the references, found by a search for each of RL²'s settings, as there.

Written down from `python -m benchmarks.references --search`, on seeds of its own: the best of a grid, by the mean total
reward. Other settings take the values of the nearest of these.
"""

import math

Table = dict[tuple[int, ...], float]

BANDITS: dict[str, Table] = {
    "UCB1": {(10, 5): 0.1},
    "ε-greedy": {(10, 5): 0.01},
    "optimistic Thompson": {(10, 5): 30},
}
"""By pulls and arms, Bernoulli: `c`, ε and the number of draws."""
TABULAR: dict[str, Table] = {
    "ε-greedy": {(10,): 0.1},
    "OPSRL": {(10,): 10},
    "UCRL2": {(10,): 0.05},
    "BEB": {(10,): 1.4},
}
"""By inner episodes, 10 states, 5 actions, horizon 10: ε, the number of draws, the width and β."""


def nearest(table: Table, *setting: int) -> float:
    """The value of the setting in `table` whose numbers are in the nearest ratio to those of `setting`."""
    return table[min(table, key=lambda known: sum(math.log(a / b) ** 2 for a, b in zip(known, setting, strict=True)))]
