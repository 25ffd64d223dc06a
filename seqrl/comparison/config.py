"""What a comparison of approaches on an environment is configured by."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from seqrl.algorithms import check as check_algorithm
from seqrl.algorithms import decision_transformer, module_of, ppo
from seqrl.comparison import offline as compare_offline
from seqrl.comparison.approaches import (
    INPUTS,
    Approach,
    Override,
    overridden,
    read,
    read_overrides,
    settings_of,
    targets_of,
)
from seqrl.comparison.learning_curve import read_threshold
from seqrl.comparison.run_pool import check_seeds
from seqrl.config import make_environment, parse_env_kwargs, require, require_above_zero
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.errors import UserError, quoted
from seqrl.memory.make import is_own
from seqrl.recipes import RECIPES, settings_for
from seqrl.run_folder import config_from_json, read_json

LOG, OFFLINE, HORIZON = "log", "offline", "horizon"
"""In a comparison's folder, what its agents played, the comparison of methods that learn from it, and the runs of its
sweep, a folder for each value."""


class Sweep(NamedTuple):
    """An argument of the environment, and its values in rising order."""

    key: str
    values: tuple[float, ...]


def read_sweep(text: str) -> Sweep:
    """`length=5,10,20` as a `Sweep`, and `length=5..20` as the same by doubling. Raises UserError for anything else."""
    key, equals, rest = text.partition("=")
    first, dots, last = rest.partition("..")
    try:
        values = tuple(json.loads(f"[{first},{last}]" if dots else f"[{rest}]"))
    except (ValueError, RecursionError):  # a number of thousands of digits is no JSONDecodeError
        values = ()
    numbers = bool(values) and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    rising = numbers and values == tuple(sorted(set(values))) and (not dots or (len(values) == 2 and values[0] > 0))
    if not (equals and key.isidentifier() and rising):
        raise UserError(
            f"--horizon-sweep {text!r} is not KEY=VALUES in rising order, such as length=5,10,20, "
            "or length=5..80 for doubling"
        )
    if dots:
        low, high = values
        values = tuple(low * 2**k for k in range(64) if low * 2**k <= high)
    return Sweep(key, values)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare, and how thoroughly. All other flags are PPO's; what they say of the problem, the steps and the
    size of the network holds for all that act."""

    memories: tuple[str, ...] = ("none", "frame_stack", "gru")
    """PPO's memories to compare: any of none, frame_stack, gru, lstm, linear, linear_attention, transformer; your own
    as module:Class. With +reward or +action behind it, as in gru+reward, the agent reads the previous one, too."""
    approaches: tuple[str, ...] = ()
    """In their place, ALGORITHM:MEMORY of ppo, impala, r2d2 and recurrent_sac, such as r2d2:gru, or your own as
    module:Class:MEMORY; and bc, best_bc, decision_transformer and qdt, which learn from what those play."""
    override: Annotated[tuple[str, ...], tyro.conf.arg(metavar="APPROACH.SETTING=VALUE")] = ()
    """Settings of some approaches alone, such as r2d2.num_steps=60000 or offline.num_steps=2000 (all methods)."""
    num_seeds: int = 3
    """Runs of each approach, with the seeds SEED, SEED + 1, …"""
    num_episodes: int = 100
    """Evaluation episodes of each run."""
    threshold: str = "90%"
    """What counts as reached: a return, or a share such as 90%: of the optimum, or, where it is not known, of the way
    from random actions to the best approach. In a sweep, a share is taken at each value anew."""
    horizon_sweep: str = ""
    """An argument of the environment and its values: how long a delay is still bridged? length=5,20,50 or, by doubling,
    length=5..80."""
    horizon_seeds: int = 3
    """Runs of each approach at each of these values. Where a value is the comparison's own, its runs serve."""
    horizon_steps: float = 1.0
    """Steps of each of these runs, as a multiple of the comparison's own: longer delays take longer to learn."""
    log_episodes: int = 1000
    """Episodes that methods learn from: of the best run, a middling one, the weakest, and random actions, in equal
    shares."""
    workers: int = 0
    """Runs that train at the same time; 0 for one on each processor."""
    settings: Annotated[ppo.Config, tyro.conf.arg(name="")] = field(default_factory=lambda: default_settings(""))

    @property
    def folder(self) -> Path:
        return Path(self.settings.run_dir)

    def optimal(self) -> float | None:
        """The best return possible, where it is known: of what the environment shows by itself, with nothing hidden."""
        return self._known(optimal_return)

    def memoryless(self) -> float | None:
        """The same of the best one without memory. Where it is known, so is the optimum."""
        return self._known(memoryless_return)

    def is_relative(self) -> bool:
        """Whether what counts as reached is a share of the way from random actions to the best approach."""
        return read_threshold(self.threshold).is_share and self.optimal() is None

    def _known(self, find: Callable[..., float | None]) -> float | None:
        settings = self.settings
        is_masked = settings.hide or settings.flicker or settings.noise
        return None if is_masked else find(settings.env, **parse_env_kwargs(settings.env_kwargs))

    def named(self) -> tuple[list[Approach], list[str]]:
        """The approaches that act, and the methods that learn from a log. Raises UserError for unknown ones."""
        if self.approaches:
            return read(self.approaches)
        named = [Approach.of("ppo", name, "--memories") for name in self.memories]
        require(len(set(named)) == len(named), "--memories names one twice: name each once")
        require(bool(named), "--memories is empty: name at least one")
        return named, []

    def label(self, approach: Approach) -> str:
        """How an approach is called while it trains: by its memory alone, where memories are compared."""
        return str(approach) if self.approaches else approach.name

    def overrides(self) -> list[Override]:
        return read_overrides(self.override, targets_of(*self.named()))

    def runs_of(self, approach: Approach) -> list[Any]:
        """The configs of an approach's runs, which differ in the seed alone."""
        base = self.settings
        settings = settings_of(approach, base, self.overrides())
        return [
            dataclasses.replace(settings, seed=base.seed + k, run_dir=f"{base.run_dir}/{approach.folder}_s{k}")
            for k in range(self.num_seeds)
        ]

    def methods(self, dataset: Path) -> compare_offline.Config:
        """The comparison of the methods that learn from the log in `dataset`."""
        _, offline = self.named()
        default, overrides = compare_offline.Config(), self.overrides()
        settings = dataclasses.replace(
            overridden(default.settings, ("offline",), overrides),
            dataset=str(dataset),
            seed=self.settings.seed,
            device=self.settings.device,
            run_dir=str(self.folder / OFFLINE),
        )
        return dataclasses.replace(
            default,
            methods=tuple(offline),
            num_seeds=self.num_seeds,
            num_episodes=self.num_episodes,
            target_episodes=min(default.target_episodes, self.num_episodes),
            workers=self.workers,
            settings=settings,
        )

    def at(self, key: str, value: float) -> "Config":
        """The comparison that a sweep makes with an argument of the environment at `value`, in a folder of its own; the
        same one where that is its own value, and it has runs enough."""
        settings = self.settings
        if parse_env_kwargs(settings.env_kwargs).get(key) == value and self.horizon_seeds <= self.num_seeds:
            return dataclasses.replace(self, num_seeds=self.horizon_seeds)
        others = (pair for pair in settings.env_kwargs if pair.partition("=")[0] != key)
        folder = self.folder / HORIZON / f"{key}={value!r}".removesuffix(".0")
        settings = dataclasses.replace(settings, env_kwargs=(*others, f"{key}={value}"), run_dir=str(folder))
        return dataclasses.replace(self, num_seeds=self.horizon_seeds, settings=settings)

    def swept(self, approach: Approach, key: str, value: float) -> list[Any]:
        """The configs of an approach's runs in `at(key, value)`."""
        here = self.at(key, value)
        times = 1.0 if here.folder == self.folder else self.horizon_steps
        return [dataclasses.replace(run, num_steps=round(times * run.num_steps)) for run in here.runs_of(approach)]


