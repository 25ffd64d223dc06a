"""Recipes: functions that return a Config with what was tuned for a problem. `seqrl train NAME` runs one.

`seqrl compare ENV` starts from the recipe of ENV where there is one, so that every memory gets the same settings.
"""

from collections.abc import Callable

from seqrl.algorithms import ppo


def masked_cartpole() -> ppo.Config:
    """CartPole without velocities: fewer environments and a higher learning rate, for the least time to solve it."""
    return ppo.Config(env="seqrl/MaskedCartPole-v0", num_steps=150_000, num_envs=32, num_epochs=4, learning_rate=3e-3)


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


def masked_mountain_car() -> ppo.Config:
    """Continuous mountain car without its velocity. Only noise that is smooth in time finds the goal."""
    return ppo.Config(env="seqrl/MaskedMountainCarContinuous-v0", num_steps=400_000, noise_correlation=0.95)


def tmaze() -> ppo.Config:
    """The passive T-maze with a corridor of 30."""
    return ppo.Config(env="seqrl/TMaze-v0", env_kwargs=("length=30",), num_steps=300_000)


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


RECIPES: dict[str, Callable[[], ppo.Config]] = {
    recipe.__name__: recipe
    for recipe in (
        masked_cartpole,
        masked_pendulum,
        masked_mountain_car,
        tmaze,
        tmaze_100,
        repeat_previous,
        popgym_repeat_previous_easy,
        minigrid_memory,
    )
}


def settings_for(env: str) -> ppo.Config:
    """The settings to start from on `env`: its recipe's, or the defaults."""
    recipes = (recipe() for recipe in RECIPES.values())
    return next((config for config in recipes if config.env == env), ppo.Config(env=env))
