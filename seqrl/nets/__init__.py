"""Encoders before the memory, heads behind it."""

from seqrl.nets.distributions import Categorical, Distribution, EpsilonGreedy, Gaussian, MultiCategorical
from seqrl.nets.encoders import Encoder
from seqrl.nets.heads import ActionValueHead, PolicyHead, ValueHead
from seqrl.nets.normalization import RewardScale, RunningNorm

__all__ = [
    "ActionValueHead",
    "Categorical",
    "Distribution",
    "Encoder",
    "EpsilonGreedy",
    "Gaussian",
    "MultiCategorical",
    "PolicyHead",
    "RewardScale",
    "RunningNorm",
    "ValueHead",
]
