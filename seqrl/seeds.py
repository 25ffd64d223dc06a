"""Seeds made of others."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """A seed of 32 bits made of a seed and what tells its uses apart; neighbours have nothing in common.

    Whatever draws beside an environment needs one: with the environment's own seed, a policy's draws would be those
    that the first tasks are made of.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
