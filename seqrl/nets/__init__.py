"""Encoders before the memory, heads behind it."""

from seqrl.nets.distributions import Categorical, Distribution, EpsilonGreedy, Gaussian, Mixed, MultiCategorical
from seqrl.nets.encoders import ActionEncoder, Encoder
from seqrl.nets.heads import ActionValueHead, PolicyHead, ValueHead
from seqrl.nets.normalization import RewardScale, RunningNorm

__all__ = [
    "ActionEncoder",
    "ActionValueHead",
    "Categorical",
    "Distribution",
    "Encoder",
    "EpsilonGreedy",
    "Gaussian",
    "Mixed",
    "MultiCategorical",
    "PolicyHead",
    "RewardScale",
    "RunningNorm",
    "ValueHead",
]
