"""Recurrent PPO.

Source: Schulman et al. 2017, arXiv 1707.06347; Huang et al. 2022, "The 37 Implementation Details of PPO", for what the
paper leaves open. Where this differs:

- The agent has a memory. Minibatches are whole sequences, each unrolled from the state its memory had while acting.
- Rollout length, BPTT length and burn-in are three settings. A rollout is cut into sequences of the BPTT length;
  burn-in rows before a sequence are unrolled without a gradient, to make its first state anew with today's weights.
- A truncation bootstraps from the value of the episode's own final observation, which stays in the sequence as a row
  without loss; a termination bootstraps from nothing.
- Rewards are divided by the standard deviation of the discounted return and clipped to ±10 of it (a rare, large reward
  then counts less: --no-normalize-rewards leaves rewards as they are); the value loss is not clipped.
- Actor and critic share encoder and memory, or have their own (`separate_critic`). Their own may see more than the
  actor while it trains (`privileged_critic`): see `seqrl.actor_critic`.
- On trials, a teacher that knows the task may help at first (`teacher_weight`): the cross-entropy to the task's best
  action makes of the policy a draw from what the history leaves open, as Thompson sampling is (Lee et al. 2023, arXiv
  2306.14892), and rewards make more of that. Fading it out follows Schmitt et al. 2018 (arXiv 1803.03835).
- On trials whose task tells it, learning may take each action's expected regret for the reward (`learn_from_regret`).
  By the performance difference lemma (Kakade & Langford 2002) the undiscounted sums of both differ, in expectation, by
  what the optimum brings, which is no policy's doing: at γ = 1 the best policy is the same. What chance paid and how
  rich the task is are gone from what is learnt from. The agent reads the rewards it is paid.
- The agent may end with the mean of its last weights (`weight_average`).
"""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqrl.actor_critic import ActorCritic
from seqrl.agent import Agent
from seqrl.config import (
    RunConfig,
    check_evaluations,
    check_privilege,
    make_agent,
    make_environment,
    require,
    require_above_zero,
    require_at_least_one,
    require_at_most_one,
    require_not_negative,
)
from seqrl.data import Batch, Rollout, Sequences
from seqrl.data.recorder import HistoryRecorder
from seqrl.envs import ENVIRONMENTS, Environment, TrialVectorEnv
from seqrl.envs.privileged import split_space
from seqrl.envs.trials import OPTIMAL_ACTION, REGRET, unrevealed_space
from seqrl.evaluations import Evaluations
from seqrl.learner import Learner, WeightAverage
from seqrl.nets import PolicyHead, RewardScale, ValueHead
from seqrl.objectives import approximate_kl, clipped_surrogate, gae, masked_mean, masked_standardize, squared_error
from seqrl.run import Run, Stateful
from seqrl.training_state import TrainingState
from seqrl.trajectory import Trajectory, tree_map


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Recurrent PPO. The defaults serve small problems of any kind; the recipes hold what was tuned."""

    rollout_length: int = 64
    """Steps of each environment between two updates."""
    bptt_length: int = 0
    """Steps that gradients flow back; must divide the rollout length. 0 for the whole rollout."""
    burn_in: int = 0
    """Steps before each sequence that are unrolled only to warm up its first state."""
    refresh_states: bool = False
    """Whether the first state of each sequence is computed anew at every epoch after the first."""

    learning_rate: float = 2e-3
    """Adam's step size at the start."""
    learning_rate_schedule: str = "linear"
    """linear (to 0 at the last step) or constant."""
    num_epochs: int = 6
    """Passes over each rollout."""
    num_minibatches: int = 2
    """Parts of the sequences that each pass takes one after the other."""
    gamma: float = 0.99
    """Discount of a step."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """ε of the clipped surrogate."""
    value_weight: float = 0.5
    """Weight of the value's squared error."""
    entropy_weight: float = 0.005
    """Weight of the policy's entropy."""
    teacher_weight: float = 0.0
    """Weight, at the start, of the cross-entropy to the best action that trials reveal."""
    teacher_share: float = 0.5
    """Share of the steps in which the teacher's weight falls to 0."""
    learn_from_regret: bool = False
    """Whether to learn from what actions cost in expectation, as trials reveal it, in place of the rewards played."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    weight_average: float = 0.0
    """Share of the steps, the last ones, after whose updates weights are averaged into the final agent; 0 for none."""
    target_kl: float = 0.0
    """An epoch whose mean KL from the acting policy exceeds this is the update's last; 0 for no limit."""
    normalize_advantages: bool = True
    """Whether each minibatch's advantages are standardised."""
    normalize_rewards: bool = True
    """Whether rewards are divided by the running standard deviation of the discounted return, and clipped to ±10 of it:
    --no-normalize-rewards where a rare, large reward must count in full."""

    separate_critic: bool = False
    """Whether values have an encoder and a memory of their own."""
    privileged_critic: bool = False
    """Whether these see, while training, what --hide, --flicker and --noise keep from the policy."""
    squash: bool = False
    """Whether continuous actions go through a tanh; else they are clipped."""
    initial_log_std: float = 0.0
    """Logarithm of a continuous policy's first standard deviation, in units of the action's half-range."""
    noise_correlation: float = 0.0
    """Correlation of a continuous policy's noise from step to step, for exploration that is smooth in time."""

    checkpoint_every: int = 20
    """Updates between checkpoints. Environments that cannot be saved begin new episodes at each."""
    record: str = ""
    """Folder for all that is played, a learning history of each environment; such a run cannot be resumed."""


