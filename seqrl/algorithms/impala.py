"""IMPALA: actors apart from a learner that corrects for the age of their policy, with any memory.

Source: Espeholt et al. 2018, arXiv 1802.01561. Where this differs:

- A trajectory holds the rows of all environments of one actor, which act as one batch.
- A truncation bootstraps from the value of the episode's own final observation, which stays in the trajectory as a row
  without loss; a termination bootstraps from nothing.
- Adam in place of RMSProp, with gradients clipped to a norm that fits losses which are means over rows, not sums.
- Rewards are divided by the standard deviation of the discounted return and clipped to ±10 of it, in place of [−1, 1]
  (--no-normalize-rewards leaves them as they are); observations are standardised.
- Losses are means over the rows that count. Advantages are not standardised, here as there: off policy, to subtract
  the mean of what importance weights have multiplied would move the policy by itself.
- Of the ablation's corrections, `one_step` clips its weight as V-trace does, and `epsilon` is log(π + 1e-6) in the
  policy's gradient, as in Babaeizadeh et al. 2016 (arXiv 1611.06256).
"""

import contextlib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqrl import engine_config
from seqrl.agent import Agent
from seqrl.config import (
    check_evaluations,
    make_agent,
    make_environment,
    require,
    require_above_zero,
    require_at_least_one,
    require_at_most_one,
    require_not_negative,
)
from seqrl.data import Rollout, TrajectoryReplay
from seqrl.distributed import ALONE, Actor, Engine, Group, Shipment, actor_seed, asked_for_actors, spawn, torchrun_group
from seqrl.engine_config import EngineConfig, check_engine, learner_threads
from seqrl.evaluations import Evaluations, acts_by_drawing
from seqrl.learner import Learner
from seqrl.nets import PolicyHead, RewardScale, ValueHead
from seqrl.objectives import gae, masked_mean, squared_error, vtrace
from seqrl.run import Run, Stateful
from seqrl.run_folder import read_spaces
from seqrl.training_state import TrainingState
from seqrl.trajectory import Trajectory, to_device, tree_cat, tree_like, tree_map

Correction = Literal["vtrace", "one_step", "epsilon", "none"]
EPSILON = 1e-6
ROUNDING = 1e-4
"""By which a ratio may exceed 1 though both policies are the same: a row alone and in a sequence are not bit equal."""


@dataclass(frozen=True, kw_only=True)
class Config(EngineConfig):
    """IMPALA. The defaults serve small problems of any kind; the recipes hold what was tuned."""

    num_envs: int = 32
    """Environments of each actor, which act side by side."""

    num_learners: int = 1
    """Processes that learn together, each with its share of actors, batch and replay; on cuda, each on its own GPU."""

    rollout_length: int = 32
    """Steps of each environment in a trajectory; gradients flow back through all of them."""
    batch_size: int = 2
    """Trajectories of a batch, each with the rows of all environments of one actor."""
    replay_share: float = 0.0
    """Share of each batch that is drawn from the replay."""
    replay_capacity: int = 64
    """Trajectories that the replay keeps, if it has a share."""

    correction: Correction = "vtrace"
    """How learning allows for the age of the policy that acted: vtrace, one_step, epsilon or none."""
    clip_rho: float = 1.0
    """ρ̄: importance weights of temporal differences and of the policy's gradient are clipped to it."""
    clip_c: float = 1.0
    """c̄: importance weights of the traces are clipped to it."""
    vtrace_lambda: float = 1.0
    """λ of the traces, with any correction."""

    learning_rate: float = 2e-3
    """Adam's step size at the start."""
    learning_rate_schedule: str = "linear"
    """linear (to 0 at the last step) or constant."""
    gamma: float = 0.99
    """Discount of a step."""
    value_weight: float = 0.5
    """Weight of the value's squared error."""
    entropy_weight: float = 0.005
    """Weight of the policy's entropy."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    normalize_rewards: bool = True
    """Whether rewards are divided by the running standard deviation of the discounted return, and clipped to ±10 of it:
    --no-normalize-rewards where a rare, large reward must count in full."""

    squash: bool = False
    """Whether continuous actions go through a tanh; else they are clipped."""
    initial_log_std: float = 0.0
    """Logarithm of a continuous policy's first standard deviation, in units of the action's half-range."""
    noise_correlation: float = 0.0
    """Correlation of a continuous policy's noise from step to step, for exploration that is smooth in time."""

    checkpoint_every: int = 100
    """Updates between checkpoints. Under engine sync, environments that cannot be saved begin new episodes at each."""


