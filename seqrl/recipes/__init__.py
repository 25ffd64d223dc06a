"""Recipes: functions that return a Config with what was tuned for a problem. `seqrl train NAME` runs one.

`seqrl compare ENV` starts from the recipe of ENV where there is one, so that every memory gets the same settings, and
`seqrl compare NAME --env ENV` from that of NAME, if it is PPO's.
Those that learn from logged episodes name a method, not a problem: give them a --dataset.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym

from seqrl.algorithms import algorithm_distillation, decision_transformer, impala, ppo, r2d2, recurrent_sac, rlhf
from seqrl.config import ProblemConfig
from seqrl.language_runs.config import LanguageConfig


def masked_cartpole() -> ppo.Config:
    """CartPole without velocities: fewer environments and a higher learning rate, for the least time to solve it. The
    discount sees to the end of an episode: with 0.99 a cart that drifts to the edge in 200 steps costs next to nothing,
    and some seeds lose what they had (docs/log.md)."""
    return ppo.Config(
        env="seqrl/MaskedCartPole-v0",
        num_steps=150_000,
        num_envs=32,
        num_epochs=4,
        learning_rate=3e-3,
        gamma=0.998,
    )


def masked_cartpole_r2d2() -> r2d2.Config:
    """CartPole without velocities by R2D2. Values of 100 steps need a target network that is copied often; with little
    exploration and without priorities the greedy policy stays good once it is, given time (docs/log.md)."""
    return r2d2.Config(
        env="seqrl/MaskedCartPole-v0",
        num_steps=180_000,
        length=20,
        overlap=10,
        burn_in=10,
        learning_starts=2_000,
        replay_ratio=32.0,
        n_step=3,
        target_every=20,
        epsilon=0.1,
        priority_exponent=0.0,
    )


def masked_cartpole_impala() -> impala.Config:
    """CartPole without velocities by IMPALA: short trajectories of one actor a batch, for many updates."""
    return impala.Config(env="seqrl/MaskedCartPole-v0", num_steps=300_000, rollout_length=16, batch_size=1)


def masked_pendulum() -> ppo.Config:
    """Pendulum without its velocity. Many small updates on whole episodes; a short horizon, as the reward is dense."""
    return ppo.Config(
        env="seqrl/MaskedPendulum-v0",
        num_steps=500_000,
        num_envs=16,
        rollout_length=200,
        num_minibatches=4,
        num_epochs=8,
        learning_rate=1e-3,
        gamma=0.95,
        entropy_weight=0.0,
        memory_horizon=0,
        previous_action=True,
    )


def masked_pendulum_sac() -> recurrent_sac.Config:
    """Pendulum without its velocity, from far fewer steps than PPO needs: many small updates on short sequences."""
    return recurrent_sac.Config(
        env="seqrl/MaskedPendulum-v0",
        num_steps=20_000,
        start_state="zero",
        length=20,
        overlap=10,
        batch_size=16,
        replay_ratio=96,
        learning_rate=2e-3,
        gamma=0.95,
        memory_horizon=0,
    )


def masked_mountain_car() -> ppo.Config:
    """Continuous mountain car without its velocity. Only noise that is smooth in time finds the goal."""
    return ppo.Config(env="seqrl/MaskedMountainCarContinuous-v0", num_steps=400_000, noise_correlation=0.95)


def robot() -> ppo.Config:
    """Robots that are shown part of their state; name one with --env. Values have a memory of their own, and updates
    are many and small, each on short sequences of several episodes. Comparisons on MuJoCo's robots start from this."""
    return ppo.Config(
        num_steps=1_000_000,
        num_envs=16,
        rollout_length=128,
        bptt_length=16,
        num_minibatches=32,
        num_epochs=10,
        learning_rate=3e-4,
        entropy_weight=0.0,
        memory_horizon=0,
        separate_critic=True,
    )


def robot_sac() -> recurrent_sac.Config:
    """Robots that are shown part of their state, by recurrent SAC; name one with --env. Sequences are short, since what
    is hidden of a robot shows in a few rows. Comparisons of SAC on MuJoCo's robots start from this."""
    return recurrent_sac.Config(
        num_steps=300_000,
        hidden_size=128,
        memory_horizon=0,
        length=16,
        overlap=8,
        burn_in=8,
        batch_size=16,
        replay_ratio=64,
        rollout_length=8,
        learning_rate=1e-3,
        tau=0.01,
        reward_scale=1.0,
    )


