"""References for bandits: what is known of each arm, and which to pull."""

import torch
from torch import Tensor

from seqrl.envs import Bandit, Environment
from seqrl.references.base import Chosen, Reference, State, trial_env
from seqrl.trajectory import AgentInput


class ArmReference(Reference):
    """A reference that knows of each arm how often it was pulled and what it paid: `pulls` and `total`, [B, k].

    The beliefs are the exact ones, as the arms are drawn: Beta(1 + successes, 1 + failures) for Bernoulli arms,
    N(total / (1 + pulls), 1 / (1 + pulls)) for Gaussian ones.
    """

    def __init__(self, environment: Environment):
        super().__init__(environment)
        bandit = trial_env(environment)
        assert isinstance(bandit, Bandit)
        self.bernoulli, self.num_pulls = bandit.kind == "bernoulli", bandit.num_episodes
        self.prior_pulls = 2 if self.bernoulli else 1

    def begin(self, batch_size: int) -> State:
        zero = torch.zeros(batch_size, self.num_actions, device=self.device)
        return {"pulls": zero, "total": zero.clone()}

    def update(self, state: State, inputs: AgentInput) -> State:
        arm = torch.nn.functional.one_hot(inputs.previous_action, self.num_actions)
        return {"pulls": state["pulls"] + arm, "total": state["total"] + arm * inputs.previous_reward[:, None]}

    def mean(self, state: State) -> Tensor:
        """The posterior means of the arms, [B, k]."""
        return (state["total"] + self.prior_pulls - 1) / (state["pulls"] + self.prior_pulls)


class UCB1(ArmReference):
    """Pull argmax of mean + c √(2 ln t / pulls), one success and one failure (or one draw of 0) counted beforehand.

    `c` weighs the bonus. Source: Auer et al. 2002; counted beforehand and weighed as in RL² (arXiv 1611.02779).
    """

    def __init__(self, environment: Environment, c: float = 0.25):
        super().__init__(environment)
        self.c = c

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        pulls = state["pulls"] + self.prior_pulls
        bonus = (2 * (1 + state["pulls"].sum(1, keepdim=True)).log() / pulls).sqrt()
        return Chosen((self.mean(state) + self.c * bonus).argmax(1))
