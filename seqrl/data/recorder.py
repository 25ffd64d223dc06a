"""What a training run plays, kept as learning histories: how a policy became better, episode by episode."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.acting import ActingModule
from seqrl.data.episode_writer import EpisodeWriter
from seqrl.data.episodes import Episode
from seqrl.envs.trials import EPISODE_START
from seqrl.errors import UserError
from seqrl.trajectory import Trajectory, tree_map


class HistoryRecorder:
    """Keeps every decision of a run, and writes a learning history for each of its environments, as a trial is logged.

    `add` each trajectory, in their order and none left out; `write` makes the dataset, whole or not at all. A history's
    observation is {"observation": the environment's own, "episode_start": 1 on the first row of each of its episodes};
    final observations, rows without a decision, are left out, as trials have none between their inner episodes. Its
    actions are what the environment took. It ends truncated, with the observation behind the last decision, where its
    last episode has not ended by itself. Of an observed dict, what `observation_space` does not name is left out: what
    an environment reveals to its learner alone must not reach who learns from the log.

    Rows are kept in memory until then: about what a replay of all the run's steps would take. Raises UserError where
    `folder` exists.
    """

    def __init__(
        self, folder: str | Path, observation_space: gym.Space, action_space: gym.Space, about: dict[str, Any]
    ):
        spaces = {"observation": observation_space, EPISODE_START: gym.spaces.Discrete(2)}
        self.writer = EpisodeWriter(folder, gym.spaces.Dict(spaces), action_space, about=about)
        self.observation_space = observation_space
        self.parts: list[tuple[Any, ...]] = []
        self.last: Any = None

    @classmethod
    def of(cls, config: Any, agent: ActingModule) -> "HistoryRecorder":
        """The recorder of a run, to the folder `config.record`; the dataset tells the run's settings."""
        folder = Path(config.record)
        if folder.resolve() == Path(config.run_dir).resolve():
            raise UserError(f"--record {folder} is the run's own folder (--run-dir): choose another")
        try:  # what cannot be written is found out before training, not after it
            folder.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent).cleanup()
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}): choose another --record") from None
        spaces = agent.observation_space, agent.action_space
        return cls(config.record, *spaces, {"source": "seqrl train --record", "config": dataclasses.asdict(config)})

    def add(self, trajectory: Trajectory) -> None:
        """Take the rows of the next rollout of the same environments."""
        inputs, observation = trajectory.inputs, trajectory.inputs.observation
        if isinstance(self.observation_space, gym.spaces.Dict):
            observation = {name: observation[name] for name in self.observation_space.spaces}
        # A decision's next row tells its action as the environment took it: no first row follows one directly.
        rows = (
            tree_map(lambda leaf: leaf[:-1], observation),
            inputs.is_first[:-1],
            inputs.previous_action[1:],
            *(trajectory.reward, trajectory.terminated, trajectory.mask),
        )
        self.parts.append(tree_map(lambda leaf: leaf.cpu().numpy(), rows))
        self.last = tree_map(lambda leaf: leaf[-1:].cpu().numpy(), observation)

    def write(self) -> Path:
        """Write the histories, and give their folder."""
        rows = tree_map(lambda *leaves: np.concatenate(leaves), *self.parts)
        with self.writer:
            for column in range(rows[-1].shape[1]):
                self.writer.add(self._history(rows, column), f"environment {column}")
        return self.writer.folder

    def _history(self, rows: tuple[Any, ...], column: int) -> Episode:
        observation, is_first, action, reward, terminated, mask = tree_map(lambda leaf: leaf[:, column], rows)
        last = tree_map(lambda leaf: leaf[:, column], self.last)
        own = tree_map(lambda leaf, end: np.concatenate([leaf[mask], end]), observation, last)
        start = np.append(is_first[mask], False).astype(np.int64)
        ended = bool(terminated[mask][-1])
        return Episode({"observation": own, EPISODE_START: start}, action[mask], reward[mask], ended, not ended)
