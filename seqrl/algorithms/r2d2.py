"""R2D2: Q-learning from replayed sequences, with any memory.

Source: Kapturowski et al. 2019, "Recurrent Experience Replay in Distributed Reinforcement Learning"; its actors apart
from the learner are those of Horgan et al. 2018 (Ape-X), arXiv 1803.00933. Differences:

- `replay_ratio` says how many rows are learnt from for each one acted: the learner waits for actors where they are too
  slow for that, and they wait for it where they are too fast. By default both take turns in one process.
- The replay has a shard for each actor, all of one capacity; a batch takes from each in proportion to its priorities.
- Sequences run on over the ends of episodes, where the memory resets; the burn-in comes before the rows learnt from and
  not out of them, so that all ways to start learn from the same rows.
- A truncation bootstraps from the value of the episode's own final observation.
- The target network starts from the same stored state as the online one, and both warm it up with their own weights.
- First priorities of several actors' sequences are theirs, from the values that they acted by, which stand for both
  networks; a single actor's are the largest so far. Importance weights can be had (β), which R2D2 leaves out.

With --memory frame_stack or none, and --start-state zero, this is DQN with double Q, dueling heads, prioritised replay
and n-step targets on whole sequences.
"""

import contextlib
import copy
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from seqrl.agent import Agent
from seqrl.config import make_agent, make_environment, require, require_at_least_one, require_not_negative
from seqrl.data import Replay, ReplayBatch, Rollout
from seqrl.data.replay import Replayed, StartState, discrepancy, start_state
from seqrl.data.sharded_replay import ActedSequences, ShardedReplay
from seqrl.distributed import Actor, Engine, RayEngine, RayShards, Shipment, actor_seed
from seqrl.engine_config import EngineConfig, check_engine, learner_threads, make_engine
from seqrl.evaluations import Evaluations
from seqrl.learner import Learner
from seqrl.nets import ActionValueHead, EpsilonGreedy
from seqrl.nets.normalization import take_in
from seqrl.objectives import masked_mean, n_step_return, rescale, squared_error, unrescale
from seqrl.replay_config import (
    ReplayConfig,
    burn_in_rows,
    check_replay,
    make_replay,
    means,
    unsaved_rows,
    updates_due,
)
from seqrl.run import Run, Stateful
from seqrl.training_state import TrainingState
from seqrl.trajectory import Trajectory, Tree, to_device, tree_map

FirstPriority = Literal["auto", "largest", "acted"]


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig, EngineConfig):
    """R2D2. The defaults serve small problems. R2D2's own values for Atari, where they differ, stand in brackets; its
    length is 40 behind a burn-in of 40, its overlap 40, its capacity 4,000,000, its ratio about 0.8, its batches 64."""

    num_envs: int = 16
    """Environments of each actor, which act side by side, each with an ε of its own [1]."""
    num_actors: int = 1
    """Actors [256]."""
    previous_reward: bool = True
    """Whether the agent reads its previous reward."""
    start_state: StartState = "stored_burn_in"
    """Where a sequence's unroll starts: zero, burn_in, stored, stored_burn_in or refresh (stored, and made anew)."""

    priority_exponent: float = 0.9
    """Exponent of the priorities; 0 to draw uniformly."""
    priority_max_weight: float = 0.9
    """η: a sequence's priority is η · max |δ| + (1 − η) · mean |δ|."""
    first_priority: FirstPriority = "auto"
    """A new sequence's priority: acted, from the values that its actor acted by; largest, the largest there was so far;
    auto, acted where there are several actors."""
    importance_exponent: float = 0.0
    """β of the importance weights; 0 for none."""

    epsilon: float = 0.4
    """ε of the first environment; the i-th of all actors' N explores with ε^(1 + α i / (N − 1))."""
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
    replay_shards: int = 1
    """Processes of engine ray that hold the replay, at most one for each actor; 0 to hold it in the learner's."""
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
        next_value = q_target.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1)[1:]
        action, reward, terminated, truncated, mask = (leaf[burn_in:] for leaf in batch[1:6])
        goal = goals(next_value, reward, terminated, truncated, config)
    value = q[:-1].gather(-1, action.unsqueeze(-1)).squeeze(-1)
    total = masked_mean(batch.weight * squared_error(value, goal), mask)
    with torch.no_grad():
        error = (goal - value).abs().masked_fill(~mask, 0.0)
        metrics = {
            "loss": total.detach(),
            "value": masked_mean(value, mask),
            "td_error": masked_mean(error, mask),
            "priority": priorities(error, mask, config),
        }
    return total, metrics, state


