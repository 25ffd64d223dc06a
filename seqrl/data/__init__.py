"""Experience on its way to the learner: rollouts, and the sequences cut from them."""

from seqrl.data.rollout import Episodes, Rollout, insert_final_observations
from seqrl.data.sequences import Batch, Sequences

__all__ = ["Batch", "Episodes", "Rollout", "Sequences", "insert_final_observations"]
