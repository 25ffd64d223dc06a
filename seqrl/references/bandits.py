"""References for bandits: what is known of each arm, and which to pull."""

import torch
from torch import Generator, Tensor

from seqrl.envs import Bandit, Environment
from seqrl.references.base import Chosen, Drawn, Reference, State, mixed, trial_env
from seqrl.references.gittins import bernoulli_indices, gaussian_bonuses, packed
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


class EpsilonGreedy(ArmReference):
    """Pull the arm of the highest posterior mean, or with the chance ε any; ε = 0 is greedy. Of equals the first."""

    def __init__(self, environment: Environment, epsilon: float = 0.0):
        super().__init__(environment)
        self.epsilon = epsilon

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        best = self.mean(state).argmax(1)
        return Drawn(lambda generator: mixed(best, self.num_actions, self.epsilon, generator), state["history"])


class Thompson(ArmReference):
    """Draw the arms' means from the posterior, and pull the arm that has the highest. Source: Thompson 1933.

    With `above_mean` no draw counts for less than the posterior mean: optimistic Bayesian sampling, May et al. 2012.
    """

    def __init__(self, environment: Environment, above_mean: bool = False):
        super().__init__(environment)
        self.above_mean = above_mean

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        return Drawn(lambda generator: self._pull(state, generator), state["history"])

    def _pull(self, state: State, generator: Generator) -> Tensor:
        drawn, _ = self._draw(state, generator)
        return (torch.maximum(drawn, self.mean(state)) if self.above_mean else drawn).argmax(1)

    def _draw(self, state: State, generator: Generator) -> tuple[Tensor, Tensor]:
        """One draw of all arms' means from the posterior [B, k], and its log density [B] up to a constant."""
        if not self.bernoulli:
            noise = torch.randn(state["pulls"].shape, generator=generator, device=self.device)
            return self.mean(state) + noise / (1 + state["pulls"]).sqrt(), -0.5 * noise.square().sum(1)
        successes, failures = state["total"], state["pulls"] - state["total"]
        good = torch._standard_gamma(1 + successes, generator=generator)
        bad = torch._standard_gamma(1 + failures, generator=generator)
        both = good + bad
        return good / both, (torch.xlogy(successes, good / both) + torch.xlogy(failures, bad / both)).sum(1)


class OptimisticThompson(Thompson):
    """Draw the arms' means `draws` times, and act on the draw that is the most probable, all arms together.

    This is our reading of RL²'s optimistic variant, which "samples N times from the posterior, and takes the one with
    the highest probability" (Duan et al. 2016, arXiv 1611.02779, section 3.1): with it, and not with the highest draw
    of each arm, the published figures come out. It is less adventurous than Thompson sampling, not more; May et al.
    2012, whom RL² names as the source, have `Thompson(above_mean=True)`.
    """

    def __init__(self, environment: Environment, draws: int = 20):
        super().__init__(environment)
        self.draws = draws

    def _pull(self, state: State, generator: Generator) -> Tensor:
        best, best_density = self._draw(state, generator)
        for _ in range(self.draws - 1):
            drawn, density = self._draw(state, generator)
            best = torch.where((density > best_density)[:, None], drawn, best)
            best_density = torch.maximum(density, best_density)
        return best.argmax(1)


class Gittins(ArmReference):
    """Pull the arm of the highest finite-horizon Gittins index (`seqrl.references.gittins`).

    Finite-horizon, because the trial's length is known: RL² used approximations of the discounted index, and the best
    of several for each setting. The first one made for a length computes the indices, half a minute for 500 Bernoulli
    pulls, a second for 100; they are kept in the process.
    """

    def __init__(self, environment: Environment):
        super().__init__(environment)
        if self.bernoulli:
            self.indices = [index.to(self.device) for index in bernoulli_indices(self.num_pulls)]
        else:
            self.bonuses = gaussian_bonuses(self.num_pulls).to(self.device)

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        return Chosen(self.index(state).argmax(1))

    def index(self, state: State) -> Tensor:
        """The indices of the arms, [B, k]. Rows that have no pull to go have those for one."""
        pulls = state["pulls"].long()
        to_go = (self.num_pulls - pulls.sum(1)).clamp(min=1)
        pulls = torch.minimum(pulls, (self.num_pulls - to_go)[:, None])
        if not self.bernoulli:
            return self.mean(state) + self.bonuses[to_go[:, None], pulls]
        place = packed(pulls, torch.minimum(state["total"].long(), pulls))
        if bool((to_go == to_go[0]).all()):  # as long as all trials began together
            return self.indices[int(to_go[0])][place]
        return torch.stack([self.indices[r][row] for r, row in zip(to_go.tolist(), place, strict=True)])
