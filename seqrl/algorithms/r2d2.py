"""R2D2: Q-learning from replayed sequences, with any memory.

Source: Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning". Differences:

- Acting and learning take turns in one process; `replay_ratio` says how many rows are learnt from for each one acted.
- Sequences run on over the ends of episodes, where the memory resets; the burn-in comes before the rows learnt from and
  not out of them, so that all ways to start learn from the same rows.
- A truncation bootstraps from the value of the episode's own final observation.
- The target network starts from the same stored state as the online one, and both warm it up with their own weights.
- Priorities of new sequences are the largest so far; importance weights can be had (β), which R2D2 leaves out.

With --memory frame_stack or none, and --start-state zero, this is DQN with double Q, dueling heads, prioritised replay
and n-step targets on whole sequences.
"""

import contextlib
import copy
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from seqrl.agent import Agent
from seqrl.config import make_agent, make_environment, require, require_at_least_one, require_not_negative
from seqrl.data import Replay, ReplayBatch, Rollout
from seqrl.data.replay import StartState, discrepancy, start_state
from seqrl.envs import Environment
from seqrl.learner import Learner
from seqrl.nets import ActionValueHead
from seqrl.objectives import masked_mean, n_step_return, rescale, squared_error, unrescale
from seqrl.replay_config import (
    ReplayConfig,
    burn_in_rows,
    check_replay,
    make_replay,
    means,
    updates_due,
)
from seqrl.run import Run
from seqrl.training_state import TrainingState
from seqrl.trajectory import Tree, tree_map


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """R2D2. The defaults serve small problems. R2D2's own values for Atari, where they differ, stand in brackets; its
    length is 40 behind a burn-in of 40, its overlap 40, its capacity 4,000,000, its ratio about 0.8, its batches 64."""

    num_envs: int = 16
    """Environments that act side by side, each with an ε of its own [256]."""
    previous_reward: bool = True
    """Whether the agent reads its previous reward."""
    start_state: StartState = "stored_burn_in"
    """Where a sequence's unroll starts: zero, burn_in, stored, stored_burn_in or refresh (stored, and made anew)."""

    priority_exponent: float = 0.9
    """Exponent of the priorities; 0 to draw uniformly."""
    priority_max_weight: float = 0.9
    """η: a sequence's priority is η · max |δ| + (1 − η) · mean |δ|."""
    importance_exponent: float = 0.0
    """β of the importance weights; 0 for none."""

    epsilon: float = 0.4
    """ε of the first environment; the i-th of N explores with ε^(1 + α i / (N − 1))."""
    epsilon_exponent: float = 7.0
    """α of that ladder."""

    learning_rate_schedule: str = "linear"
    """linear (to 0 at the last step) or constant [constant, at 1e-4]."""
    n_step: int = 5
    """Rewards that a target sums."""
    rescale_values: bool = True
    """Whether values are learnt as h(q) = sign(q)(√(|q| + 1) − 1) + q / 1000."""
    target_every: int = 100
    """Updates between two copies of the weights to the target network [2,500]."""
    staleness_every: int = 100
    """Updates between two measurements of what stale states do to the values (ΔQ); 0 for none."""


def loss(agent: Agent, target: Agent, batch: ReplayBatch, config: Config) -> tuple[Tensor, dict[str, Tensor], Tree]:
    """½ (h(G) − q)² over the rows that count, G the n-step return with double Q-learning; weighted by sequence.

        G = Σ_{i<n} γ^i r_{t+i} + γ^n h⁻¹(q'(s_{t+n}, argmax_a q(s_{t+n}, a)))

    q is the agent's value, q' the target network's. Returns the loss, its metrics, with `priority` [N] among them, and
    the agent's state `length − overlap` rows into the sequences, for `refresh`.
    """
    burn_in, stride = burn_in_rows(config), config.length - config.overlap
    q, state = unroll(agent, batch, config, stride)
    with torch.no_grad():
        q_target, _ = unroll(target, batch, config, stride)
        forward, backward = (rescale, unrescale) if config.rescale_values else (_identity, _identity)
        next_value = backward(q_target.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1))[1:]
        action, reward, terminated, truncated, mask = (leaf[burn_in:] for leaf in batch[1:6])
        discount = config.gamma * (~terminated).float()
        trace = (~(terminated | truncated)).float()
        goal = forward(n_step_return(reward, discount, next_value, trace, config.n_step))
    value = q[:-1].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    total = masked_mean(batch.weight * squared_error(value, goal), mask)
    with torch.no_grad():
        error = (goal - value).abs().masked_fill(~mask, 0.0)
        mean = error.sum(0) / mask.sum(0).clamp(min=1)
        priority = config.priority_max_weight * error.amax(0) + (1 - config.priority_max_weight) * mean
        metrics = {
            "loss": total.detach(),
            "value": masked_mean(value, mask),
            "td_error": masked_mean(error, mask),
            "priority": priority,
        }
    return total, metrics, state