def goals(next_value: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, config: Config) -> Tensor:
    """h(G) of each row, [T, N]; `next_value` [T, N] is h of the value behind it."""
    forward, backward = (rescale, unrescale) if config.rescale_values else (_identity, _identity)
    discount = config.gamma * (~terminated).float()
    trace = (~(terminated | truncated)).float()
    return forward(n_step_return(reward, discount, backward(next_value), trace, config.n_step))


def priorities(error: Tensor, mask: Tensor, config: Config) -> Tensor:
    """η max |δ| + (1 − η) mean |δ| of each sequence, [N]; `error` [T, N] is 0 on the rows that do not count."""
    mean = error.sum(0) / mask.sum(0).clamp(min=1)
    return config.priority_max_weight * error.amax(0) + (1 - config.priority_max_weight) * mean


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
    agent: Agent, target: Agent, learner: Learner, replay: Replayed, version: int, config: Config
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
    """ε of each environment of all actors, [num_actors · num_envs], from the most curious to the greediest."""
    num_envs = config.num_actors * config.num_envs
    place = torch.linspace(0, 1, num_envs, device=device) if num_envs > 1 else torch.zeros(1, device=device)
    return config.epsilon ** (1 + config.epsilon_exponent * place)


class ActedRow(NamedTuple):
    """What an actor keeps of its rows to say how surprising they were: leaves [T, B]."""

    value: Tensor
    """Of the action that was taken."""
    best: Tensor
    """The largest value of an action."""
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor


class Explorer:
    """An actor's exploration, and the values [T, B, actions] of the rows that it acted since they were last read."""

    def __init__(self, epsilon: Tensor, keeps_values: bool):
        self.epsilon, self.keeps_values = epsilon, keeps_values
        self.values: list[Tensor] = []

    def __call__(self, policy: EpsilonGreedy) -> EpsilonGreedy:
        if self.keeps_values:
            self.values.append(policy.values[0])
        return policy.with_epsilon(self.epsilon)

    def record(self, trajectory: Trajectory) -> ActedRow:
        """What is kept of the rows that were just acted."""
        values = torch.stack(self.values)
        self.values.clear()
        value = values.gather(-1, trajectory.action.unsqueeze(-1)).squeeze(-1)
        return ActedRow(value, values.amax(-1), *trajectory[2:6])


def first_priority(rows: ActedRow, config: Config) -> Tensor:
    """An actor's priority of a sequence of each column, [B]: that of `loss`, by the values that the actor acted by.

    They stand for both networks' values, so that double Q-learning takes the largest one. `rows` are the sequence's
    burn_in + length + 1 rows, [T, B].
    """
    rows = tree_map(lambda leaf: leaf[burn_in_rows(config) :], rows)
    value, _, reward, terminated, truncated, mask = tree_map(lambda leaf: leaf[:-1], rows)
    goal = goals(rows.best[1:], reward, terminated, truncated, config)
    return priorities((goal - value).abs().masked_fill(~mask, 0.0), mask, config)


def keeps_first_priorities(config: Config) -> bool:
    """Whether actors give their sequences' first priorities."""
    wanted = config.num_actors > 1 if config.first_priority == "auto" else config.first_priority == "acted"
    return wanted and config.priority_exponent > 0


def stores_states(config: Config) -> bool:
    """Whether sequences start from what the memory was when they were acted."""
    return config.start_state not in ("zero", "burn_in")


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    for name, kind in (("start_state", StartState), ("first_priority", FirstPriority)):
        choices, value = get_args(kind), getattr(config, name)
        require(value in choices, f"--{name.replace('_', '-')} '{value}': choose one of {', '.join(choices)}")
    check_engine(config)
    check_replay(config, config.num_actors)
    require_at_least_one(config, "n_step", "target_every")
    require_not_negative(config, "priority_exponent", "importance_exponent", "staleness_every", "replay_shards")
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
        agent = make_agent(config, observation_space, action_space, {"policy": head})
    require(
        agent.memory.stores_state or not stores_states(config),
        f"--start-state {config.start_state} would store the {config.memory}'s large state with every sequence: "
        "use --start-state burn_in",
    )
    return agent


def make_actor(config: Config, index: int, start: int) -> Actor:
    """The actor `index`, for an engine."""
    environment = make_environment(config)
    agent = build(config, environment.single_observation_space, environment.single_action_space)
    own = slice(index * config.num_envs, (index + 1) * config.num_envs)
    judges = keeps_first_priorities(config)
    explorer = Explorer(ladder(config, agent.device)[own], judges)
    sequences = ActedSequences(
        config.length,
        config.overlap,
        burn_in_rows(config),
        stores_states=stores_states(config),
        record=explorer.record if judges else None,
        judge=functools.partial(first_priority, config=config) if judges else None,
    )
    first = index == start == 0  # alone, it is the run of a single process
    seed = config.seed if first else actor_seed(config.seed, index, start)
    return Actor(index, Rollout(environment, agent, seed, explore=explorer), config.rollout_length, sequences)


