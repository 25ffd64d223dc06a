"""Experience on its way to the learner: rollouts, the sequences cut from them, replay, and logged episodes on disk."""

from seqrl.data.episode_writer import EpisodeWriter
from seqrl.data.episodes import Episode, EpisodeDataset, Windows
from seqrl.data.importers import from_arrays, from_json_lines, import_episodes
from seqrl.data.minari import from_minari, to_minari
from seqrl.data.replay import Replay, ReplayBatch
from seqrl.data.rollout import Episodes, Rollout, insert_final_observations
from seqrl.data.sequences import Batch, Sequences
from seqrl.data.tables import from_pandas
from seqrl.data.trajectory_replay import TrajectoryReplay

__all__ = [
    "Batch",
    "Episode",
    "EpisodeDataset",
    "EpisodeWriter",
    "Episodes",
    "Replay",
    "ReplayBatch",
    "Rollout",
    "Sequences",
    "TrajectoryReplay",
    "Windows",
    "from_arrays",
    "from_json_lines",
    "from_minari",
    "from_pandas",
    "import_episodes",
    "insert_final_observations",
    "to_minari",
]
