"""References: policies that are known, computed and not quoted, to measure learners by."""

from seqrl.acting import Policy
from seqrl.envs import Bandit, DarkRoom, Environment, TabularMDP
from seqrl.envs.dark_key_to_door import DarkKeyToDoor
from seqrl.references import bandits, tabular
from seqrl.references.base import Optimal, Random, Reference, trial_env
from seqrl.references.learners import AnnealedOracle, QLearning
from seqrl.references.tuned import BANDITS, TABULAR, nearest

__all__ = ["AnnealedOracle", "Optimal", "QLearning", "Random", "Reference", "references_for"]


def references_for(environment: Environment) -> dict[str, Policy]:
    """All references that fit `environment`, by name, in the order in which a table shows them; {} if none is known.

    "random" comes first and "optimal", who knows the task, last. They are for this environment alone, since "optimal"
    asks it for the best action. For what was tuned see `seqrl.references.tuned`; for bandits of many pulls Gittins
    indices are computed first, half a minute for 500.
    """
    trials = trial_env(environment)
    between: dict[str, Policy]
    if isinstance(trials, Bandit):
        between = _bandit_references(environment, trials)
    elif isinstance(trials, TabularMDP):
        between = _tabular_references(environment, trials)
    elif isinstance(trials, DarkRoom | DarkKeyToDoor):
        between = {"q_learning": QLearning(environment)}
    else:
        return {}
    return {"random": Random(environment), **between, "optimal": Optimal(environment)}


def _bandit_references(environment: Environment, bandit: Bandit) -> dict[str, Policy]:
    tuned = {name: nearest(table, bandit.num_episodes, bandit.num_arms) for name, table in BANDITS.items()}
    return {
        "greedy": bandits.EpsilonGreedy(environment),
        "ε-greedy": bandits.EpsilonGreedy(environment, tuned["ε-greedy"]),
        "Thompson": bandits.Thompson(environment),
        "Thompson above the mean": bandits.Thompson(environment, above_mean=True),
        "optimistic Thompson": bandits.OptimisticThompson(environment, int(tuned["optimistic Thompson"])),
        "UCB1": bandits.UCB1(environment, tuned["UCB1"]),
        "Gittins": bandits.Gittins(environment),
    }


def _tabular_references(environment: Environment, mdp: TabularMDP) -> dict[str, Policy]:
    tuned = {name: nearest(table, mdp.num_episodes) for name, table in TABULAR.items()}
    return {
        "greedy": tabular.EpsilonGreedy(environment, prior_weight=0.0),
        "ε-greedy": tabular.EpsilonGreedy(environment, tuned["ε-greedy"], prior_weight=0.0),
        "greedy, true prior": tabular.EpsilonGreedy(environment, prior_mean=1.0),
        "PSRL": tabular.PSRL(environment),
        "OPSRL": tabular.PSRL(environment, int(tuned["OPSRL"])),
        "UCRL2": tabular.UCRL2(environment, tuned["UCRL2"]),
        "BEB, timed": tabular.TimedBEB(environment, tuned["BEB, timed"]),
        "BEB": tabular.BEB(environment, tuned["BEB"]),
    }