def loss(agent: Agent, batch: Trajectory, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """−log π(a) · advantage + value_weight · ½ (v − target)² − entropy_weight · entropy, over the rows that count.

    Target and advantage are V-trace's, or what `config.correction` has in their place. The metrics are detached.
    """
    inputs, last = (tree_map(lambda leaf, part=part: leaf[part], batch.inputs) for part in (slice(-1), -1))
    state = tree_like(agent.initial_state(1), tree_map(lambda leaf: leaf[0], batch.states))
    outputs, state = agent.unroll(inputs, state)
    with torch.no_grad():
        bootstrap = agent.step(last, state)[0]["value"]
    log_prob, value, mask = outputs["policy"].log_prob(batch.action), outputs["value"], batch.mask
    target, advantage = corrected(batch, log_prob.detach(), value.detach(), bootstrap, config)
    score = log_prob
    if config.correction == "epsilon":
        score = torch.logaddexp(log_prob, torch.full_like(log_prob, math.log(EPSILON)))
    policy_loss = masked_mean(-advantage * score, mask)
    value_loss = masked_mean(squared_error(value, target), mask)
    entropy = masked_mean(outputs["policy"].entropy(), mask)
    total = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
    with torch.no_grad():
        ratio = (log_prob - batch.behaviour_log_prob).exp()
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "clipped_rho": masked_mean((ratio > config.clip_rho + ROUNDING).float(), mask),
            "clipped_c": masked_mean((ratio > config.clip_c + ROUNDING).float(), mask),
        }
    return total, metrics


def corrected(
    batch: Trajectory, log_prob: Tensor, value: Tensor, bootstrap: Tensor, config: Config
) -> tuple[Tensor, Tensor]:
    """(target, advantage) of each row. The trace is cut where the next row is masked: after an episode's end.

    `bootstrap` [1, B] is the value behind the last row.
    """
    next_mask = torch.cat([batch.mask[1:], torch.ones_like(batch.mask[:1])])
    trace = config.vtrace_lambda * next_mask.float()
    discount = config.gamma * (~batch.terminated).float()
    rows = batch.reward, discount, value, torch.cat([value[1:], bootstrap])
    if config.correction == "vtrace":
        return vtrace(batch.behaviour_log_prob, log_prob, *rows, config.clip_rho, config.clip_c, trace)
    target, advantage = gae(*rows, trace)
    if config.correction == "one_step":
        advantage = advantage * (log_prob - batch.behaviour_log_prob).exp().clamp(max=config.clip_rho)
    return target, advantage


def learn(
    agent: Agent,
    learner: Learner,
    scale: RewardScale,
    replay: TrajectoryReplay,
    fresh: Sequence[Shipment],
    version: int,
    config: Config,
) -> dict[str, float]:
    """Update number `version`: one pass over fresh trajectories and some of the replay's. Returns its metrics, and how
    many `rows` they are means of."""
    parts = [(to_device(shipment.trajectory, agent.device), shipment.version) for shipment in fresh]
    for (trajectory, _), shipment in zip(parts, fresh, strict=True):
        first_rows = trajectory.inputs.is_first[:-1]
        scale.update(trajectory.reward, first_rows, trajectory.mask, shipment.actor * config.num_envs)
    replayed = replay.sample(num_replayed(config), agent.device)
    batch: Trajectory = tree_cat([trajectory for trajectory, _ in [*parts, *replayed]], dim=1)
    paid = batch.reward
    if config.normalize_rewards:
        batch = batch._replace(reward=scale.scaled(paid))
    total, metrics = loss(agent, batch, config)
    if config.normalize_rewards:
        metrics["rewards_clipped"] = scale.clipped(paid, batch.mask)
    metrics["rows"] = batch.mask.sum()
    metrics["grad_norm"] = learner.update(total, metrics["rows"])
    for trajectory, acted in parts:
        agent.update_statistics(trajectory)
        if config.replay_share:
            replay.add(trajectory, acted)
    lags = [version - acted for _, acted in [*parts, *replayed]]
    values = torch.stack(list(metrics.values())).tolist()
    return {
        **dict(zip(metrics, values, strict=True)),
        "policy_lag": sum(lags) / len(lags),
        "policy_lag_max": float(max(lags)),
    }


