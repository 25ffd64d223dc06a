"""Objectives: pure functions of [T, B] tensors, unreduced; `masked_mean` is the only reducer."""

from seqrl.objectives.groups import group_standardized_advantage, leave_one_out_advantage
from seqrl.objectives.kl import kl_divergence, kl_k1, kl_k3
from seqrl.objectives.masked import masked_mean, masked_standardize
from seqrl.objectives.off_policy import (
    bootstrap_count,
    doubly_robust,
    effective_sample_size,
    importance_sampling,
    log_weights,
    per_decision_importance_sampling,
    tree_backup,
    turn_action_value,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)
from seqrl.objectives.policy import approximate_kl, clipped_surrogate
from seqrl.objectives.preference import bradley_terry_error, dpo_error, ipo_error, kto_error
from seqrl.objectives.returns import gae, n_step_return
from seqrl.objectives.value import conservative_error, expectile_error, rescale, squared_error, unrescale
from seqrl.objectives.vtrace import vtrace

__all__ = [
    "approximate_kl",
    "bootstrap_count",
    "bradley_terry_error",
    "clipped_surrogate",
    "conservative_error",
    "doubly_robust",
    "dpo_error",
    "effective_sample_size",
    "expectile_error",
    "gae",
    "group_standardized_advantage",
    "importance_sampling",
    "ipo_error",
    "kl_divergence",
    "kl_k1",
    "kl_k3",
    "kto_error",
    "leave_one_out_advantage",
    "log_weights",
    "masked_mean",
    "masked_standardize",
    "n_step_return",
    "per_decision_importance_sampling",
    "rescale",
    "squared_error",
    "tree_backup",
    "turn_action_value",
    "unrescale",
    "vtrace",
    "weighted_doubly_robust",
    "weighted_importance_sampling",
    "weighted_per_decision",
]