def loss(agent: Agent | ActorCritic, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate + value_weight · ½ (v − target)² − entropy_weight · entropy − teacher_weight · log π(best
    action), over the rows that count.

    `batch` has `config.burn_in` rows before those that are learnt from. The metrics are detached scalars.
    """
    inputs, state = batch.inputs, batch.state
    if config.burn_in:
        with torch.no_grad():
            _, state = agent.unroll(tree_map(lambda leaf: leaf[: config.burn_in], inputs), state)
        inputs = tree_map(lambda leaf: leaf[config.burn_in :], inputs)
    outputs, _ = agent.unroll(inputs, state)
    action, behaviour_log_prob, advantage, target, mask = (leaf[config.burn_in :] for leaf in batch[1:6])
    log_prob = outputs["policy"].log_prob(action)
    if config.normalize_advantages:
        advantage = masked_standardize(advantage, mask)
    policy_loss = masked_mean(clipped_surrogate(log_prob, behaviour_log_prob, advantage, config.clip), mask)
    value_loss = masked_mean(squared_error(outputs["value"], target), mask)
    entropy = masked_mean(outputs["policy"].entropy(), mask)
    total = policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy
    if config.teacher_weight > 0:
        imitation = -outputs["policy"].log_prob(inputs.observation[OPTIMAL_ACTION])
        total = total + config.teacher_weight * masked_mean(imitation, mask)
    with torch.no_grad():
        clipped = ((log_prob - behaviour_log_prob).exp() - 1).abs() > config.clip
        metrics = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.detach(),
            "kl": masked_mean(approximate_kl(log_prob, behaviour_log_prob), mask),
            "clipped_fraction": masked_mean(clipped.float(), mask),
        }
    return total, metrics


def needs_reveal(config: Config) -> bool:
    """Whether the environment has to show what the agent is not to read."""
    return config.teacher_weight > 0 or config.learn_from_regret


def rewards(trajectory: Trajectory, config: Config) -> Tensor:
    """What is learnt from, [T, B]: what was paid, or what each action cost in expectation, with its sign turned."""
    if not config.learn_from_regret:
        return trajectory.reward
    return -trajectory.inputs.observation[REGRET][:-1].gather(-1, trajectory.action[..., None])[..., 0]


def advantages(trajectory: Trajectory, reward: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """(target, advantage) of each row. The trace is cut where the next row is masked: after an episode's end."""
    next_mask = torch.cat([trajectory.mask[1:], torch.ones_like(trajectory.mask[:1])])
    return gae(
        reward,
        config.gamma * (~trajectory.terminated).float(),
        trajectory.value[:-1],
        trajectory.value[1:],
        config.gae_lambda * next_mask.float(),
    )


def learn(
    agent: Agent | ActorCritic,
    learner: Learner,
    sequences: Sequences,
    trajectory: Trajectory,
    reward: Tensor,
    config: Config,
) -> dict[str, float]:
    """One update: epochs of minibatches over one rollout. Returns the metrics' means."""
    target, advantage = advantages(trajectory, reward, config)
    inputs = tree_map(lambda leaf: leaf[:-1], trajectory.inputs)
    rows = (trajectory.action, trajectory.behaviour_log_prob, advantage, target, trajectory.mask)
    batch = sequences.cut(Batch(inputs, *rows, state=trajectory.states))
    history: list[dict[str, Tensor]] = []
    for epoch in range(config.num_epochs):
        if epoch and config.refresh_states:
            batch = sequences.refresh(agent, batch, config.num_envs)
        epoch_start = len(history)
        for minibatch in sequences.minibatches(batch, config.num_minibatches):
            total, metrics = loss(agent, minibatch, config)
            history.append({**metrics, "grad_norm": learner.update(total)})
        if config.target_kl and torch.stack([m["kl"] for m in history[epoch_start:]]).mean() > config.target_kl:
            break
    means = torch.stack([torch.stack(list(metrics.values())) for metrics in history]).mean(0).tolist()
    return {**dict(zip(history[0], means, strict=True)), "epochs": float(epoch + 1)}


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    length = config.bptt_length or config.rollout_length
    require_at_least_one(
        config, "hidden_size", "num_envs", "rollout_length", "num_steps", "num_epochs", "checkpoint_every"
    )
    require_above_zero(config, "learning_rate", "gamma", "clip", "max_grad_norm")
    check_evaluations(config)
    require_not_negative(config, "gae_lambda", "value_weight", "entropy_weight", "teacher_weight", "target_kl")
    require_at_most_one(config, "gamma", "gae_lambda")
    require(
        length <= config.rollout_length,
        f"--bptt-length {length} is longer than --rollout-length {config.rollout_length}: shorten it",
    )
    require(
        length >= 1 and config.rollout_length % length == 0,
        f"--bptt-length {length} does not divide --rollout-length {config.rollout_length}: choose a divisor of it",
    )
    require(
        0 <= config.burn_in <= config.rollout_length,
        f"--burn-in {config.burn_in} lies outside 0 to --rollout-length {config.rollout_length}: shorten it",
    )
    sequences = config.num_envs * config.rollout_length // length
    require(
        1 <= config.num_minibatches <= sequences,
        f"--num-minibatches {config.num_minibatches} for {sequences} sequences a rollout: choose 1 to {sequences}",
    )
    require(
        config.learning_rate_schedule in ("linear", "constant"),
        f"--learning-rate-schedule '{config.learning_rate_schedule}': choose linear or constant",
    )
    require(
        config.autoreset_mode == "next_step" or (length == config.rollout_length and config.burn_in == 0),
        f"--autoreset-mode {config.autoreset_mode} makes rollouts of varying length: "
        "use it without --bptt-length and --burn-in, or use next_step",
    )
    kind = ENVIRONMENTS.get(config.env)
    telling = [name for name, one in ENVIRONMENTS.items() if getattr(one, "tells_regret", False)]
    require(
        config.teacher_weight == 0 or (kind is not None and issubclass(kind, TrialVectorEnv)),
        f"--teacher-weight for '{config.env}': only trials, such as seqrl/Bandit-v0, know their best action",
    )
    require(
        not config.learn_from_regret or config.env in telling,
        f"--learn-from-regret for '{config.env}': only trials of {' and '.join(telling)} tell it",
    )
    _check_privilege(config)
    require(
        0 < config.teacher_share <= 1,
        f"--teacher-share is {config.teacher_share}: it is a share of the steps, choose above 0 to 1",
    )
    require(
        0 <= config.weight_average <= 1,
        f"--weight-average is {config.weight_average}: it is a share of the steps, choose 0 to 1",
    )
    require(
        0 <= config.noise_correlation < 1, f"--noise-correlation is {config.noise_correlation}: choose 0 to below 1"
    )


def _check_privilege(config: Config) -> None:
    """Raise UserError where a critic is to see more than there is to see, or than it could have for itself."""
    check_privilege(config)
    if not config.privileged_critic:
        return
    require(
        config.separate_critic,
        "--privileged-critic without --separate-critic: the policy would read what the critic sees; give both",
    )
    for flag, given in (
        ("--teacher-weight", config.teacher_weight > 0),
        ("--learn-from-regret", config.learn_from_regret),
        ("--record", bool(config.record)),
    ):
        require(not given, f"--privileged-critic with {flag}: leave one of them out")


def build(config: Config, observation_space: Any, action_space: Any) -> Agent | ActorCritic:
    """The untrained agent: a policy and a value, on one memory or two. Weights depend on the seed alone.

    Where the critic is privileged, observations are those of `seqrl.envs.privileged`. Of what the actor sees, by which
    a comparison tries its settings out, both are made.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        policy = PolicyHead(
            config.hidden_size, action_space, squash=config.squash, initial_log_std=config.initial_log_std
        )
        policy_head, value_head = {"policy": policy}, {"value": ValueHead(config.hidden_size)}
        if config.separate_critic:
            seen, judged = split_space(observation_space) if config.privileged_critic else (observation_space,) * 2
            agent: Agent | ActorCritic = ActorCritic(
                make_agent(config, seen, action_space, policy_head),
                make_agent(config, judged, action_space, value_head),
                config.privileged_critic,
            )
        else:
            agent = make_agent(config, observation_space, action_space, {**policy_head, **value_head})
    require(
        agent.memory.stores_state or config.bptt_length in (0, config.rollout_length),
        f"--bptt-length {config.bptt_length} would store the {config.memory}'s large state inside each rollout: use "
        "--bptt-length 0, which learns from whole rollouts",
    )
    return agent


def train(config: Config, resume: bool = False) -> Agent | ActorCritic:
    """Train in `config.run_dir`, and return the agent. With `resume`, continue what the folder holds, bit for bit.

    Raises UserError for bad settings, an existing folder, NaN from the environment, or a loss that is not finite.
    """
    check(config)
    require(
        not (resume and config.record),
        f"{config.run_dir} records what it plays (--record {config.record}), and what it played before it stopped is "
        "lost: train it again from the start",
    )
    # What is revealed is shown to the loss alone; the run's folder names the environment that acting needs.
    kwargs = (*config.env_kwargs, "reveal=true") if needs_reveal(config) else config.env_kwargs
    revealing = replace(config, env_kwargs=kwargs)
    with contextlib.closing(make_environment(revealing, privileged=config.privileged_critic)) as environment:
        return _train(config, environment, resume)


def _train(config: Config, environment: Environment, resume: bool) -> Agent | ActorCritic:
    observation_space = environment.single_observation_space
    if needs_reveal(config):
        observation_space = unrevealed_space(observation_space)
    agent = build(config, observation_space, environment.single_action_space)
    length = config.bptt_length or config.rollout_length
    learner = Learner(agent, config.learning_rate, config.max_grad_norm)
    rollout = Rollout(environment, agent, config.seed, config.noise_correlation)
    sequences = Sequences(config.rollout_length, length, config.burn_in, config.seed)
    scale = RewardScale(config.num_envs, config.gamma).to(agent.device)
    recorder = HistoryRecorder.of(config, agent) if config.record else None
    run = Run.open(config, observation_space, agent.action_space, resume)
    evaluations = Evaluations(config, agent)
    parts: dict[str, Stateful] = {"learner": learner, "sequences": sequences, "scale": scale, **evaluations.parts()}
    average = WeightAverage(agent) if config.weight_average > 0 else None
    if average is not None:
        parts["average"] = average
    state = TrainingState(config.seed, agent, environment, rollout, None, **parts)
    step = state.restore(run)
    with run:
        run.begin(step)
        while step < config.num_steps and not run.interrupted:
            if config.learning_rate_schedule == "linear":
                learner.learning_rate = config.learning_rate * (1 - step / config.num_steps)
            trajectory, episodes = rollout.collect(config.rollout_length, sequences.state_rows)
            if recorder is not None:
                recorder.add(trajectory)
            paid = rewards(trajectory, config)
            scaled = scale(paid, trajectory.inputs.is_first[:-1], trajectory.mask)
            reward = scaled if config.normalize_rewards else paid
            weight = config.teacher_weight * max(0.0, 1 - step / (config.teacher_share * config.num_steps))
            metrics = learn(agent, learner, sequences, trajectory, reward, replace(config, teacher_weight=weight))
            if config.normalize_rewards:
                metrics["rewards_clipped"] = scale.clipped(paid, trajectory.mask).item()
            agent.update_statistics(trajectory)
            step += config.rollout_length * config.num_envs
            state.updates += 1
            if average is not None and step > (1 - config.weight_average) * config.num_steps:
                average.add()
            if average is not None and step >= config.num_steps:
                average.apply()
            with run.aside():
                evaluated = evaluations.after(step)
            run.log(step, {**episodes.metrics(), **metrics, **evaluated})
            if state.updates % config.checkpoint_every == 0 or step >= config.num_steps:
                state.save(run, step)
        if run.interrupted:
            state.save_interrupted(run, step)
        elif recorder is not None:
            recorder.write()
    return agent
