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
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from seqrl.agent import Agent
from seqrl.config import RunConfig, make_agent, make_environment, require
from seqrl.data import Replay, ReplayBatch, Rollout
from seqrl.data.replay import StartState, discrepancy, start_state
from seqrl.data.storage import Where
from seqrl.envs import Environment
from seqrl.learner import Learner
from seqrl.nets import ActionValueHead
from seqrl.objectives import masked_mean, n_step_return, rescale, squared_error, unrescale
from seqrl.run import Run
from seqrl.training_state import TrainingState
from seqrl.trajectory import Tree, tree_map


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """R2D2. The defaults serve small problems; R2D2's own values for Atari stand in brackets."""

    num_envs: int = 16
    """Environments that act side by side, each with an ε of its own [256]."""
    previous_action: bool = True
    """Whether the agent reads its previous action."""
    previous_reward: bool = True
    """Whether the agent reads its previous reward."""

    start_state: StartState = "stored_burn_in"
    """Where a sequence's unroll starts: zero, burn_in, stored, stored_burn_in or refresh (stored, and made anew)."""
    length: int = 40
    """Rows of a sequence that are learnt from [80, or 40 behind a burn-in of 40]."""
    overlap: int = 20
    """Rows that a sequence shares with the next one of its environment [40]."""
    burn_in: int = 20
    """Rows before them that only warm the state up, if the start state is one that burns in [40]."""

    replay_capacity: int = 200_000
    """Steps that are kept [4,000,000]."""
    replay_storage: Where = "memory"
    """memory, or disk: mapped files in the run folder, for more than memory holds."""
    learning_starts: int = 3_000
    """Steps to act before learning begins."""
    replay_ratio: float = 8.0
    """Rows learnt from for each step acted [about 0.8]."""
    batch_size: int = 16
    """Sequences of a batch [64]."""
    priority_exponent: float = 0.9
    """Exponent of the priorities; 0 to draw uniformly."""
    priority_max_weight: float = 0.9
    """η: a sequence's priority is η · max |δ| + (1 − η) · mean |δ|."""
    importance_exponent: float = 0.0
    """β of the importance weights; 0 for none."""

    rollout_length: int = 20
    """Steps of each environment between two turns of learning."""
    epsilon: float = 0.4
    """ε of the first environment; the i-th of N explores with ε^(1 + α i / (N − 1))."""
    epsilon_exponent: float = 7.0
    """α of that ladder."""

    learning_rate: float = 1e-3
    """Adam's step size at the start [1e-4]."""
    learning_rate_schedule: str = "linear"
    """linear (to 0 at the last step) or constant [constant]."""
    gamma: float = 0.99
    """Discount of a step [0.997]."""
    n_step: int = 5
    """Rewards that a target sums."""
    rescale_values: bool = True
    """Whether values are learnt as h(q) = sign(q)(√(|q| + 1) − 1) + q / 1000."""
    target_every: int = 100
    """Updates between two copies of the weights to the target network [2,500]."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm [40]."""

    staleness_every: int = 100
    """Updates between two measurements of what stale states do to the values (ΔQ); 0 for none."""
    checkpoint_every: int = 100
    """Turns of learning between checkpoints. Environments that cannot be saved begin new episodes at each."""


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


def burn_in_rows(config: Config) -> int:
    """The rows of the burn-in: those of the config, for a start state that burns in."""
    return config.burn_in if "burn_in" in config.start_state else 0


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


def updates_due(step: int, config: Config) -> int:
    """Updates that must have been made by `step`."""
    rows = max(step - config.learning_starts, 0) * config.replay_ratio
    return int(rows // (config.batch_size * config.length))


def ladder(config: Config, device: torch.device) -> Tensor:
    """ε of each environment, [B], from the most curious to the greediest."""
    place = torch.linspace(0, 1, config.num_envs, device=device) if config.num_envs > 1 else torch.zeros(1)
    return config.epsilon ** (1 + config.epsilon_exponent * place)


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    require(config.hidden_size >= 1, f"--hidden-size is {config.hidden_size}: it must be at least 1")
    choices = get_args(StartState)
    require(config.start_state in choices, f"--start-state '{config.start_state}': choose one of {', '.join(choices)}")
    require(
        config.replay_storage in get_args(Where), f"--replay-storage '{config.replay_storage}': choose memory or disk"
    )
    for name in (
        "num_envs", "length", "replay_capacity", "batch_size", "rollout_length", "n_step", "target_every", "num_steps",
        "checkpoint_every",
    ):  # fmt: skip
        value = getattr(config, name)
        require(value >= 1, f"--{name.replace('_', '-')} is {value}: it must be at least 1")
    for name in ("replay_ratio", "learning_rate", "gamma", "max_grad_norm"):
        value = getattr(config, name)
        require(value > 0, f"--{name.replace('_', '-')} is {value}: it must be above 0")
    for name in ("burn_in", "learning_starts", "priority_exponent", "importance_exponent", "staleness_every"):
        value = getattr(config, name)
        require(value >= 0, f"--{name.replace('_', '-')} is {value}: it must not be negative")
    require(
        config.learning_rate_schedule in ("linear", "constant"),
        f"--learning-rate-schedule '{config.learning_rate_schedule}': choose linear or constant",
    )
    for name in ("epsilon", "priority_max_weight"):
        value = getattr(config, name)
        require(0 <= value <= 1, f"--{name.replace('_', '-')} is {value}: it must be from 0 to 1")
    require(
        0 <= config.overlap < config.length,
        f"--overlap {config.overlap} of sequences of --length {config.length}: choose from 0 to {config.length - 1}",
    )
    require(
        config.start_state in ("zero", "stored", "refresh") or config.burn_in >= 1,
        f"--start-state {config.start_state} with --burn-in 0: give it rows to burn in, or take another start state",
    )
    first = config.num_envs * (burn_in_rows(config) + config.length + 1)
    always = first + config.num_envs * (config.length - config.overlap - 1)
    require(
        config.replay_capacity >= always,
        f"--replay-capacity {config.replay_capacity} holds no sequence of each of {config.num_envs} environments: "
        f"give at least {always}",
    )
    require(
        config.learning_starts >= first,
        f"--learning-starts {config.learning_starts}: the first whole sequences exist after {first} steps; "
        "give at least that",
    )
    require(
        config.autoreset_mode == "next_step",
        f"--autoreset-mode {config.autoreset_mode}: replay needs rows that follow on each other: use next_step",
    )


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
    replay = Replay(
        config.replay_capacity,
        config.num_envs,
        config.length,
        config.overlap,
        burn_in_rows(config),
        stores_states=stores_states,
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
        where=config.replay_storage,
        folder=Path(config.run_dir) / "replay",
        slack=config.checkpoint_every * config.rollout_length + 1,
        seed=config.seed,
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


def means(history: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each metric over those updates that measured it."""
    names = dict.fromkeys(name for metrics in history for name in metrics)
    return {name: float(torch.stack([m[name] for m in history if name in m]).mean()) for name in names}


def _identity(x: Tensor) -> Tensor:
    return x
