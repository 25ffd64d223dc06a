"""What `seqrl compare --resume` adds to a comparison. Runs that are done stay as they are; only new ones are trained.

What comes out is what a comparison would have brought that had been asked for all at once, but for one thing: methods
that learn from what the agents played go on with the log that there is, whoever would play it now.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from seqrl.comparison import offline
from seqrl.comparison.approaches import ALIASES, Approach, read
from seqrl.comparison.config import LOG, OFFLINE, Config, read_sweep
from seqrl.comparison.folder import check_grows
from seqrl.config import require, require_not_negative
from seqrl.errors import UserError
from seqrl.run_folder import read_json


@dataclass(frozen=True, kw_only=True)
class Additions:
    """Continue a comparison: runs that are done are kept, the others go on where they were. What is named here is added
    to what there is; to name what is there already changes nothing."""

    num_seeds: int = 0
    """Runs of each approach or method from now on; 0 for as many as before. Fewer is refused."""
    memories: tuple[str, ...] = ()
    """PPO's memories to add; of a comparison that names approaches, as ppo:MEMORY."""
    approaches: tuple[str, ...] = ()
    """Approaches to add, such as r2d2:gru; a comparison of memories becomes one of approaches (gru is ppo:gru). What
    learns from a log, such as bc or qdt, learns from the one that there is, whoever is added who would play it now."""
    override: Annotated[tuple[str, ...], tyro.conf.arg(metavar="APPROACH.SETTING=VALUE")] = ()
    """Settings of approaches that are added."""
    horizon_sweep: str = ""
    """A sweep to add, or more values of the one that there is: length=5,20,50 or, by doubling, length=5..80."""
    horizon_seeds: int = 0
    """Runs of each approach at each of these values from now on; 0 for as many as before, 3 of a new sweep."""
    horizon_steps: float = 0.0
    """Of a new sweep, steps of each of its runs, as a multiple of the comparison's own; 0 for 1."""
    log_episodes: int = 0
    """Of a log that was not played yet, its episodes; 0 for as many as before, by default 1,000."""
    methods: tuple[str, ...] = ()
    """To a comparison on logged episodes, methods to add: any of behaviour_cloning, filtered_bc, decision_transformer,
    qdt."""

    workers: int = 0
    """Runs that train at the same time from now on, fewer where memory did not suffice; 0 for as many as before."""

    def given(self) -> dict[str, Any]:
        """By flag, what was said."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {f"--{name.replace('_', '-')}": value for name, value in values.items() if value}


def extended(there: Config, added: Additions) -> Config:
    """`there`, a comparison on an environment, with what is added.

    Raises UserError for what cannot be added, as it would leave out or change runs that there are.
    """
    _check_numbers(added)
    require(not added.methods, "--methods are of comparisons on logged episodes: add them here with --approaches")
    for memory in added.memories:
        Approach.of("ppo", memory, "--memories")
    _check_parts(there, added)
    config = dataclasses.replace(
        _with_approaches(there, added),
        num_seeds=added.num_seeds or there.num_seeds,
        override=(*there.override, *(word for word in added.override if word not in there.override)),
        horizon_sweep=_joined_sweep(there.horizon_sweep, added.horizon_sweep),
        horizon_seeds=added.horizon_seeds or there.horizon_seeds,
        horizon_steps=added.horizon_steps or there.horizon_steps,
        log_episodes=added.log_episodes or there.log_episodes,
        workers=added.workers or there.workers,
    )
    check_only_adds(there, config)
    return config


def check_only_adds(there: Config, config: Config) -> None:
    """Raise UserError where `config` leaves out or changes runs that `there`, the same comparison before, has."""
    folder = there.folder
    config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, run_dir=there.settings.run_dir))
    (online, methods), (online_now, methods_now) = there.named(), config.named()
    check_grows(
        folder,
        (there.num_seeds, config.num_seeds),
        ([*map(str, online), *methods], [*map(str, online_now), *methods_now]),
    )
    changed = [str(each) for each in online if there.runs_of(each)[0] != config.runs_of(each)[0]]
    log = folder / LOG
    if methods and there.methods(log).settings != config.methods(log).settings:
        changed.append(OFFLINE)
    require(
        not changed,
        f"runs of {', '.join(changed)} in {folder} would have other settings than they were begun with: "
        "--override approaches that are added, or compare anew with another --run-dir",
    )


def extended_on_log(there: offline.Config, added: Additions) -> offline.Config:
    """The same of a comparison of methods on logged episodes."""
    _check_numbers(added)
    folder = Path(there.settings.run_dir)
    if others := set(added.given()) - {"--num-seeds", "--methods", "--workers"}:
        raise UserError(f"{folder} compares methods on logged episodes: {min(others)} is not for it, add --methods")
    if set(added.given()) - {"--workers"} and _is_part(folder):
        raise UserError(f"{folder} is a part of the comparison {folder.parent}: add to that, methods with --approaches")
    config = dataclasses.replace(
        there,
        methods=_joined(there.methods, added.methods),
        num_seeds=added.num_seeds or there.num_seeds,
        workers=added.workers or there.workers,
    )
    check_grows(folder, (there.num_seeds, config.num_seeds), (there.methods, config.methods))
    return config


def _check_numbers(added: Additions) -> None:
    require_not_negative(added, "num_seeds", "horizon_seeds", "horizon_steps", "log_episodes", "workers")
    require(added.horizon_steps < float("inf"), "--horizon-steps is inf: it must be a finite number")


def _check_parts(there: Config, added: Additions) -> None:
    """Raise UserError for settings of a sweep or of a log that are there with others."""
    sweep, log = bool(there.horizon_sweep), (there.folder / LOG).is_dir()
    for flag, asked, known, is_there in (
        ("--horizon-steps", added.horizon_steps, there.horizon_steps, sweep),
        ("--log-episodes", added.log_episodes, there.log_episodes, log),
    ):
        other = is_there and asked not in (0, known)
        require(not other, f"{flag} is {asked:g}: {there.folder} was begun with {known:g}, compare anew for others")
    fewer = sweep and 0 < added.horizon_seeds < there.horizon_seeds
    require(
        not fewer,
        f"--horizon-seeds is {added.horizon_seeds}: {there.folder} has {there.horizon_seeds} already, and runs are "
        "only added to it: give as many or more",
    )


def _is_part(folder: Path) -> bool:
    """Whether this is where the methods of another comparison are."""
    above = folder.absolute().parent
    is_run = folder.name == OFFLINE and (above / "config.json").is_file()
    return is_run and read_json(above, "config.json").get("type") == "compare"


def _with_approaches(there: Config, added: Additions) -> Config:
    """With the approaches that are added; named as memories, as before, where all are of PPO."""
    mine = there.approaches or tuple(f"ppo:{memory}" for memory in there.memories)
    names = _joined(mine, [*(f"ppo:{memory}" for memory in added.memories), *added.approaches])
    read(names)  # what is wrong with a name is said of the flag that it was given by
    if there.approaches or not all(name.startswith("ppo:") for name in names):
        return dataclasses.replace(there, approaches=names)
    return dataclasses.replace(there, memories=tuple(name.removeprefix("ppo:") for name in names))


def _joined(there: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """`there`, and behind it what of `added` is not among it, by whichever of its names."""
    names: dict[str, str] = {}
    for name in (*there, *added):
        names.setdefault(ALIASES.get(name, name), name)
    return tuple(names.values())


def _joined_sweep(there: str, added: str) -> str:
    """Both sweeps' values in one; there can be one argument only."""
    if not there or not added:
        return there or added
    old, new = read_sweep(there), read_sweep(added)
    require(old.key == new.key, f"--horizon-sweep {added}: the sweep is of {old.key}, add values of it")
    values = sorted({*old.values, *new.values})
    return there if len(values) == len(old.values) else f"{old.key}={','.join(map(json.dumps, values))}"
