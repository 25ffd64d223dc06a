"""What every algorithm that acts in an environment is configured by, and what is built from it."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import gymnasium as gym
import torch
import tyro
from torch import nn

from seqrl.agent import Agent
from seqrl.envs import Environment, make
from seqrl.envs.make import check_options
from seqrl.errors import UserError
from seqrl.memory import make_memory
from seqrl.nets import Encoder


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """A problem, and where a run of it goes: settings that mean the same for everything that is trained."""

    env: str = ""
    """Gymnasium id of the environment, such as seqrl/TMaze-v0 or CartPole-v1."""
    seed: int = 0
    """Seeds the weights, the environments, the actions and the order of minibatches."""
    run_dir: str = ""
    """Folder to write; must not exist yet. By default runs/ENV_MEMORY_sSEED, numbered if that is taken."""
    device: str = "cpu"
    """cpu, cuda, or cuda:N."""

    num_envs: int = 64
    """Environments that act side by side."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of the environment, such as length=30 active=true; values are JSON."""
    hide: tuple[int | str, ...] = ()
    """What to hide from the agent: entries of a vector observation, such as 1,3; of a Dict keys, such as velocity, and
    entries of the vectors under them, such as state.3."""
    flicker: float = 0.0
    """Probability that an observation is blanked."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise added to observations."""
    vectorization: str = "auto"
    """auto, sync or async: how environments that are not batched tensors run side by side."""
    autoreset_mode: str = "next_step"
    """next_step, same_step or disabled: Gymnasium's three ways to begin a new episode."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(ProblemConfig):
    """Settings that mean the same for every algorithm that learns by acting."""

    memory: str = "gru"
    """What the agent remembers with: none, frame_stack, gru, lstm, linear, linear_attention or transformer;
    your own as module:Class."""
    memory_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of your own memory's class, such as state_size=16, or of a transformer or linear_attention, such as
    num_layers=3; values are JSON."""
    num_steps: int = 300_000
    """Environment steps to train for, over all environments; a row in which an environment resets counts as one."""
    start_from: str = ""
    """Run of the same algorithm whose trained agent this one begins as, to fine-tune it or for a curriculum. Spaces,
    memory and sizes must be the same; steps, optimiser, replay and the scale of rewards begin anew."""

    hidden_size: int = 64
    """Width of the encoder and of the memory."""
    num_frames: int = 4
    """Observations that a frame stack holds, the current one included."""
    memory_horizon: int = 64
    """Steps that half of a GRU's or LSTM's units bridge from the start, by their gates' biases; 0 for none."""
    previous_action: bool = False
    """Whether the agent reads its previous action."""
    previous_reward: bool = False
    """Whether the agent reads its previous reward."""
    precision: str = "float32"
    """float32, or bfloat16 for the memory's matrix products; weights, states and gates stay float32."""
    normalize_observations: bool = True
    """Whether vector observations are standardised by running statistics."""

    num_evaluations: int = 0
    """Evaluations while training, evenly over the steps; each takes the likeliest actions (or --actions drawn) in the
    same episodes, whose steps do not count."""
    evaluation_episodes: int = 10
    """Episodes of each of these."""
    keep: str = "last"
    """The agent that a finished run holds: last, or best, that of the best evaluation if in other episodes it is better
    than the last one by more than chance explains."""
    actions: str = "likeliest"
    """How the finished agent acts: by its likeliest actions, by actions drawn from its policy (drawn), or best: the
    likeliest, unless in other episodes drawn ones bring more by more than chance explains."""


def problem_name(settings: Mapping[str, Any]) -> str:
    """What stands above a table or a picture: an environment with its arguments, and what of it the agent does not see,
    as a command is given them. Who looks before reading must not take one problem for the other."""
    kept = {name: settings.get(name) for name in ("hide", "flicker", "noise")}
    written = {name: ",".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in kept.items()}
    flags = [f"--{name} {value}" for name, value in written.items() if value]
    return " ".join([settings["env"], *settings["env_kwargs"], *flags])


def make_environment(config: ProblemConfig, num_envs: int | None = None, *, privileged: bool = False) -> Environment:
    """The batch of environments that `config` describes; `num_envs` overrides its number. With `privileged`, what it
    keeps from agents is shown beside what they see (`seqrl.envs.privileged`)."""
    if not config.env:
        raise UserError("no environment given: name one with --env (`seqrl envs` lists ours; any Gymnasium id works)")
    if num_envs is not None:
        config = replace(config, num_envs=num_envs)
    check_problem(config)
    return make(
        config.env,
        config.num_envs,
        device=config.device,
        vectorization=config.vectorization,  # type: ignore[arg-type]
        autoreset_mode=config.autoreset_mode,  # type: ignore[arg-type]
        hide=config.hide,
        flicker=config.flicker,
        noise=config.noise,
        privileged=privileged,
        env_kwargs=parse_env_kwargs(config.env_kwargs),
    )


def check_problem(config: ProblemConfig) -> None:
    """Raise UserError for settings of `ProblemConfig` that no environment can have, whether or not one is made now:
    what is trained on a log is evaluated in one."""
    require_at_least_one(config, "num_envs")
    require(0 <= config.seed < 2**31, f"--seed is {config.seed}: it must be from 0 to {2**31 - 1}")
    for field in fields(config):
        value = getattr(config, field.name)
        finite = not isinstance(value, float) or math.isfinite(value)
        require(finite, f"{_flag(field.name)} is {value}: it must be a finite number")
    check_options(config.env, config.num_envs, device(config), config.vectorization, config.autoreset_mode)
    require(0 <= config.flicker <= 1, f"--flicker is {config.flicker}: it is a probability, choose 0 to 1")
    require_not_negative(config, "noise")
    negative = [entry for entry in config.hide if isinstance(entry, int) and entry < 0]
    require(not negative, f"--hide {', '.join(map(str, negative))}: entries are counted from 0")
    parse_env_kwargs(config.env_kwargs)


