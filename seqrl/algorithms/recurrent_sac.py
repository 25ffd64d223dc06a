"""Recurrent SAC: an actor and two critics that learn from replayed sequences, for continuous actions, with any memory.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905); actor and critics have
memories of their own, as Ni et al. 2022 (arXiv 2110.05038) found best. Differences:

- The two critics share an encoder and a memory, and have a head each.
- All losses of an update are taken at the same weights, from the same draws of actions; SAC updates the critics first.
- Sequences run on over the ends of episodes, where the memory resets. They start without memory, or behind a burn-in:
  the replay could keep the actor's state, but the critics never act, and so have none that could be stored.
- Observations are standardised by running statistics, and gradients are clipped.
- Critics may see what is hidden from the actor while it trains (`privileged_critic`): see `seqrl.actor_critic`.
- No uniformly random actions come first, since the first policy is nearly uniform. Its standard deviation is one learnt
  number for each action: one that depends on the state was no better on masked Pendulum (docs/log.md).
"""

import contextlib
import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Generator, Tensor, nn

from seqrl.actor_critic import Seeing, split
from seqrl.agent import Agent
from seqrl.config import check_privilege, make_agent, make_environment, require, require_above_zero
from seqrl.data import Replay, ReplayBatch, Rollout
from seqrl.data.replay import StartState
from seqrl.envs import Environment
from seqrl.envs.privileged import split_space
from seqrl.evaluations import Evaluations
from seqrl.learner import Learner
from seqrl.memory.make import check_name
from seqrl.nets import PolicyHead
from seqrl.objectives import masked_mean, squared_error
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
from seqrl.trajectory import AgentInput, tree_leaves, tree_map


@dataclass(frozen=True, kw_only=True)
class Config(ReplayConfig):
    """Recurrent SAC. The defaults serve small problems. Values of Ni et al., where they differ, stand in brackets;
    their length is 64 with overlap 63 and no burn-in, their capacity 1,000,000, their step size 3e-4."""

    num_envs: int = 8
    """Environments that act side by side [1]."""
    start_state: StartState = "burn_in"
    """What memories start a replayed sequence from: zero (no memory), or burn_in (none, then rows that warm it up)."""
    learning_starts: int = 1_000
    """Steps to act before learning begins."""
    replay_ratio: float = 128.0
    """Rows learnt from for each step acted [about 400 to 4,000]."""
    batch_size: int = 32
    """Sequences of a batch [32 to 64]."""
    rollout_length: int = 10
    """Steps of each environment between two turns of learning."""

    reward_scale: float = 0.1
    """Factor on rewards, and the first temperature: the optimum stays the same, but values come near unit size [1]."""
    tau: float = 0.02
    """Share of the critics' weights that goes into the target's at each update [0.005]."""
    privileged_critic: bool = False
    """Whether critics see, while training, what --hide, --flicker and --noise keep from the policy."""
    critic_memory: str = ""
    """What critics remember with; by default what the actor does. Privileged ones that see all there is need none."""
    initial_log_std: float = 0.0
    """Logarithm of the policy's first standard deviation, before the tanh."""


class Critic(nn.Module):
    """Two values of an action, q(h, a) [2, ...], on features of the history h and actions a [..., A] within [−1, 1]."""

    def __init__(self, agent: Agent, hidden_size: int, action_size: int):
        super().__init__()
        self.agent = agent
        self.values = nn.ModuleList(
            nn.Sequential(
                nn.Linear(hidden_size + action_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, 1)
            )
            for _ in range(2)
        )

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([features, action], -1)
        return torch.stack([value(x).squeeze(-1) for value in self.values])


class Features(nn.Module):
    """The memory's output itself, as an agent's head."""

    def forward(self, features: Tensor, allowed: Tensor | None = None) -> Tensor:
        return features


