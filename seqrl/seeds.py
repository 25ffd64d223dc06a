"""Seeds made of others."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """A seed of 32 bits made of a seed and what tells its uses apart; neighbours have nothing in common.

    Whatever draws beside an environment needs one: with the environment's own seed, a policy's draws would be those
    that the first tasks are made of.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seeds_of_rows(seed: int, num_rows: int) -> list[int]:
    """A seed for each of B environments: the first keeps `seed`, so that one alone starts as ever; others hash it.

    Gymnasium gives environment i the seed s + i: of runs with neighbouring seeds all environments but one would share
    their random streams, and an interval over such runs would be too narrow.
    """
    return [seed, *(np.random.SeedSequence(seed).generate_state(num_rows)[1:] >> 1).tolist()]
