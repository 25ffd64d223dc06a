"""From an environment's id to the `Environment` that the rollout steps."""

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from seqrl.envs import atari, minigrid, open_spiel, popgym
from seqrl.envs.action_masks import METHOD, MaskOfMethod
from seqrl.envs.adapters import Environment, GymnasiumEnvironment, TorchEnvironment
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.failures import InItsSpace
from seqrl.envs.hide import Hide
from seqrl.envs.mujoco import without_advice_on_models
from seqrl.envs.privileged import Privileged
from seqrl.envs.registration import is_batch, is_vector_alone, registered, render_modes, unknown
from seqrl.envs.wrappers import Flicker, Noise
from seqrl.errors import UserError, nearest
from seqrl.own_code import is_path, no_module

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
    privileged: bool = False,
    env_kwargs: dict[str, Any] | None = None,
) -> Environment:
    """Make `num_envs` environments with the id `env_id`, stepped together, their tensors on `device`.

    An id is one of ours (`seqrl/...`), of Gymnasium's, of POPGym's (`popgym-...`), of MiniGrid's (`MiniGrid-...`,
    `BabyAI-...`), of Atari's (`ALE/...`; see `seqrl.envs.atari`), of OpenSpiel's games (`openspiel/...`), or of any
    package that registers its own (`package:Name-v0`). With vectorization "auto", ours, and all whose registered
    `vector_entry_point` is a `TorchVectorEnv` (`seqrl.envs.register`), are stepped as one batch of tensors, Atari's as
    one batch by ALE, ids that have no other entry point by their own `VectorEnv`, in its own autoreset mode, and the
    others one after the other; "async" gives each a process of its own.
    `hide`, `flicker` and `noise` take something away from what is observed, in this order (see `seqrl.envs.wrappers`);
    with `privileged`, all of it is shown beside what they leave (see `seqrl.envs.privileged`). `env_kwargs` go to the
    environment's constructor.

    Raises:
        UserError: for an unknown id or option, a package that is not installed, or an environment that cannot be made.
    """
    check_options(env_id, num_envs, device, vectorization, autoreset_mode)
    vector_env = _make_vector_env(env_id, num_envs, device, vectorization, autoreset_mode, dict(env_kwargs or {}))
    try:
        env: Environment
        if isinstance(vector_env, TorchVectorEnv):
            env = TorchEnvironment(vector_env)
        else:
            env = GymnasiumEnvironment(vector_env, device)
        wrap = partial(_wrapped, hide=hide, flicker=flicker, noise=noise)
        return Privileged(env, wrap) if privileged else wrap(env)
    except Exception:
        vector_env.close()  # or its worker processes would outlive the error
        raise


def _wrapped(env: Environment, hide: Sequence[int | str], flicker: float, noise: float) -> Environment:
    """What agents see of `env`."""
    if hide:
        env = Hide(env, hide)
    if flicker:
        env = Flicker(env, flicker, seed=1)
    return Noise(env, noise, seed=2) if noise else env


def known_ids() -> list[str]:
    """The ids registered so far, in order. Other packages' are registered when the first of them is made."""
    return sorted(gym.registry)


def may_draw(env_id: str) -> bool:
    """Whether the environment might draw frames for `render_mode="rgb_array"`: a class that cannot says so."""
    _register(env_id)
    spec = registered(env_id)
    return not is_batch(spec, {}) and "rgb_array" in render_modes(spec)


def check_options(
    env_id: str, num_envs: int, device: torch.device | str, vectorization: str, autoreset_mode: str
) -> None:
    """Raise UserError for options that no environment has, or not the one of this id, and for a file in its place."""
    module, _, name = env_id.rpartition(":")
    if is_path(module):
        raise UserError(f"cannot make environment '{env_id}': {no_module(module, env_id)}")
    if not module and name.endswith(".py"):  # Gymnasium would find fault with the slash of its folder
        raise unknown(env_id)
    if num_envs < 1:
        raise UserError(f"num_envs={num_envs}: give at least 1")
    if vectorization not in _VECTORIZATIONS:
        raise UserError(f"unknown vectorization '{vectorization}': {nearest(vectorization, _VECTORIZATIONS)}")
    if autoreset_mode not in _AUTORESET_MODES:
        raise UserError(f"unknown autoreset_mode '{autoreset_mode}': {nearest(autoreset_mode, _AUTORESET_MODES)}")
    if autoreset_mode != "next_step" and _is_batched(env_id, vectorization):
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