class Temperature(nn.Module):
    """α, the weight of the entropy, learnt as its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(initial).log())


class Networks(NamedTuple):
    """All that is learnt or follows: the actor, its critics, their target, and the temperature."""

    actor: Agent
    critic: Critic
    target: Critic
    temperature: Temperature


class Losses(NamedTuple):
    """Each reaches the weights of its own network alone."""

    actor: Tensor
    critic: Tensor
    temperature: Tensor


def loss(
    networks: Networks, batch: ReplayBatch, config: Config, generator: Generator
) -> tuple[Losses, dict[str, Tensor]]:
    """The three losses over the rows that count, and their metrics.

        critic:       Σ_i ½ (q_i(h_t, a_t) − G_t)²
                      G_t = r_t + γ (min_i q'_i(h_{t+1}, a'_{t+1}) − α log π(a'_{t+1}|h_{t+1}))
        actor:        α log π(a'_t|h_t) − min_i q_i(h_t, a'_t)
        temperature:  −log α (log π(a'_t|h_t) − A)

    a_t is the replayed action within [−1, 1], a' ~ π are drawn with `generator`, q' are the target's values, and −A,
    minus the number of the action's dimensions, is the entropy aimed at. A termination zeroes what follows r_t, which
    is scaled by `reward_scale`.
    """
    actor, critic, target, temperature = networks
    burn_in = burn_in_rows(config)
    seen, judged = parted(batch.inputs, config)
    policy = unroll(actor, seen, burn_in)["policy"]
    features = unroll(critic.agent, judged, burn_in)["features"]
    raw = policy.sample(generator)
    log_prob, action = policy.log_prob(raw), torch.tanh(raw)
    alpha = temperature.log.exp().detach()
    replayed, reward, terminated, _, mask = (leaf[burn_in:] for leaf in batch[1:6])
    with torch.no_grad():
        target_features = unroll(target.agent, judged, burn_in)["features"]
        next_value = (target(target_features, action).amin(0) - alpha * log_prob)[1:]
        goal = config.reward_scale * reward + config.gamma * (~terminated).float() * next_value
    q = critic(features[:-1], torch.tanh(replayed))
    critic_loss = masked_mean(squared_error(q, goal.expand_as(q)).sum(0), mask)
    critic.values.requires_grad_(False)
    value = critic(features[:-1].detach(), action[:-1]).amin(0)
    critic.values.requires_grad_(True)
    actor_loss = masked_mean(alpha * log_prob[:-1] - value, mask)
    entropy = -masked_mean(log_prob[:-1].detach(), mask)
    temperature_loss = temperature.log * (entropy + action.shape[-1])
    with torch.no_grad():
        metrics = {
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "value": masked_mean(value, mask),
            "entropy": entropy,
            "temperature": alpha,
        }
    return Losses(actor_loss, critic_loss, temperature_loss), metrics


def parted(inputs: AgentInput, config: Config) -> tuple[AgentInput, AgentInput]:
    """What the actor reads of rows, and what the critics do."""
    return split(inputs) if config.privileged_critic else (inputs, inputs)


def unroll(agent: Agent, inputs: AgentInput, burn_in: int) -> dict[str, Any]:
    """What the heads say of the rows learnt from and the one after. The burn-in before them gets no gradient."""
    state = agent.initial_state(inputs.is_first.shape[1])
    if burn_in and [*tree_leaves(state)]:  # without memory there is nothing to warm up
        with torch.no_grad():
            _, state = agent.unroll(tree_map(lambda leaf: leaf[:burn_in], inputs), state)
    return agent.unroll(tree_map(lambda leaf: leaf[burn_in:], inputs), state)[0]


def learn(
    networks: Networks, learners: dict[str, Learner], replay: Replay, version: int, config: Config
) -> dict[str, Tensor]:
    """One update of each network from one batch, and the target's step towards the critic."""
    actor, critic, target, _ = networks
    batch = replay.sample(config.batch_size, actor.device, version)
    # Draws that depend on nothing but the update's number need no place in the checkpoint.
    generator = torch.Generator(actor.device).manual_seed(config.seed * 1_000_003 + version)
    losses, metrics = loss(networks, batch, config, generator)
    # The actor's loss goes backward through the critic's weights, so that they may change only after it.
    for name, value in losses._asdict().items():
        metrics[f"{name}_grad_norm"] = learners[name].update(value)
    with torch.no_grad():
        for slow, quick in zip(target.parameters(), critic.parameters(), strict=True):
            slow.lerp_(quick, config.tau)
    return metrics


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    require(
        config.start_state in ("zero", "burn_in"),
        f"--start-state {config.start_state}: the critics never act, so they have no state that could be stored; "
        "choose zero or burn_in",
    )
    check_replay(config)
    require_above_zero(config, "reward_scale")
    check_privilege(config)
    if config.critic_memory:
        check_name(config.critic_memory, "--critic-memory")
    require(0 < config.tau <= 1, f"--tau is {config.tau}: it must be above 0 and at most 1")


def build(config: Config, observation_space: Any, action_space: Any) -> Agent:
    """The untrained actor, which is the agent. Weights depend on the seed alone."""
    return build_networks(config, observation_space, action_space).actor


def build_networks(config: Config, observation_space: Any, action_space: Any) -> Networks:
    """The untrained networks. Where critics are privileged, observations are those of `seqrl.envs.privileged`; of what
    the actor sees, which is all that acting knows of, critics are made as well.

    Raises UserError for actions other than a bounded Box of floating-point numbers.
    """
    require(
        isinstance(action_space, gym.spaces.Box) and action_space.is_bounded(),
        f"recurrent SAC needs bounded continuous actions, not {action_space}: use ppo or impala",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = PolicyHead(config.hidden_size, action_space, squash=True, initial_log_std=config.initial_log_std)
        seen, judged = split_space(observation_space) if config.privileged_critic else (observation_space,) * 2
        actor = make_agent(config, seen, action_space, {"policy": head})
        judging = replace(config, memory=config.critic_memory, memory_kwargs=()) if config.critic_memory else config
        history = make_agent(judging, judged, action_space, {"features": Features()})
        critic = Critic(history, config.hidden_size, int(np.prod(action_space.shape))).to(actor.device)
    target = copy.deepcopy(critic).requires_grad_(False)
    return Networks(actor, critic, target, Temperature(config.reward_scale).to(actor.device))


def train(config: Config, resume: bool = False) -> Agent:
    """Train in `config.run_dir`, and return the actor. With `resume`, continue what the folder holds, bit for bit.

    Raises UserError for bad settings, an existing folder, NaN from the environment, a loss that is not finite, or a
    disk without room for the replay.
    """
    check(config)
    with contextlib.closing(make_environment(config, privileged=config.privileged_critic)) as environment:
        return _train(config, environment, resume)


def _train(config: Config, environment: Environment, resume: bool) -> Agent:
    networks = build_networks(config, environment.single_observation_space, environment.single_action_space)
    actor, critic, target, temperature = networks
    learners = {
        name: Learner(module, config.learning_rate, config.max_grad_norm)
        for name, module in (("actor", actor), ("critic", critic), ("temperature", temperature))
    }
    acting = Seeing(actor) if config.privileged_critic else actor
    rollout = Rollout(environment, acting, config.seed)
    run = Run.open(config, actor.observation_space, actor.action_space, resume)
    replay = make_replay(config, stores_states=False)
    evaluations = Evaluations(config, actor)
    state = TrainingState(
        config.seed,
        actor,
        environment,
        rollout,
        replay=replay,
        critic=critic,
        target=target,
        temperature=temperature,
        **{f"{name}_learner": learner for name, learner in learners.items()},
        **evaluations.parts(),
    )
    step = state.restore(run)
    with run:
        run.begin(step)
        version = updates_due(step, config)
        while step < config.num_steps and not run.interrupted:
            trajectory, episodes = rollout.collect(config.rollout_length, ())
            replay.add(trajectory, version)
            acting.update_statistics(trajectory)
            judged = trajectory._replace(inputs=parted(trajectory.inputs, config)[1])
            for network in (critic.agent, target.agent):
                network.update_statistics(judged)
            step += config.rollout_length * config.num_envs
            history: list[dict[str, Tensor]] = []
            while version < updates_due(step, config):
                history.append(learn(networks, learners, replay, version, config))
                version += 1
            with run.aside():
                evaluated = evaluations.after(step)
            run.log(step, {**episodes.metrics(), **means(history), **evaluated})
            state.updates += 1
            if state.updates % config.checkpoint_every == 0 or step >= config.num_steps:
                state.save(run, step)
        if run.interrupted:
            state.save_interrupted(run, step)
    return actor
