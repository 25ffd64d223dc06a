"""References for random tabular MDPs: what was seen of each state and action, and a plan for each inner episode.

All plan by backward induction over the episode's decisions, at its start and for the whole of it; of equal values they
take any. Beliefs are conjugate: N((w m + total) / (w + n), 1 / (w + n)) for the mean reward of a state and action that
was tried n times, Dirichlet(w + visits) for where it leads. w is `prior_weight`, m `prior_mean`. As the tasks are drawn
both are 1, but here m is 0 unless something else is asked for: the published figures of RL² (Duan et al. 2016, arXiv
1611.02779, section 3.2) come out with 0 and not with 1, and Osband's agents, the obvious ones to compare with, have 0.
Posterior sampling plays better with it, the greedy ones far worse.

What weighs optimism is tuned for each setting by a search in RL²; ours is in `benchmarks/references.py`.
"""

import math
from abc import abstractmethod

import torch
from torch import Generator, Tensor

from seqrl.envs import Environment, TabularMDP
from seqrl.envs.trials import EPISODE_START
from seqrl.references.base import Chosen, Drawn, Reference, State, any_best, generator_of, mixed, trial_env
from seqrl.trajectory import AgentInput, where_rows


class Planner(Reference):
    """A reference that plans at the start of each inner episode; a subclass says by `action_values` what it hopes for.

    State: `visits` [B, S, A, S] (transitions seen), `tries` and `total` [B, S, A] (rewards seen, and their sum),
    `place` and `decision` [B] (where in the state space, and in the episode), `plan` [B, horizon, S, A] (the values).
    """

    def __init__(self, environment: Environment, prior_mean: float = 0.0, prior_weight: float = 1.0):
        super().__init__(environment)
        self.prior_mean, self.prior_weight = prior_mean, prior_weight
        mdp = trial_env(environment)
        assert isinstance(mdp, TabularMDP)
        self.num_states, self.horizon = mdp.num_states, mdp.horizon

    @abstractmethod
    def action_values(self, state: State) -> Tensor:
        """The hoped-for values of actions, [horizon, B, S, A], the episode's first decision first."""

    def begin(self, batch_size: int) -> State:
        shape = (batch_size, self.num_states, self.num_actions)
        zero = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        return {
            "visits": torch.zeros(*shape, self.num_states, device=self.device),
            "tries": torch.zeros(shape, device=self.device),
            "total": torch.zeros(shape, device=self.device),
            "place": zero,
            "decision": zero.clone(),
            "plan": torch.zeros(batch_size, self.horizon, *shape[1:], device=self.device),
        }

    def update(self, state: State, inputs: AgentInput) -> State:
        """The reward of an inner episode's last decision counts; where it led to is not shown."""
        rows = torch.arange(len(inputs.is_first), device=self.device)
        place = inputs.observation["observation"]
        going_on = 1 - inputs.observation[EPISODE_START]
        tried = (rows, state["place"], inputs.previous_action)
        visits, tries, total = (state[name].clone() for name in ("visits", "tries", "total"))
        visits[(*tried, place)] += going_on
        tries[tried] += 1
        total[tried] += inputs.previous_reward
        decision = (state["decision"] + 1) * going_on
        return state | {"visits": visits, "tries": tries, "total": total, "decision": decision}

    def prepare(self, state: State, inputs: AgentInput) -> State:
        state = state | {"place": inputs.observation["observation"]}
        starting = inputs.observation[EPISODE_START] == 1
        if not starting.any():
            return state
        plan = self.action_values(state).transpose(0, 1)
        return state | where_rows(starting, {"plan": plan}, {"plan": state["plan"]})

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        rows = torch.arange(len(state["place"]), device=self.device)
        values = state["plan"][rows, state["decision"].clamp(max=self.horizon - 1), state["place"]]
        return Drawn(lambda generator: self._act(values, generator), state["history"])

    def _act(self, values: Tensor, generator: Generator) -> Tensor:
        return any_best(values, generator)

    def mean_reward(self, state: State) -> Tensor:
        """What rewards are expected, [B, S, A]; a prior of no weight leaves what was seen, and 0 where untried."""
        weight = self.prior_weight
        return (weight * self.prior_mean + state["total"]) / (weight + state["tries"]).clamp(min=1e-6)

    def mean_transition(self, state: State) -> Tensor:
        """What transitions are expected, [B, S, A, S]; a prior of no weight leaves uniform ones where untried."""
        visits = max(self.prior_weight, 1e-6) + state["visits"]
        return visits / visits.sum(-1, keepdim=True)


