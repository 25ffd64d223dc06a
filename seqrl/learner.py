"""One step of gradient descent: backward, clip, optimise. And the mean of what several steps led to."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from seqrl.trajectory import Tree

Average = Callable[[Sequence[Tensor], Tensor | float], None]
"""Sets gradients to their means over several learners, by weight: `seqrl.distributed.Group.average`."""
Share = Callable[[float], float]
"""What a loss of this weight is multiplied by among those of several learners: `seqrl.distributed.Group.share`."""


class Learner:
    """Adam with clipped gradients. `learning_rate` may be changed between updates.

    With `weight_decay` λ each step first shrinks what has a gradient: p ← (1 − learning_rate · λ) p, as AdamW does.

    Source: Kingma & Ba 2015 (arXiv 1412.6980), β = (0.9, 0.999), ε = 1e-5; the decay, apart from the gradient and its
    moments, Loshchilov & Hutter 2019 (arXiv 1711.05101). It is PyTorch's function and not its class,
    whose first use imports PyTorch's compiler: 1.5 s, a third of the time that masked CartPole takes to be solved.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        max_grad_norm: float,
        average: Average | None = None,
        weight_decay: float = 0.0,
        share: Share | None = None,
    ):
        """With `average`, gradients are those of several learners, which all take the same step; with `share` in its
        place, of weights in shards, whose gradients are plain means already."""
        self.average, self.share = average, share
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.learning_rate, self.max_grad_norm, self.weight_decay = learning_rate, max_grad_norm, weight_decay
        self.step = [torch.zeros((), device=p.device) for p in self.parameters]
        self.exp_avg = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.parameters]

    def update(self, loss: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """Descend along the gradient of `loss`. Returns the gradient's norm before clipping.

        `weight` is the loss's among those of several learners: the number of rows that it is the mean of.
        """
        for parameter in self.parameters:
            parameter.grad = None
        (loss if self.share is None else loss * self.share(float(weight))).backward()
        if self.average is not None:
            self.average([p.grad for p in self.parameters if p.grad is not None], weight)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        rows = zip(self.parameters, self.exp_avg, self.exp_avg_sq, self.step, strict=True)
        used = [row for row in rows if row[0].grad is not None]
        parameters, exp_avg, exp_avg_sq, step = map(list, zip(*used, strict=True))
        with torch.no_grad():
            adam(
                parameters,
                [p.grad for p in parameters],
                exp_avg,
                exp_avg_sq,
                max_exp_avg_sqs=[],
                state_steps=step,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
                decoupled_weight_decay=True,
                eps=1e-5,
                maximize=False,
            )
        return norm

    def state_dict(self) -> dict[str, Tree]:
        return {"step": tuple(self.step), "exp_avg": tuple(self.exp_avg), "exp_avg_sq": tuple(self.exp_avg_sq)}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        for name, tensors in self.state_dict().items():
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)


class WeightAverage:
    """The mean of a module's parameters after several updates, θ̄_n = θ̄_{n−1} + (θ_n − θ̄_{n−1}) / n.

    Weights walk around a good place, by the noise of their gradients; their mean is nearer to it than most of them.
    Sources: Polyak & Juditsky 1992; for neural networks Izmailov et al. 2018 (arXiv 1803.05407).
    """

    def __init__(self, module: nn.Module):
        self.parameters = list(module.parameters())
        self.count = torch.zeros(())
        self.mean = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def add(self) -> None:
        """Take in the parameters as they are."""
        self.count += 1
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            mean.add_((parameter - mean) / float(self.count))

    @torch.no_grad()
    def apply(self) -> None:
        """Give the module the mean, and begin a new one."""
        assert self.count > 0, "the mean of nothing"
        for mean, parameter in zip(self.mean, self.parameters, strict=True):
            parameter.copy_(mean)
            mean.zero_()
        self.count.zero_()

    def state_dict(self) -> dict[str, Tree]:
        return {"count": self.count, "mean": tuple(self.mean)}

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        self.count.copy_(state["count"])
        for mean, value in zip(self.mean, state["mean"], strict=True):
            mean.copy_(value)