def num_replayed(config: Config) -> int:
    """Trajectories of a batch that are drawn from the replay."""
    return round(config.batch_size * config.replay_share)


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    choices = get_args(Correction)
    require(config.correction in choices, f"--correction '{config.correction}': choose one of {', '.join(choices)}")
    check_engine(config)
    require_at_least_one(
        config, "hidden_size", "num_envs", "rollout_length", "batch_size", "replay_capacity", "num_steps",
        "checkpoint_every",
    )  # fmt: skip
    check_learners(config)
    check_evaluations(config)
    require_above_zero(config, "clip_rho", "clip_c", "learning_rate", "gamma", "max_grad_norm")
    require_at_most_one(config, "gamma")
    require_not_negative(config, "value_weight", "entropy_weight")
    own = share(config, Group(0, config.num_learners))
    require(0 <= config.vtrace_lambda <= 1, f"--vtrace-lambda is {config.vtrace_lambda}: it must be from 0 to 1")
    require(
        0 <= config.replay_share < 1 and num_replayed(own) < own.batch_size,
        f"--replay-share {config.replay_share} of --batch-size {config.batch_size} leaves nothing fresh: lower it, "
        "or enlarge the batch",
    )
    require(
        config.replay_share == 0 or num_replayed(own) >= 1,
        f"--replay-share {config.replay_share} of --batch-size {config.batch_size} is less than one trajectory: "
        "enlarge the batch",
    )
    require(
        config.learning_rate_schedule in ("linear", "constant"),
        f"--learning-rate-schedule '{config.learning_rate_schedule}': choose linear or constant",
    )
    require(
        config.autoreset_mode == "next_step",
        f"--autoreset-mode {config.autoreset_mode}: a batch needs trajectories of one length: use next_step",
    )
    require(
        0 <= config.noise_correlation < 1, f"--noise-correlation is {config.noise_correlation}: choose 0 to below 1"
    )


def check_learners(config: Config) -> None:
    """Raise UserError where the learners cannot have equal shares, or GPUs of their own."""
    require_at_least_one(config, "num_learners")
    for name, value in (("num-actors", config.num_actors), ("batch-size", config.batch_size)):
        require(
            value % config.num_learners == 0,
            f"--{name} {value} cannot be shared equally by --num-learners {config.num_learners}: choose a multiple",
        )
    require(
        config.num_learners == 1 or not config.device.startswith("cuda:"),
        f"--device {config.device} with several learners: use cuda, and each has a GPU of its own",
    )


def build(config: Config, observation_space: Any, action_space: Any) -> Agent:
    """The untrained agent: a policy and a value on one memory. Weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = {
            "policy": PolicyHead(
                config.hidden_size, action_space, squash=config.squash, initial_log_std=config.initial_log_std
            ),
            "value": ValueHead(config.hidden_size),
        }
        agent = make_agent(config, observation_space, action_space, heads)
    require(
        agent.memory.stores_state or config.replay_share == 0,
        f"--replay-share {config.replay_share} would store the {config.memory}'s large state with every trajectory: "
        "leave it out",
    )
    return agent


def make_actor(config: Config, index: int, start: int) -> Actor:
    """The actor `index`, for an engine."""
    environment = make_environment(config)
    agent = build(config, environment.single_observation_space, environment.single_action_space)
    seed = actor_seed(config.seed, index, start)
    return Actor(index, Rollout(environment, agent, seed, config.noise_correlation), config.rollout_length)


def make_engine(config: Config, group: Group = ALONE) -> Engine:
    """The engine that `config` names, with a learner's share of the actors."""
    return engine_config.make_engine(config, functools.partial(_make_share_of_actors, group.rank, group.size))