def tmaze() -> ppo.Config:
    """The passive T-maze with a corridor of 30."""
    return ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=30",), num_steps=300_000)


def tmaze_r2d2() -> r2d2.Config:
    """The passive T-maze with a corridor of 30, by R2D2. A short horizon and plain values: a step that is wasted costs
    1/30, and must show against the errors of the values."""
    return r2d2.Config(
        env="seqrl/TMaze-v0",
        env_kwargs=("length=30",),
        num_steps=400_000,
        replay_ratio=16.0,
        gamma=0.95,
        n_step=3,
        rescale_values=False,
        target_every=50,
    )


def tmaze_impala() -> impala.Config:
    """The passive T-maze with a corridor of 30, by IMPALA: trajectories longer than most episodes."""
    return impala.Config(
        env="seqrl/TMaze-v0", env_kwargs=("length=30",), num_steps=700_000, rollout_length=64, batch_size=1
    )


def tmaze_100() -> ppo.Config:
    """The passive T-maze with a corridor of 100: longer rollouts, and more of them."""
    return ppo.Config(
        env="seqrl/TMaze-v0",
        env_kwargs=("length=100",),
        num_steps=1_500_000,
        num_envs=128,
        rollout_length=128,
        num_minibatches=4,
        memory_horizon=128,
        entropy_weight=0.01,
    )


def repeat_previous() -> ppo.Config:
    """Repeat the symbol of four steps ago."""
    return ppo.Config(env="seqrl/RepeatPrevious-v0", num_steps=500_000, gae_lambda=0.8)


def popgym_repeat_previous_easy() -> ppo.Config:
    """POPGym's RepeatPreviousEasy."""
    return ppo.Config(env="popgym-RepeatPreviousEasy-v0", num_steps=500_000, gae_lambda=0.8)


def minigrid_memory() -> ppo.Config:
    """MiniGrid's MemoryS7. Without a large entropy bonus the agent never learns to look back at the object, and it
    takes a million steps to find that out."""
    return ppo.Config(
        env="MiniGrid-MemoryS7-v0",
        num_steps=2_000_000,
        num_minibatches=8,
        num_epochs=4,
        learning_rate=1e-3,
        gamma=0.98,
        entropy_weight=0.03,
    )


def flickering_pong() -> r2d2.Config:
    """Pong of which every second frame is blank: R2D2 with an LSTM, which has to carry the ball's course over the gaps.

    Source: Hausknecht and Stone 2015 (arXiv 1507.06527), with the actions as given, not sticky, as there. R2D2's
    learning rate and discount; replay, batch and target period are smaller, for a machine with two cores. Each
    checkpoint cuts the games off, so they come every 8,000 steps of an environment, longer than most games; the rows in
    between are kept besides `replay_capacity`: 1.65 GB in all.
    """
    return r2d2.Config(
        env="ALE/Pong-v5",
        env_kwargs=("repeat_action_probability=0",),
        flicker=0.5,
        memory="lstm",
        hidden_size=256,
        num_steps=5_000_000,
        num_envs=16,
        replay_capacity=100_000,
        learning_starts=10_000,
        replay_ratio=1.0,
        batch_size=16,
        target_every=500,
        learning_rate=1e-4,
        learning_rate_schedule="constant",
        gamma=0.997,
        checkpoint_every=400,
    )


def flickering_pong_stack() -> r2d2.Config:
    """The same with a stack of four frames in the LSTM's place: DQN, what memory is measured against.

    The frames are stacked behind the convolutions and not in front of them, as DQN does: each frame is then stored and
    encoded once, and blanked on its own. What a frame shows passes through `hidden_size` features, for the LSTM alike.
    """
    return replace(flickering_pong(), memory="frame_stack", num_frames=4, start_state="zero")


def leduc() -> ppo.Config:
    """Leduc hold'em against a player by rules. Without much entropy the policy settles before it has tried what pays
    once in a while, and stays at 94 % of the best response; with it, the likeliest actions are nearly that."""
    return ppo.Config(
        env="seqrl/Leduc-v0",
        num_steps=3_000_000,
        num_envs=512,
        rollout_length=16,
        num_minibatches=4,
        num_epochs=4,
        gamma=1.0,
        gae_lambda=1.0,
        entropy_weight=0.05,
        memory_horizon=0,
        checkpoint_every=200,
    )


