"""Objectives: pure functions of [T, B] tensors, unreduced; `masked_mean` is the only reducer."""

from seqrl.objectives.masked import masked_mean, masked_standardize
from seqrl.objectives.policy import approximate_kl, clipped_surrogate
from seqrl.objectives.returns import gae, n_step_return
from seqrl.objectives.value import expectile_error, rescale, squared_error, unrescale
from seqrl.objectives.vtrace import vtrace

__all__ = [
    "approximate_kl",
    "clipped_surrogate",
    "expectile_error",
    "gae",
    "masked_mean",
    "masked_standardize",
    "n_step_return",
    "rescale",
    "squared_error",
    "unrescale",
    "vtrace",
]
