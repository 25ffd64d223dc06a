"""What a run on logged episodes keeps in its checkpoints besides the agent and the learner."""

import torch
from torch import Tensor


class Draws:
    """The generator of windows, as a part of a checkpoint."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"].cpu())


class Means:
    """The means of metrics since they were last taken, as a part of a checkpoint."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in {**metrics, "count": torch.ones(())}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def take(self) -> dict[str, float]:
        count = float(self.sums.pop("count"))
        taken = {name: float(value) / count for name, value in self.sums.items()}
        self.sums.clear()
        return taken

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.sums)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums = dict(state)
