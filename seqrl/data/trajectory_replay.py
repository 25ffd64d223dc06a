"""A replay of whole trajectories, for learners that correct for the policy that acted."""

from collections import deque

import torch
from torch import Tensor

from seqrl.trajectory import AgentInput, Trajectory, Tree, to_device


class TrajectoryReplay:
    """The last `capacity` trajectories, drawn uniformly, each with the version of the weights that acted it.

    Source: Espeholt et al. 2018 (IMPALA), arXiv 1802.01561, section 5.2.2.
    """

    def __init__(self, capacity: int, seed: int = 0):
        self.rows: deque[tuple[Trajectory, int]] = deque(maxlen=capacity)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, trajectory: Trajectory, version: int) -> None:
        """Keep a trajectory; the oldest goes where there is no room."""
        self.rows.append((trajectory, version))

    def sample(self, number: int, device: torch.device | str) -> list[tuple[Trajectory, int]]:
        """Draw `number` trajectories, with replacement, to `device`: out of a checkpoint they are on the CPU.

        None while nothing is stored.
        """
        if not self.rows:
            return []
        drawn = torch.randint(len(self.rows), (number,), generator=self.generator).tolist()
        return [(to_device(trajectory, device), version) for trajectory, version in (self.rows[k] for k in drawn)]

    def state_dict(self) -> dict[str, Tree]:
        return {
            "trajectories": tuple(trajectory for trajectory, _ in self.rows),
            "versions": torch.tensor([version for _, version in self.rows], dtype=torch.int64),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        versions: Tensor = state["versions"]
        self.rows.clear()
        for (inputs, *rest), version in zip(state["trajectories"], versions.tolist(), strict=True):
            self.rows.append((Trajectory(AgentInput(*inputs), *rest), version))
        self.generator.set_state(state["generator"].cpu())
