"""What an id stands for in Gymnasium's registry: registering batches of tensors, and finding them again."""

import difflib
import importlib
import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, find_highest_version, get_env_id, load_env_creator, parse_env_id

from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.single import SingleEnv
from seqrl.errors import UserError, quoted

MOST_NAMED = 10
"""Of a module's ids that a message names."""

_registered_by: dict[str, set[str]] = {}
"""The ids that came with a module's first import, by module."""


def register(env_id: str, env_class: type[TorchVectorEnv], **kwargs: Any) -> None:
    """Register a batch of tensors with Gymnasium: stepped as one batch by every command, and one by one by `gym.make`.

    >>> import gymnasium as gym
    >>> from seqrl.envs import TMaze, make, register
    >>> register("LongMaze-v0", TMaze, length=100)
    >>> make("LongMaze-v0", num_envs=64).num_envs  # or `seqrl train ppo --env my_module:LongMaze-v0`
    64
    >>> gym.make("LongMaze-v0").unwrapped.batch.length
    100

    `kwargs` are arguments of the class's constructor that this id has by default. `max_episode_steps` is one of them;
    where it is not given, the constructor's own default holds, for single environments too.

    Raises: UserError for what is no subclass of `TorchVectorEnv`, or whose constructor does not take `num_envs`,
    `device` and `max_episode_steps` by these names.
    """
    if not (isinstance(env_class, type) and issubclass(env_class, TorchVectorEnv)):
        raise UserError(
            f"cannot register '{env_id}': {getattr(env_class, '__name__', env_class)} is no class that extends "
            "TorchVectorEnv; others are registered with gymnasium.register"
        )
    parameters = inspect.signature(env_class).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    missing = [name for name in ("num_envs", "device", "max_episode_steps") if name not in parameters]
    if missing and not takes_any:
        raise UserError(
            f"cannot register '{env_id}': {env_class.__name__}.__init__ takes no {missing[0]}; let it take num_envs, "
            "device and max_episode_steps, and hand them on to TorchVectorEnv.__init__"
        )
    limit = parameters.get("max_episode_steps")
    default = None if limit is None or limit.default is limit.empty else limit.default
    gym.register(
        id=env_id,
        entry_point=partial(SingleEnv, env_class),
        vector_entry_point=cast(Any, env_class),  # which is called by keywords
        max_episode_steps=kwargs.pop("max_episode_steps", default),
        kwargs=kwargs,
    )


def registered(env_id: str) -> EnvSpec | None:
    """What an id, with its module or without, is registered as, the newest version if it names none.

    None where nothing is, or where its module cannot be imported: making the environment then says why.
    """
    module, _, name = env_id.rpartition(":")
    before = set(gym.registry)
    try:
        if module:
            importlib.import_module(module)
            _registered_by.setdefault(module, set()).update(set(gym.registry) - before)
        namespace, name, version = parse_env_id(name)
    except (Exception, SystemExit):  # whatever the module raises
        return None
    if version is None:
        version = find_highest_version(namespace, name)
    return gym.registry.get(get_env_id(namespace, name, version))


def is_batch(spec: EnvSpec | None, env_kwargs: dict[str, Any]) -> bool:
    """Whether what is registered can be stepped as one batch of tensors: its `vector_entry_point` is a subclass of
    `TorchVectorEnv`, or makes one when it is called."""
    if spec is None or spec.vector_entry_point is None or spec.additional_wrappers:  # wrappers are for single ones
        return False
    try:
        point: Any = spec.vector_entry_point
        point = load_env_creator(point) if isinstance(point, str) else point
        made_by = point.func if isinstance(point, partial) else point
        if isinstance(made_by, type):
            return issubclass(made_by, TorchVectorEnv)
        # A function does not say what it makes.
        env = point(**{"num_envs": 1, "device": "cpu"} | spec.kwargs | env_kwargs)
        env.close()
    except (Exception, SystemExit):  # of another package, such as one that is missing; else making it says why
        return False
    return isinstance(env, TorchVectorEnv)


def is_vector_alone(spec: EnvSpec | None) -> bool:
    """Whether a vector environment is all that is registered: no single ones can be made of it."""
    return spec is not None and spec.entry_point is None and spec.vector_entry_point is not None


def time_limit(env_id: str, env_kwargs: dict[str, Any]) -> int | None:
    """After how many steps an episode is truncated, as far as an argument or the registry says so."""
    spec = registered(env_id)
    limit = env_kwargs.get("max_episode_steps", spec.max_episode_steps if spec is not None else None)
    return limit if isinstance(limit, int) and limit > 0 else None


def render_modes(spec: EnvSpec | None) -> tuple[str, ...]:
    """The ways to draw that the registered class names; "rgb_array" where there is no telling before it is made."""
    try:
        point: Any = spec and spec.entry_point
        point = load_env_creator(point) if isinstance(point, str) else point
        return tuple(point.metadata["render_modes"])
    except (Exception, SystemExit):  # a function, or what cannot be imported: making it says why
        return ("rgb_array",)


def unknown(env_id: str) -> UserError:
    """For an id that is not registered: what is near it, of its module's ids alone if it names a module."""
    module, _, name = env_id.rpartition(":")
    own = _ids_of(module) if module else sorted(gym.registry)
    if near := _near(name, own):
        best = difflib.get_close_matches(name, near, n=1, cutoff=0.0)[0]
        hint = f"did you mean '{module}:{best}'?" if module else f"did you mean '{best}'?"
    elif name.endswith(".py"):
        stem = quoted(Path(name).stem)
        hint = f"this is a file: name an id that it registers, {stem}:ID, from its folder with PYTHONPATH=."
    elif not module:
        hint = f"one of your own is named with the module that registers it, module:{name} (`seqrl envs` lists ours)"
    elif own:
        hint = f"'{module}' registers {', '.join(own[:MOST_NAMED])}{' …' if own[MOST_NAMED:] else ''}"
    else:
        hint = f"'{module}' registers none: let it call gymnasium.register, or seqrl.envs.register"
    return UserError(f"unknown environment '{env_id}' (--env): {hint}")


def _near(name: str, known: list[str]) -> list[str]:
    """The ids that are called like `name`, but for their namespace, version and capitals: in these alone no two ids are
    alike, and "-v0" makes any two look so."""
    called = {env_id: re.sub(r"^.*/|-v\d+$", "", env_id).lower() for env_id in [name, *known]}
    close = difflib.get_close_matches(called[name], [called[env_id] for env_id in known], n=1, cutoff=0.75)
    if not close:  # the words in the middle, as of MiniGrid-DoorKey-8x8-v0
        words = re.compile(rf"\b{re.escape(called[name])}\b")
        close = [each for each in called.values() if each != called[name] and words.search(each)]
    return [env_id for env_id in known if called[env_id] in close]


def _ids_of(module: str) -> list[str]:
    """The ids that a module registered, as far as their entry points or its import tell, in order."""
    own = {env_id for env_id, spec in gym.registry.items() if _is_in(module, spec)}
    return sorted(own or _registered_by.get(module, set()) & set(gym.registry))


def _is_in(module: str, spec: EnvSpec) -> bool:
    for point in (spec.entry_point, spec.vector_entry_point):
        inner = point.args[0] if isinstance(point, partial) and point.args else point
        home = inner.partition(":")[0] if isinstance(inner, str) else getattr(inner, "__module__", None) or ""
        if home == module or home.startswith(f"{module}."):
            return True
    return False
