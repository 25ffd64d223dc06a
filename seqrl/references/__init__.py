"""References: policies that are known, computed and not quoted, to measure learners by."""

from seqrl.collect import Policy
from seqrl.envs import Bandit, Environment
from seqrl.references.bandits import UCB1
from seqrl.references.base import Optimal, Random, trial_env

__all__ = ["UCB1", "Optimal", "Random", "references_for"]


def references_for(environment: Environment) -> dict[str, Policy]:
    """All references that fit `environment`, by name, in the order in which a table shows them; {} if none is known.

    They are for this environment alone: "optimal" asks it for the best action.
    """
    trials = trial_env(environment)
    if trials is None:
        return {}
    references: dict[str, Policy] = {"random": Random(environment)}
    if isinstance(trials, Bandit):
        references["UCB1"] = UCB1(environment)
    return references | {"optimal": Optimal(environment)}