def make_shard(config: Config, actor: int) -> Replay:
    """The empty shard of the replay for an actor.

    An actor that is a process may begin anew between two checkpoints, which adds rows each time: it may once, and then
    a checkpoint is due.
    """
    return make_replay(
        config,
        stores_states=stores_states(config),
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
        shard=actor,
        num_shards=config.num_actors,
        slack=config.rollout_length + config.length if config.engine != "sync" else 0,
    )


def make_shards(config: Config, engine: Engine) -> ShardedReplay | RayShards:
    """The empty replay, a shard for each actor, in this process or in those of Ray."""
    max_unsaved = unsaved_rows(config) if config.engine != "sync" else None
    if not isinstance(engine, RayEngine) or config.replay_shards == 0:
        shards = [make_shard(config, actor) for actor in range(config.num_actors)]
        return ShardedReplay(shards, config.seed, max_unsaved)
    engine.elsewhere = {}
    return RayShards(
        engine.ray,
        functools.partial(make_shard, replace(config, run_dir=str(Path(config.run_dir).absolute()))),
        config.num_actors,
        min(config.num_actors, config.replay_shards),
        burn_in=burn_in_rows(config),
        importance_exponent=config.importance_exponent,
        seed=config.seed,
        max_unsaved=max_unsaved,
    )


def take(replay: ShardedReplay | RayShards, agent: Agent, shipment: Shipment) -> None:
    """What an actor sent goes into its shard, and its observations into the running statistics."""
    details = shipment.version, shipment.actor, shipment.first_row, shipment.priority
    if shipment.elsewhere is None:
        replay.add(shipment.trajectory, *details)
        agent.update_statistics(to_device(shipment.trajectory, agent.device))
    else:
        replay.add(shipment.elsewhere.reference, *details)
        take_in(agent, shipment.elsewhere.moments)


def train(config: Config, resume: bool = False) -> Agent:
    """Train in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds; with engine sync,
    bit for bit, else with new episodes.

    Raises UserError for bad settings, an existing folder, NaN from the environment, an actor that failed, a loss that
    is not finite, or a disk without room for the replay.
    """
    check(config)
    with contextlib.closing(make_environment(config, 1)) as environment:
        agent = build(config, environment.single_observation_space, environment.single_action_space)
    with contextlib.closing(make_engine(config, make_actor)) as engine, learner_threads(config):
        return _train(config, agent, engine, resume)


def _train(config: Config, agent: Agent, engine: Engine, resume: bool) -> Agent:
    target = copy.deepcopy(agent)
    learner = Learner(agent, config.learning_rate, config.max_grad_norm)
    run = Run.open(config, agent.observation_space, agent.action_space, resume)
    replay = make_shards(config, engine)
    evaluations = Evaluations(config, agent)
    parts: dict[str, Stateful] = {"learner": learner, "target": target, **evaluations.parts()}
    state = TrainingState(config.seed, agent, engine.environments, engine.acting, replay, **parts)
    step = state.restore(run)
    with run:
        run.begin(step)
        version = updates_due(step, config)
        engine.publish(agent.state_dict(), version, start=state.updates)  # before learning begins the version is 0
        while step < config.num_steps and not run.interrupted:
            shipment = engine.receive()
            take(replay, agent, shipment)
            step += shipment.num_steps
            if config.learning_rate_schedule == "linear":
                learner.learning_rate = config.learning_rate * max(1 - step / config.num_steps, 0.0)
            lag = version - shipment.version
            history: list[dict[str, Tensor]] = []
            while version < updates_due(step, config):
                history.append(learn(agent, target, learner, replay, version, config))
                version += 1
            engine.publish(agent.state_dict(), version)
            metrics = {**shipment.episodes.metrics(), **means(history), "policy_lag": float(lag), **engine.metrics()}
            with run.aside():
                metrics |= evaluations.after(step)
            run.log(step, metrics)
            state.updates += 1
            if state.updates % config.checkpoint_every == 0 or step >= config.num_steps or replay.save_is_due:
                state.save(run, step)
        if run.interrupted:
            state.save_interrupted(run, step)
    return agent


def _identity(x: Tensor) -> Tensor:
    return x
