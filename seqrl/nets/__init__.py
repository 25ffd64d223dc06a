"""Encoders before the memory, heads behind it."""

from seqrl.nets.distributions import Categorical, Distribution, Gaussian, MultiCategorical
from seqrl.nets.encoders import ACTION_MASK, Encoder
from seqrl.nets.heads import PolicyHead, ValueHead
from seqrl.nets.normalization import RewardScale, RunningNorm

__all__ = [
    "ACTION_MASK",
    "Categorical",
    "Distribution",
    "Encoder",
    "Gaussian",
    "MultiCategorical",
    "PolicyHead",
    "RewardScale",
    "RunningNorm",
    "ValueHead",
]