def rl2_bandit() -> ppo.Config:
    """RL² on Bernoulli bandits: five arms, ten pulls. A trial takes a row more than it has pulls, so that each rollout
    is whole trials. With a teacher in the first half, a policy of many arms explores; without, it settles too early."""
    return ppo.Config(
        env="seqrl/Bandit-v0",
        previous_action=True,
        previous_reward=True,
        normalize_observations=False,
        memory_horizon=100,
        hidden_size=64,
        num_steps=8_000_000,
        num_envs=1024,
        rollout_length=11,
        num_minibatches=8,
        num_epochs=2,
        gamma=0.99,
        gae_lambda=0.95,
        entropy_weight=0.0,
        teacher_weight=0.5,
    )


def rl2_tabular_mdp() -> ppo.Config:
    """RL² on random MDPs of ten states: ten inner episodes of ten decisions. Linear attention binds to each state what
    its actions brought, which a GRU does not learn to (docs/log.md). Until the teacher leaves, at half of the steps,
    the policy imitates a posterior's draws; then it learns to do better."""
    return replace(
        rl2_bandit(),
        env="seqrl/TabularMDP-v0",
        memory="linear_attention",
        num_envs=256,
        rollout_length=101,
        num_minibatches=16,
        teacher_weight=2.0,
        num_steps=6_000_000,
    )


def behaviour_cloning() -> decision_transformer.Config:
    """The logged actions, whatever they brought, by the Decision Transformer's model: what it is measured against."""
    return decision_transformer.Config(condition="none")


def filtered_bc() -> decision_transformer.Config:
    """Behaviour cloning of the tenth of the episodes that brought the most ("%BC" in Chen et al. 2021)."""
    return decision_transformer.Config(condition="none", best_share=0.1)


def qdt() -> decision_transformer.Config:
    """A Decision Transformer that learns from returns-to-go raised to what values of the log promise (QDT): for logs
    whose best is the beginning of one episode and the end of another."""
    return decision_transformer.Config(relabel="values")


def decision_pretrained() -> algorithm_distillation.Config:
    """A Decision-Pretrained Transformer: it predicts the task's optimal action, which a log with reveal=true tells, and
    acts by drawing from what it predicts (`--sample`)."""
    return algorithm_distillation.Config(label="optimal_action")


def rlhf_ppo() -> rlhf.Config:
    """PPO on conversations, with values and an exact KL in the reward."""
    return rlhf.Config()


def rloo() -> rlhf.Config:
    """RLOO: each conversation against the others of its group. Without values, one pass over a rollout is enough."""
    return rlhf.Config(method="rloo", num_epochs=1)


def grpo() -> rlhf.Config:
    """GRPO: returns standardised in their group, and k3 in the loss, as its source has it."""
    return rlhf.Config(method="grpo", num_epochs=1, kl="k3", kl_in="loss")


RECIPES: dict[str, Callable[[], ProblemConfig | LanguageConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        masked_cartpole,
        masked_cartpole_r2d2,
        masked_cartpole_impala,
        masked_pendulum,
        masked_pendulum_sac,
        masked_mountain_car,
        robot,
        robot_sac,
        tmaze,
        tmaze_r2d2,
        tmaze_impala,
        tmaze_100,
        repeat_previous,
        popgym_repeat_previous_easy,
        minigrid_memory,
        flickering_pong,
        flickering_pong_stack,
        leduc,
        rl2_bandit,
        rl2_tabular_mdp,
        behaviour_cloning,
        filtered_bc,
        qdt,
        decision_pretrained,
        rlhf_ppo,
        rloo,
        grpo,
    )
}


def settings_for(env: str, kind: type[Any] = ppo.Config) -> Any:
    """The settings of the algorithm `kind` to start from on `env`: its recipe's there, those for robots on MuJoCo's, or
    the defaults."""
    recipes: Iterator[Any] = (recipe() for recipe in RECIPES.values())
    own = next((config for config in recipes if type(config) is kind and config.env and config.env == env), None)
    for_robots: dict[type, Callable[[], Any]] = {ppo.Config: robot, recurrent_sac.Config: robot_sac}
    if own is None and kind in for_robots and is_robot(env):
        return replace(for_robots[kind](), env=env)
    return own or kind(env=env)


def is_robot(env: str) -> bool:
    """Whether Gymnasium has `env` among MuJoCo's. Nothing is made or imported for it."""
    spec = gym.registry.get(env)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco")
