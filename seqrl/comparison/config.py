"""What a comparison of approaches on an environment is configured by."""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from seqrl.algorithms import check as check_algorithm
from seqrl.algorithms import decision_transformer, module_of, ppo
from seqrl.comparison import offline as compare_offline
from seqrl.comparison.approaches import (
    Approach,
    Override,
    overridden,
    read,
    read_overrides,
    settings_of,
    targets_of,
)
from seqrl.comparison.horizon import Sweep, close_to, read_sweep
from seqrl.comparison.learning_curve import read_threshold
from seqrl.config import make_environment, parse_env_kwargs, require, require_above_zero
from seqrl.envs.exact import optimal_return
from seqrl.errors import UserError
from seqrl.memory.make import check_name, is_own
from seqrl.recipes import settings_for
from seqrl.run_folder import config_from_json, read_json

LOG, OFFLINE = "log", "offline"
"""In a comparison's folder, what its agents played, and the comparison of methods that learn from it."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare, and how thoroughly. All other flags are PPO's; what they say of the problem, the steps and the
    size of the network holds for all that act."""

    memories: tuple[str, ...] = ("none", "frame_stack", "gru")
    """PPO's memories to compare: any of none, frame_stack, gru, lstm, linear, linear_attention, transformer; your own
    as module:Class."""
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
    from random actions to the best approach."""
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

    @property
    def is_masked(self) -> bool:
        """Whether something is hidden that the environment shows by itself, so that its known optimum says nothing."""
        return bool(self.settings.hide or self.settings.flicker or self.settings.noise)

    def named(self) -> tuple[list[Approach], list[str]]:
        """The approaches that act, and the methods that learn from a log. Raises UserError for unknown ones."""
        if self.approaches:
            return read(self.approaches)
        for memory in self.memories:
            check_name(memory, "--memories")
        require(len(set(self.memories)) == len(self.memories), "--memories names one twice: name each once")
        require(bool(self.memories), "--memories is empty: name at least one")
        return [Approach("ppo", memory) for memory in self.memories], []

    def overrides(self) -> list[Override]:
        return read_overrides(self.override, targets_of(*self.named()))

    def runs_of(self, approach: Approach, num_seeds: int, **changes: Any) -> list[Any]:
        """The configs of an approach's runs, which differ in the seed alone; `changes` are of the common settings."""
        base = dataclasses.replace(self.settings, **changes)
        settings = settings_of(approach, base, self.overrides())
        return [
            dataclasses.replace(settings, seed=base.seed + k, run_dir=f"{base.run_dir}/{approach.folder}_s{k}")
            for k in range(num_seeds)
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

    def needed(self, sweep: Sweep, value: float) -> float | None:
        """The return from which on the problem with `sweep.key` at `value` counts as solved; None if it is not known.

        It is nine tenths of the optimum (a tenth of its size below it), or a `threshold` that is a number.
        """
        given = read_threshold(self.threshold)
        if not given.is_share:
            return given.value
        kwargs = parse_env_kwargs(self.settings.env_kwargs) | {sweep.key: value}
        optimum = None if self.is_masked else optimal_return(self.settings.env, **kwargs)
        return None if optimum is None else close_to(optimum)


def default_settings(env: str) -> ppo.Config:
    """The settings that a comparison on `env` starts from: its recipe's, and the best of ten evaluations is kept."""
    return dataclasses.replace(settings_for(env), num_evaluations=10, keep="best")


def read_comparison(folder: Path) -> Config:
    """The config of a comparison's folder. Raises UserError when it is not one."""
    data = read_json(folder, "config.json")
    if data.get("type") != "compare":
        raise UserError(f"{folder} is no comparison but a run of {data.get('type')}: use seqrl train --resume {folder}")
    settings = config_from_json(data.pop("settings", None), ppo.Config, folder / "config.json")
    settings = dataclasses.replace(settings, run_dir=str(folder))
    return dataclasses.replace(config_from_json(data, Config, folder / "config.json"), settings=settings)


def check(config: Config) -> None:
    """Raise UserError for settings that make no sense, before anything is written."""
    online, offline = config.named()
    overrides = config.overrides()
    require(config.num_seeds >= 1, f"--num-seeds is {config.num_seeds}: it must be at least 1")
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
            check_algorithm(settings)
            module_of(settings).build(settings, *spaces)
    if offline:
        require(config.log_episodes >= 4, f"--log-episodes is {config.log_episodes}: four play, give each one")
        methods = config.methods(config.folder / LOG)
        for run, *_ in compare_offline.runs_of(methods).values():
            decision_transformer.check(run)
    if config.horizon_sweep:
        require(config.horizon_seeds >= 1, f"--horizon-seeds is {config.horizon_seeds}: it must be at least 1")
        require_above_zero(config, "horizon_steps")
        _check_sweep(config, read_sweep(config.horizon_sweep))


def _check_sweep(config: Config, sweep: Sweep) -> None:
    """Every value is one that the environment takes, and it is known what solves it."""
    for value in sweep.values:
        kwargs = (*config.settings.env_kwargs, f"{sweep.key}={value}")
        make_environment(dataclasses.replace(config.settings, env_kwargs=kwargs), 1).close()
        require(
            config.needed(sweep, value) is not None,
            f"--horizon-sweep {config.horizon_sweep}: the optimum of {config.settings.env} is not known here, so say "
            "what counts as solved: --threshold NUMBER",
        )