def _make_share_of_actors(rank: int, size: int, config: Config, index: int, start: int) -> Actor:
    return make_actor(config, index * size + rank, start)


def share(config: Config, group: Group) -> Config:
    """What one learner of `config` has of actors, batch and replay, and its device."""
    return replace(
        config,
        num_actors=config.num_actors // group.size,
        batch_size=config.batch_size // group.size,
        replay_capacity=-(-config.replay_capacity // group.size),
        device=f"cuda:{group.local_rank}" if group.size > 1 and config.device == "cuda" else config.device,
    )


def train(config: Config, resume: bool = False) -> Agent:
    """Train in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds; with engine sync,
    bit for bit. With several learners a script needs `if __name__ == "__main__":`, as it does with engine async.

    Raises UserError for bad settings, an existing folder, NaN from the environment, an actor that failed, a loss that
    is not finite, or a learner that was killed.
    """
    if resume:
        config = replace(config, num_actors=asked_for_actors(Path(config.run_dir), config.num_actors))
    with torchrun_group(config.device == "cuda") as group:
        if group is not None:
            config = replace(config, num_learners=group.size, run_dir=group.gather(config.run_dir)[0])
        check(config)
        if config.num_learners == 1 or group is not None:
            return train_share(group or ALONE, config, resume)
    spawn(train_share, config.num_learners, config, resume, cuda=config.device == "cuda")
    folder = Path(config.run_dir)
    agent = build(config, *read_spaces(folder))
    Run(folder, config.num_steps, "").restore({"agent": agent})
    agent.draws = acts_by_drawing(folder, config)
    return agent


def train_share(group: Group, config: Config, resume: bool) -> Agent:
    """What one learner of `group` does of `train`."""
    own = share(config, group)
    with contextlib.closing(make_environment(own, 1)) as environment:
        agent = build(own, environment.single_observation_space, environment.single_action_space)
    with learner_threads(config, group.size), contextlib.closing(make_engine(own, group)) as engine:
        return _train(config, group, agent, engine, resume)


def _train(config: Config, group: Group, agent: Agent, engine: Engine, resume: bool) -> Agent:
    own = share(config, group)
    learner = Learner(agent, config.learning_rate, config.max_grad_norm, group.average)
    scale = RewardScale(config.num_actors * config.num_envs, config.gamma, grows=True).to(agent.device)
    group.join(agent, scale)
    replay = TrajectoryReplay(own.replay_capacity, config.seed + group.rank)
    run = group.open(config, agent.observation_space, agent.action_space, resume)
    evaluations = Evaluations(own, agent, lambda returns: group.gather(returns)[0])
    parts: dict[str, Stateful] = {"learner": learner, "scale": scale, "trajectories": replay, **evaluations.parts()}
    state = TrainingState(config.seed, agent, engine.environments, engine.acting, None, **parts)
    group.add_others(state.parts, common=("agent", "learner", *evaluations.parts()))
    step = state.restore(run)
    with run:
        run.begin(step)
        engine.publish(agent.state_dict(), state.updates)
        interrupted = False
        while step < config.num_steps and not interrupted:
            if config.learning_rate_schedule == "linear":
                learner.learning_rate = config.learning_rate * (1 - step / config.num_steps)
            fresh = [engine.receive() for _ in range(own.batch_size - num_replayed(own))]
            metrics = learn(agent, learner, scale, replay, fresh, state.updates, own)
            state.updates += 1
            engine.publish(agent.state_dict(), state.updates)
            rows = metrics.pop("rows")
            wanted = asked_for_actors(run.folder, config.num_actors) // group.size
            if wanted != engine.num_actors:
                engine.resize(wanted)
            steps, metrics, interrupted = group.report(fresh, rows, metrics | engine.metrics(), run.interrupted)
            step += steps
            with run.aside():
                metrics |= evaluations.after(step)
            run.log(step, metrics)
            if state.updates % config.checkpoint_every == 0 or step >= config.num_steps:
                state.save(run, step)
        if interrupted:
            state.save_interrupted(run, step)
    return agent
