"""Recurrences over whole sequences with resets, faster than step by step.

`reference` holds the same functions as plain loops, against which these are tested.
"""

from seqrl.memory.kernels.gru import gru
from seqrl.memory.kernels.lstm import lstm

__all__ = ["gru", "lstm"]
