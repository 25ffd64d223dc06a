"""From an environment's id to the `Environment` that the rollout steps."""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from seqrl.envs import atari, minigrid, open_spiel, popgym
from seqrl.envs.adapters import Environment, GymnasiumEnvironment, TorchEnvironment
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.hide import Hide
from seqrl.envs.wrappers import Flicker, Noise
from seqrl.errors import UserError, nearest

_VECTORIZATIONS = ("auto", "sync", "async")
_AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def make(
    env_id: str,
    num_envs: int,
    *,
    device: torch.device | str = "cpu",
    vectorization: Literal["auto", "sync", "async"] = "auto",
    autoreset_mode: Literal["next_step", "same_step", "disabled"] = "next_step",
    hide: Sequence[int | str] = (),
    flicker: float = 0.0,
    noise: float = 0.0,
    env_kwargs: dict[str, Any] | None = None,
) -> Environment:
    """Make `num_envs` environments with the id `env_id`, stepped together, their tensors on `device`.

    An id is one of ours (`seqrl/...`), of Gymnasium's, of POPGym's (`popgym-...`), of MiniGrid's (`MiniGrid-...`,
    `BabyAI-...`), of Atari's (`ALE/...`; see `seqrl.envs.atari`), of OpenSpiel's games (`openspiel/...`), or of any
    package that registers its own (`package:Name-v0`). With vectorization "auto", ours are stepped as one batch of
    tensors, Atari's as one batch by ALE, and the others one after the other; "async" gives each a process of its own.
    `hide`, `flicker` and `noise` take something away from what is observed, in this order (see `seqrl.envs.wrappers`);
    `env_kwargs` go to the environment's constructor.

    Raises:
        UserError: for an unknown id or option, a package that is not installed, or an environment that cannot be made.
    """
    check_options(env_id, num_envs, device, vectorization, autoreset_mode)
    kwargs = dict(env_kwargs or {})
    if _is_batched(env_id, vectorization):
        vector_env = _make_vec(env_id, num_envs, kwargs | {"device": device})
    elif atari.is_atari(env_id):
        _register(env_id)
        kwargs = atari.arguments(env_id, kwargs, _AUTORESET_MODES[autoreset_mode])
        vector_env = atari.Seeded(_make_vec(env_id, num_envs, kwargs))
    else:
        _register(env_id)
        vector_env = _make_vec(
            env_id,
            num_envs,
            kwargs,
            vectorization_mode="async" if vectorization == "async" else "sync",
            vector_kwargs={"autoreset_mode": _AUTORESET_MODES[autoreset_mode]},
            wrappers=[minigrid.Categories] if _is_minigrid(env_id) else [],
        )
    try:
        env: Environment
        if isinstance(vector_env, TorchVectorEnv):
            env = TorchEnvironment(vector_env)
        else:
            env = GymnasiumEnvironment(vector_env, device)
        if hide:
            env = Hide(env, hide)
        if flicker:
            env = Flicker(env, flicker, seed=1)
        if noise:
            env = Noise(env, noise, seed=2)
    except Exception:
        vector_env.close()  # or its worker processes would outlive the error
        raise
    return env


def known_ids() -> list[str]:
    """The ids registered so far, in order. Other packages' are registered when the first of them is made."""
    return sorted(gym.registry)


def check_options(
    env_id: str, num_envs: int, device: torch.device | str, vectorization: str, autoreset_mode: str
) -> None:
    """Raise UserError for options that no environment has, or not the one of this id."""
    if num_envs < 1:
        raise UserError(f"num_envs={num_envs}: give at least 1")
    if vectorization not in _VECTORIZATIONS:
        raise UserError(f"unknown vectorization '{vectorization}': {nearest(vectorization, _VECTORIZATIONS)}")
    if autoreset_mode not in _AUTORESET_MODES:
        raise UserError(f"unknown autoreset_mode '{autoreset_mode}': {nearest(autoreset_mode, _AUTORESET_MODES)}")
    if _is_batched(env_id, vectorization) and autoreset_mode != "next_step":
        raise UserError(
            f"autoreset_mode={autoreset_mode}: stepped as one batch, '{env_id}' resets at the next step; "
            "give next_step, or vectorization sync"
        )
    if atari.is_atari(env_id) and vectorization != "auto":
        raise UserError(f"vectorization={vectorization}: '{env_id}' is stepped as one batch by ALE; give auto")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise UserError(f"device '{device}' cannot be used here: give another, such as cpu") from error


def _make_vec(env_id: str, num_envs: int, env_kwargs: dict[str, Any], **options: Any) -> VectorEnv:
    try:
        return gym.make_vec(env_id, num_envs, **options, **env_kwargs)
    except gym.error.UnregisteredEnv:
        module, colon, name = env_id.rpartition(":")
        near = [module + colon + one for one in difflib.get_close_matches(name, known_ids(), cutoff=0.5)]
        ours = [one for one in known_ids() if one.startswith("seqrl/")]
        raise UserError(f"unknown environment '{env_id}' (--env): {nearest(env_id, near or ours)}") from None
    except (Exception, SystemExit) as error:  # whatever the environment's module and constructor raise
        reason = (str(error).splitlines() or [""])[0]
        what = f"it ends Python, {error!r}" if isinstance(error, SystemExit) else reason or type(error).__name__
        raise UserError(f"cannot make environment '{env_id}': {what}") from error


def _register(env_id: str) -> None:
    """Import the package that registers `env_id`, where Gymnasium does not know it by itself."""
    if env_id.lower().startswith("popgym-"):
        popgym.register(env_id)
    elif _is_minigrid(env_id):
        minigrid.register(env_id)
    elif atari.is_atari(env_id):
        atari.register(env_id)
    elif open_spiel.is_open_spiel(env_id):
        open_spiel.register(env_id)


def _is_batched(env_id: str, vectorization: str) -> bool:
    """Whether the environment is one of ours, stepped as one batch of tensors."""
    return env_id.startswith("seqrl/") and vectorization == "auto"


def _is_minigrid(env_id: str) -> bool:
    return env_id.rpartition(":")[2].lower().startswith(("minigrid-", "babyai-"))