def _make_vector_env(
    env_id: str,
    num_envs: int,
    device: torch.device | str,
    vectorization: str,
    autoreset_mode: str,
    kwargs: dict[str, Any],
) -> VectorEnv | TorchVectorEnv:
    """The environments, stepped as `make` says."""
    if _is_batched(env_id, vectorization, kwargs):
        return _make_vec(env_id, num_envs, kwargs | {"device": device})
    if atari.is_atari(env_id):
        _register(env_id)
        kwargs = atari.arguments(env_id, kwargs, _AUTORESET_MODES[autoreset_mode])
        return atari.Seeded(_make_vec(env_id, num_envs, kwargs))
    if vectorization == "auto" and is_vector_alone(registered(env_id)):
        return _make_vec(env_id, num_envs, kwargs)
    _register(env_id)
    is_async = vectorization == "async"
    categories, in_its_space = [minigrid.Categories] * _is_minigrid(env_id), [InItsSpace] * is_async
    with without_advice_on_models(registered(env_id), kwargs):
        return _make_vec(
            env_id,
            num_envs,
            # What Gymnasium's checker remarks on is of no use to who trains; what matters we check ourselves.
            {"disable_env_checker": True} | kwargs,
            vectorization_mode="async" if is_async else "sync",
            vector_kwargs={"autoreset_mode": _AUTORESET_MODES[autoreset_mode]},
            wrappers=[_with_spaces, _with_masks, *categories, *in_its_space],
        )


def _make_vec(env_id: str, num_envs: int, env_kwargs: dict[str, Any], **options: Any) -> VectorEnv:
    try:
        return gym.make_vec(env_id, num_envs, **options, **env_kwargs)
    except gym.error.UnregisteredEnv:
        _register_installed()
        raise unknown(env_id) from None
    except ModuleNotFoundError as error:
        raise UserError(f"cannot make environment '{env_id}': {_missing(env_id, error)}") from error
    except (Exception, SystemExit) as error:  # whatever the environment's module and constructor raise
        reason = (str(error).splitlines() or [""])[0]
        what = f"it ends Python, {error!r}" if isinstance(error, SystemExit) else reason or type(error).__name__
        raise UserError(f"cannot make environment '{env_id}': {what}") from error


def _with_spaces(env: gym.Env) -> gym.Env:
    """`env`, if it has spaces: what a vector of environments says where they are not is no help."""
    for name in ("observation_space", "action_space"):
        if not isinstance(space := getattr(env, name), gym.Space):
            raise TypeError(f"its {name} is {type(space).__name__}, which is no gymnasium.Space")
    return env


def _with_masks(env: gym.Env) -> gym.Env:
    """`env`, which tells in `info` what it allows, also where it is asked by a method."""
    asked = env.has_wrapper_attr(METHOD) and callable(env.get_wrapper_attr(METHOD))
    return MaskOfMethod(env) if asked else env


def _missing(env_id: str, error: ModuleNotFoundError) -> str:
    """Which module is not there, and where the environment's own is looked for."""
    found = re.search(r"No module named '([^']+)'", str(error))  # Gymnasium's own error has no `name`
    missing, module = found[1] if found else str(error), env_id.rpartition(":")[0]
    if not f"{module}.".startswith(f"{missing}."):
        return f"there is no module '{missing}'"
    return no_module(module, env_id)


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


def _register_installed() -> None:
    """Import the optional packages that are there, quietly: an unknown id may be near one of theirs."""
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        for package in (popgym, minigrid, atari):
            with contextlib.suppress(Exception):  # missing, or broken: then it has no ids to hint at
                package.register("")


def _is_batched(env_id: str, vectorization: str, env_kwargs: dict[str, Any] | None = None) -> bool:
    """Whether the environments are stepped as one batch of tensors: ours, and a user's that are registered as such."""
    spec = registered(env_id)  # in any case: it sees which ids a module's first import brings
    return vectorization == "auto" and is_batch(spec, env_kwargs or {})


def _is_minigrid(env_id: str) -> bool:
    return env_id.rpartition(":")[2].lower().startswith(("minigrid-", "babyai-"))