def unroll(agent: Agent, batch: ReplayBatch, config: Config, stride: int) -> tuple[Tensor, Tree]:
    """Values [length + 1, N, actions] of the rows learnt from and the one after, and the state `stride` rows in.

    The state is that of a `refresh` alone: it counts from the sequence's first row, where the next one's state belongs.
    """
    state = start_state(agent, batch, config.start_state)
    inputs, burn_in = batch.inputs, burn_in_rows(config)
    with torch.no_grad():
        if burn_in:
            _, state = agent.unroll(tree_map(lambda leaf: leaf[:burn_in], inputs), state)
    inputs = tree_map(lambda leaf: leaf[burn_in:], inputs)
    if config.start_state != "refresh":
        return agent.unroll(inputs, state)[0]["policy"].values, ()
    head, state = agent.unroll(tree_map(lambda leaf: leaf[:stride], inputs), state)
    tail, _ = agent.unroll(tree_map(lambda leaf: leaf[stride:], inputs), state)
    return torch.cat([head["policy"].values, tail["policy"].values]), state


def learn(
    agent: Agent, target: Agent, learner: Learner, replay: Replay, version: int, config: Config
) -> dict[str, Tensor]:
    """One update from one batch: weights, priorities, refreshed states and, when due, the target network."""
    batch = replay.sample(config.batch_size, agent.device, version)
    metrics: dict[str, Tensor] = {}
    if config.staleness_every and version % config.staleness_every == 0:
        metrics |= discrepancy(agent, replay, batch, config.start_state) | replay.priority_quantiles()
    total, loss_metrics, state = loss(agent, target, batch, config)
    replay.set_priority(batch.slot, loss_metrics.pop("priority"))
    metrics |= loss_metrics | {"grad_norm": learner.update(total)}
    if config.start_state == "refresh":
        replay.write_back(batch.slot, state, version)
    if "stored" in config.start_state or config.start_state == "refresh":
        metrics |= {"state_age": batch.age.float().mean(), "state_age_max": batch.age.float().max()}
    if (version + 1) % config.target_every == 0:
        target.load_state_dict(agent.state_dict())
    return metrics


def ladder(config: Config, device: torch.device) -> Tensor:
    """ε of each environment, [B], from the most curious to the greediest."""
    place = torch.linspace(0, 1, config.num_envs, device=device) if config.num_envs > 1 else torch.zeros(1)
    return config.epsilon ** (1 + config.epsilon_exponent * place)


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    choices = get_args(StartState)
    require(config.start_state in choices, f"--start-state '{config.start_state}': choose one of {', '.join(choices)}")
    check_replay(config)
    require_at_least_one(config, "n_step", "target_every")
    require_not_negative(config, "priority_exponent", "importance_exponent", "staleness_every")
    require(
        config.learning_rate_schedule in ("linear", "constant"),
        f"--learning-rate-schedule '{config.learning_rate_schedule}': choose linear or constant",
    )
    for name in ("epsilon", "priority_max_weight"):
        value = getattr(config, name)
        require(0 <= value <= 1, f"--{name.replace('_', '-')} is {value}: it must be from 0 to 1")


def build(config: Config, observation_space: Any, action_space: Any) -> Agent:
    """The untrained agent: a value for each action. Weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = ActionValueHead(config.hidden_size, action_space)
        return make_agent(config, observation_space, action_space, {"policy": head})


def train(config: Config, resume: bool = False) -> Agent:
    """Train in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds, bit for bit.

    Raises UserError for bad settings, an existing folder, NaN from the environment, a loss that is not finite, or a
    disk without room for the replay.
    """
    check(config)
    with contextlib.closing(make_environment(config)) as environment:
        return _train(config, environment, resume)


def _train(config: Config, environment: Environment, resume: bool) -> Agent:
    agent = build(config, environment.single_observation_space, environment.single_action_space)
    stores_states = config.start_state not in ("zero", "burn_in")
    require(
        agent.memory.stores_state or not stores_states,
        f"--start-state {config.start_state} would store the {config.memory}'s large state with every sequence: "
        "use --start-state burn_in",
    )
    target = copy.deepcopy(agent)
    learner = Learner(agent, config.learning_rate, config.max_grad_norm)
    epsilon = ladder(config, agent.device)
    rollout = Rollout(environment, agent, config.seed, explore=lambda policy: policy.with_epsilon(epsilon))
    run = Run.open("r2d2", config, agent.observation_space, agent.action_space, resume)
    replay = make_replay(
        config,
        stores_states=stores_states,
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
    )
    state = TrainingState(config.seed, agent, environment, rollout, replay=replay, learner=learner, target=target)
    step = state.restore(run)
    with run:
        run.begin(step)
        version = updates_due(step, config)
        while step < config.num_steps and not run.interrupted:
            trajectory, episodes = rollout.collect(config.rollout_length, replay.state_rows(config.rollout_length))
            replay.add(trajectory, version)
            agent.update_statistics(trajectory)
            step += config.rollout_length * config.num_envs
            if config.learning_rate_schedule == "linear":
                learner.learning_rate = config.learning_rate * max(1 - step / config.num_steps, 0.0)
            history: list[dict[str, Tensor]] = []
            while version < updates_due(step, config):
                history.append(learn(agent, target, learner, replay, version, config))
                version += 1
            run.log(step, {**episodes.metrics(), **means(history)})
            state.updates += 1
            if state.updates % config.checkpoint_every == 0 or step >= config.num_steps:
                state.save(run, step)
        if run.interrupted:
            state.save_interrupted(run, step)
    return agent


def _identity(x: Tensor) -> Tensor:
    return x