def backward_induction(reward: Tensor, transition: Tensor, horizon: int) -> Tensor:
    """Q*_h(s, a) = R(s, a) + Σ P(s' | s, a) max_a' Q*_{h+1}(s', a'), Q*_horizon = 0.

    `reward` [..., S, A] and `transition` [..., S, A, S] give [horizon, ..., S, A], the first decision first.
    """
    *batch, num_states, num_actions = reward.shape
    flat = transition.reshape(*batch, num_states * num_actions, num_states)
    values = [reward]
    for _ in range(horizon - 1):
        ahead = flat @ values[-1].amax(-1)[..., None]
        values.append(reward + ahead.view(*batch, num_states, num_actions))
    return torch.stack(values[::-1])


class EpsilonGreedy(Planner):
    """The best plan for what is expected, and with the chance ε a uniform action; ε = 0 is greedy."""

    def __init__(
        self, environment: Environment, epsilon: float = 0.0, prior_mean: float = 0.0, prior_weight: float = 1.0
    ):
        super().__init__(environment, prior_mean, prior_weight)
        self.epsilon = epsilon

    def action_values(self, state: State) -> Tensor:
        return backward_induction(self.mean_reward(state), self.mean_transition(state), self.horizon)

    def _act(self, values: Tensor, generator: Generator) -> Tensor:
        return mixed(any_best(values, generator), self.num_actions, self.epsilon, generator)


class PSRL(Planner):
    """Posterior sampling: the best plan for an MDP that is drawn from the posterior, anew for each inner episode.

    With more `draws` it is optimistic (OPSRL): it acts on the highest of their values, action by action. The draws
    follow from what was seen of the trials (see `State` in `base`), not from the generator that actions are drawn
    from: they must outlast the row.

    Sources: Strens 2000; Osband et al. 2013 (arXiv 1306.0940); Osband & Van Roy 2017 (arXiv 1607.00215) on OPSRL.
    """

    def __init__(self, environment: Environment, draws: int = 1, prior_mean: float = 0.0, prior_weight: float = 1.0):
        super().__init__(environment, prior_mean, prior_weight)
        self.draws = draws

    def action_values(self, state: State) -> Tensor:
        generator = generator_of(state["history"])
        value = self._sampled(state, generator)
        for _ in range(self.draws - 1):
            value = torch.maximum(value, self._sampled(state, generator))
        return value

    def _sampled(self, state: State, generator: Generator) -> Tensor:
        noise = torch.randn(state["tries"].shape, generator=generator, device=self.device)
        share = torch._standard_gamma(self.prior_weight + state["visits"], generator=generator)
        reward = self.mean_reward(state) + noise / (self.prior_weight + state["tries"]).sqrt()
        return backward_induction(reward, share / share.sum(-1, keepdim=True), self.horizon)


class BEB(Planner):
    """The best plan for what is expected where each reward is raised by β / (1 + n), n the tries so far.

    Source: Kolter & Ng 2009 (Bayesian exploration bonus). They know the rewards and count the prior in n, and prove
    something for β = 2 horizon²; far smaller ones play better, so β is tuned. Ours plans for a whole inner episode.
    """

    def __init__(self, environment: Environment, beta: float = 1.4, prior_mean: float = 0.0, prior_weight: float = 1.0):
        super().__init__(environment, prior_mean, prior_weight)
        self.beta = beta

    def action_values(self, state: State) -> Tensor:
        reward = self.mean_reward(state) + self.beta / (1 + state["tries"])
        return backward_induction(reward, self.mean_transition(state), self.horizon)