def device(config: Any) -> str:
    """The device of `config`, checked."""
    try:
        kind = torch.device(config.device).type
    except RuntimeError:
        raise UserError(f"unknown device '{config.device}' (--device): use cpu, cuda or cuda:N") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here: use --device cpu")
    return config.device


def parse_env_kwargs(pairs: tuple[str, ...], flag: str = "--env-kwargs") -> dict[str, Any]:
    """key=value pairs to keyword arguments; a value that is not JSON is a string.

    Raises UserError for what would be a string by mistake: Python's True, False and None, lists and objects; and for
    numbers that are not finite.
    """
    kwargs: dict[str, Any] = {}
    for pair in map(str, pairs):  # JSON may have held numbers
        key, equals, value = pair.partition("=")
        require(bool(equals) and key.isidentifier(), f"{flag} {pair!r} is not KEY=VALUE, such as length=30")
        try:
            kwargs[key] = json.loads(value)
        except json.JSONDecodeError:
            word = {"True": "true", "False": "false", "None": "null"}.get(value)
            require(word is None, f"{flag} {pair!r}: values are JSON, so write {key}={word}")
            listed = value.startswith(("[", "{"))
            require(not listed, f'{flag} {pair!r} is no JSON: write lists and objects like [1, true, "text"]')
            kwargs[key] = value
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
            raise UserError(f"{flag} {pair[:40]!r}… cannot be read ({error}): give another value") from None
        require(_is_finite(kwargs[key]), f"{flag} {pair!r}: it must be a finite number, below 1.8e308")
    return kwargs


def _is_finite(value: Any) -> bool:
    """Whether every number in what JSON held is finite."""
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or abs(value) <= sys.float_info.max


def check_evaluations(config: RunConfig) -> None:
    """Raise UserError for settings of the evaluations while training that make no sense."""
    require_not_negative(config, "num_evaluations")
    require_at_least_one(config, "evaluation_episodes")
    require(config.keep in ("last", "best"), f"--keep '{config.keep}': choose last or best")
    ways = ("likeliest", "drawn", "best")
    require(config.actions in ways, f"--actions '{config.actions}': choose {', '.join(ways[:2])} or {ways[2]}")
    others = {"keep": "last", "actions": "likeliest"}
    choosing = [name for name in others if getattr(config, name) == "best"]
    named = " and ".join(f"--{name} best" for name in choosing) + (" needs" if len(choosing) == 1 else " need")
    instead = " ".join(f"--{name} {others[name]}" for name in choosing)
    require(
        not choosing or config.num_evaluations > 0,
        f"{named} evaluations to choose by: give --num-evaluations 10, or {instead}",
    )
    require(
        not choosing or config.evaluation_episodes > 1,
        f"{named} more than --evaluation-episodes 1: what is chance in a return takes at least 2 to tell",
    )


def check_privilege(config: Any) -> None:
    """Raise UserError where a privileged critic is asked for, and nothing is kept from the policy."""
    require(
        not config.privileged_critic or bool(config.hide or config.flicker or config.noise),
        "--privileged-critic: nothing is kept from the policy: give --hide, --flicker or --noise, or leave it out",
    )


def make_agent(
    config: RunConfig, observation_space: gym.Space, action_space: gym.Space, heads: Mapping[str, nn.Module]
) -> Agent:
    """Encoder and memory as `config` says, with the algorithm's heads."""
    require(
        config.precision in ("float32", "bfloat16"), f"--precision '{config.precision}': choose float32 or bfloat16"
    )
    require_at_least_one(config, "hidden_size", "num_frames")
    require_not_negative(config, "memory_horizon")
    memory = make_memory(
        config.memory,
        config.hidden_size,
        config.hidden_size,
        num_frames=config.num_frames,
        memory_horizon=config.memory_horizon or None,
        kwargs=parse_env_kwargs(config.memory_kwargs, "--memory-kwargs"),
    )
    return Agent(
        observation_space,
        action_space,
        Encoder(observation_space, config.hidden_size, normalize=config.normalize_observations),
        memory,
        heads,
        use_previous_action=config.previous_action,
        use_previous_reward=config.previous_reward,
        autocast=None if config.precision == "float32" else torch.bfloat16,
    ).to(device(config))


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition`."""
    if not condition:
        raise UserError(message)


def require_at_least_one(config: Any, *names: str) -> None:
    """Raise UserError for the first of the settings `names` that is below 1."""
    for name in names:
        value = getattr(config, name)
        require(value >= 1, f"{_flag(name)} is {value}: it must be at least 1")


def require_above_zero(config: Any, *names: str) -> None:
    """Raise UserError for the first of the settings `names` that is not above 0."""
    for name in names:
        value = getattr(config, name)
        require(value > 0, f"{_flag(name)} is {value}: it must be above 0")


def require_at_most_one(config: Any, *names: str) -> None:
    """Raise UserError for the first of the settings `names` that is above 1."""
    for name in names:
        value = getattr(config, name)
        require(value <= 1, f"{_flag(name)} is {value}: it must be at most 1")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise UserError for the first of the settings `names` that is below 0."""
    for name in names:
        value = getattr(config, name)
        require(value >= 0, f"{_flag(name)} is {value}: it must not be negative")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
