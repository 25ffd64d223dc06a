"""One step of gradient descent: backward, clip, optimise."""

import torch
from torch import Tensor, nn

from seqrl.trajectory import Tree


class Learner:
    """Adam with clipped gradients. `learning_rate` may be changed between updates."""

    def __init__(self, module: nn.Module, learning_rate: float, max_grad_norm: float):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.max_grad_norm = max_grad_norm
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, eps=1e-5, fused=True)

    def set_learning_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def update(self, loss: Tensor) -> Tensor:
        """Descend along the gradient of `loss`. Returns the gradient's norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Tree]:
        return {str(index): dict(state) for index, state in self.optimizer.state_dict()["state"].items()}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        whole = self.optimizer.state_dict()
        whole["state"] = {int(index): dict(values) for index, values in state.items()}
        self.optimizer.load_state_dict(whole)
