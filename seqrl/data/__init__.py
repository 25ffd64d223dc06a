"""Experience on its way to the learner: rollouts, the sequences cut from them, and replay."""

from seqrl.data.replay import Replay, ReplayBatch
from seqrl.data.rollout import Episodes, Rollout, insert_final_observations
from seqrl.data.sequences import Batch, Sequences
from seqrl.data.trajectory_replay import TrajectoryReplay

__all__ = [
    "Batch",
    "Episodes",
    "Replay",
    "ReplayBatch",
    "Rollout",
    "Sequences",
    "TrajectoryReplay",
    "insert_final_observations",
]
