"""Is a policy better than what was logged? Estimates from logged dialogues, and whether they suffice to ship it."""

from seqrl.off_policy.evaluation import Evaluation, Interval, Turns, estimate, evaluate_logged
from seqrl.off_policy.fitted import FittedConfig, cross_fitted
from seqrl.off_policy.shipping import Check, Requirements, checks, chosen, ships

__all__ = [
    "Check",
    "Evaluation",
    "FittedConfig",
    "Interval",
    "Requirements",
    "Turns",
    "checks",
    "chosen",
    "cross_fitted",
    "estimate",
    "evaluate_logged",
    "ships",
]