def default_settings(problem: str) -> ppo.Config:
    """The settings that a comparison on an environment starts from, its recipe's, or those of a recipe by its name; the
    best of ten evaluations is kept, and an agent acts by drawn actions where these bring more.

    Raises UserError for a recipe of another algorithm than PPO.
    """
    start = RECIPES[problem]() if problem in RECIPES else settings_for(problem)
    if not isinstance(start, ppo.Config):
        raise UserError(
            f"'{problem}' is no recipe of PPO's, from which comparisons start: name the environment, seqrl compare "
            f"{quoted(getattr(start, 'env', '') or 'ENV')}"
        )
    return dataclasses.replace(start, num_evaluations=10, keep="best", actions="best")


def read_comparison(folder: Path) -> Config:
    """The config of a comparison's folder. Raises UserError when it is not one."""
    data = read_json(folder, "config.json")
    if data.get("type") != "compare":
        raise UserError(
            f"{folder} is no comparison but a run of {data.get('type')}: use seqrl train --resume {quoted(folder)}"
        )
    settings = config_from_json(data.pop("settings", None), ppo.Config, folder / "config.json")
    settings = dataclasses.replace(settings, run_dir=str(folder))
    return dataclasses.replace(config_from_json(data, Config, folder / "config.json"), settings=settings)


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense, before anything is written."""
    online, offline = config.named()
    overrides = config.overrides()
    check_seeds(config.settings.seed, config.num_seeds)
    require(config.num_episodes >= 2, f"--num-episodes is {config.num_episodes}: an interval needs at least 2")
    read_threshold(config.threshold)
    kwargs = " ".join(config.settings.memory_kwargs)
    require(
        not kwargs or any(is_own(approach.memory) for approach in online),
        f"--memory-kwargs {kwargs}: these are for memories of your own, and none is compared; give one of ours "
        """its own, such as --override 'ppo:transformer.memory_kwargs=["num_layers=3"]'""",
    )
    require(config.workers >= 0, f"--workers is {config.workers}: give 0 for one a core, or more")
    with contextlib.closing(make_environment(config.settings, 1)) as environment:
        environment.reset(config.settings.seed)  # a bug in it is found while there is no folder yet
        spaces = environment.single_observation_space, environment.single_action_space
        for approach in online:
            settings = settings_of(approach, config.settings, overrides)
            require(
                not settings.start_from,
                f"--start-from {settings.start_from}: what is compared learns from the start, each by itself; "
                "fine-tune the best run afterwards, with seqrl train",
            )
            check_algorithm(settings)
            module_of(settings).build(settings, *spaces)
            plain = settings_of(approach._replace(inputs=()), config.settings, overrides)
            for each in approach.inputs:
                require(
                    not getattr(plain, INPUTS[each]),
                    f"{approach} reads the previous {each} in any case, by its settings: leave +{each} out, or "
                    f"--previous-{each}",
                )
    if offline:
        require(config.log_episodes >= 4, f"--log-episodes is {config.log_episodes}: four play, give each one")
        methods = config.methods(config.folder / LOG)
        for run, *_ in compare_offline.runs_of(methods).values():
            decision_transformer.check(run)
    if config.horizon_sweep:
        check_seeds(config.settings.seed, config.horizon_seeds, "--horizon-seeds")
        require_above_zero(config, "horizon_steps")
        key, values = read_sweep(config.horizon_sweep)
        for value in values:  # each is one that the environment takes, and leaves every run steps enough
            make_environment(config.at(key, value).settings, 1).close()
            for approach in online:
                check_algorithm(config.swept(approach, key, value)[0])