class TimedBEB(BEB):
    """BEB with two bonuses: 1 / (2 + n) for the reward, and β (decisions left) / (1 + S + n) for the transition.

    This is how Osband's agents have it, and near what RL² must have compared with: the published figures come out with
    it and not with `BEB`, which plays far better. Source: Osband & Van Roy 2017 (arXiv 1607.00215), their code.
    """

    def action_values(self, state: State) -> Tensor:
        reward, transition = self.mean_reward(state) + 1 / (2 + state["tries"]), self.mean_transition(state)
        bonus = self.beta / (1 + self.num_states + state["tries"])
        values = [reward]
        for left in range(1, self.horizon):
            ahead = (transition * values[-1].amax(-1)[:, None, None]).sum(-1)
            values.append(reward + left * bonus + ahead)
        return torch.stack(values[::-1])


class UCRL2(Planner):
    """The best plan for the best MDP that is still plausible (extended value iteration).

    Plausible are rewards up to w √(7 ln(2 S A t / δ) / (2 n)) above the estimate and transitions within
    w r √(14 S ln(2 A t / δ) / n) of it in total variation times two, δ = 0.05, t the decisions so far plus one, n at
    least 1.

    Source: Jaksch et al. 2010, equations 3 and 4, and figure 2 for the inner maximum. We differ: the horizon is finite
    and a plan is made for each inner episode; estimates are the posterior's means, as for all here; `width` w narrows
    the proven intervals, and is tuned (w = 1 hardly plays better than by chance for as long as trials last);
    `move_ratio` r narrows those of transitions more. It is 1 in the source; at ½ they are √S times those of rewards,
    logarithms aside, which plays better, and as well as what RL² published (docs/references.md).
    """

    def __init__(
        self,
        environment: Environment,
        width: float = 0.3,
        move_ratio: float = 0.5,
        prior_mean: float = 0.0,
        prior_weight: float = 1.0,
    ):
        super().__init__(environment, prior_mean, prior_weight)
        self.width, self.move_ratio = width, move_ratio

    def action_values(self, state: State) -> Tensor:
        tries = state["tries"].clamp(min=1)
        ln_t = (1 + state["tries"].sum((1, 2)))[:, None, None].log() - math.log(0.05)
        states, actions = self.num_states, self.num_actions
        reward_width = (3.5 * (math.log(2 * states * actions) + ln_t) / tries).sqrt()
        move_width = self.move_ratio * (14 * states * (math.log(2 * actions) + ln_t) / tries).sqrt()
        reward, transition = self.mean_reward(state) + self.width * reward_width, self.mean_transition(state)
        values = [reward]
        for _ in range(self.horizon - 1):
            values.append(reward + _best_expectation(transition, self.width * move_width, values[-1].amax(-1)))
        return torch.stack(values[::-1])


def _best_expectation(transition: Tensor, width: Tensor, value: Tensor) -> Tensor:
    """The highest Σ p(s') V(s') over p with ‖p − transition‖₁ ≤ width: [B, S, A] from [B, S, A, S], [B, S, A], [B, S].

    Half the width goes to the best state, and is taken from the worst ones.
    """
    value, order = value.sort(dim=-1, descending=True)
    p = transition.gather(-1, order[:, None, None].expand_as(transition))
    p = torch.cat([(p[..., :1] + 0.5 * width[..., None]).clamp(max=1.0), p[..., 1:]], -1)
    kept = p.cumsum(-1).clamp(max=1.0)
    p = kept.diff(dim=-1, prepend=torch.zeros_like(kept[..., :1]))
    return (p * value[:, None, None]).sum(-1)
