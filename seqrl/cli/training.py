"""seqrl train."""

import dataclasses
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqrl.algorithms import ALGORITHMS, config_class, decision_transformer, read_config, with_run_dir
from seqrl.algorithms import resume as resume_run
from seqrl.algorithms import train as train_run
from seqrl.cli.actors import set_num_actors
from seqrl.cli.arguments import parse, positional, take_flag
from seqrl.cli.judging import tell_held_out
from seqrl.cli.usage import TRAIN, print_usage
from seqrl.cli.without_task import plays_nothing, ways
from seqrl.comparison.learning_curve import MUCH_CLIPPED, last_evaluation, rewards_clipped
from seqrl.config import RunConfig, parse_env_kwargs
from seqrl.data.dialogues import shown
from seqrl.distributed import is_first
from seqrl.envs.registration import time_limit
from seqrl.errors import UserError, nearest, quoted
from seqrl.language_runs.rewards import is_reward_run
from seqrl.offline.config import OfflineConfig
from seqrl.recipes import RECIPES
from seqrl.run_folder import read_finished_step, read_json, read_metrics, read_saved_step
from seqrl.statistics import percent


def train(args: list[str]) -> int:
    name, args = positional(args)
    run, args = take_flag(args, "--resume")
    if run is not None:
        return _resume(run, args, name)
    if name is None:
        if "-h" in args or "--help" in args:
            print_usage(TRAIN)
            return 0
        known = ", ".join([*ALGORITHMS, *RECIPES])
        raise UserError(f"train needs a recipe or an algorithm, named first: {known}; your own as module:Class")
    default = _default(name)
    if args and re.search(r"-v\d+$", args[0]):  # compare and collect take it there
        raise UserError(f"'{args[0]}' is an environment: give it as --env {quoted(args[0])}")
    config = with_run_dir(parse(type(default), args, default, f"seqrl train {name}"))
    train_run(config)
    return _finish(config.run_dir, config.num_steps) if is_first() else 0


def _default(name: str) -> Any:
    """The config that a recipe or an algorithm begins with."""
    if name in RECIPES:
        return RECIPES[name]()
    if re.search(r"-v\d+$", name):
        raise UserError(f"'{name}' is an environment: name an algorithm first, seqrl train ppo --env {quoted(name)}")
    if name in ALGORITHMS or ":" in name:
        return config_class(name)()
    is_part = any(name in each for each in ALGORITHMS)  # sac is short for the algorithm, not for a robot's recipe
    known = ALGORITHMS if is_part else [*ALGORITHMS, *RECIPES]
    raise UserError(f"unknown recipe or algorithm '{name}': {nearest(name, known)}")


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue a run, bit for bit."""

    num_steps: int = 0
    """Train up to this step; 0 for the run's own number. Schedules then go over the new length: a finished run's linear
    learning rate begins anew."""
    num_actors: int = 0
    """Actors from now on, of engine async or ray; 0 for as many as before."""


def _resume(run: str, args: list[str], name: str | None) -> int:
    _refuse_what_is_fixed(run, args)
    options = parse(Resume, args, Resume(), "seqrl train --resume RUN")
    if name is not None and type(_default(name)) is not type(read_config(run)):
        kind = read_json(Path(run), "config.json")["type"]
        way_out = f"leave the name out, seqrl train --resume {quoted(run)}"
        raise UserError(f"{run} is a run of {kind}, not of {name}: {way_out}")
    _check_logs(run)
    if options.num_actors:
        set_num_actors(run, options.num_actors)
    resume_run(run, options.num_steps or None)
    flags = f" --num-steps {options.num_steps}" if options.num_steps else ""
    return _finish(run, options.num_steps or read_config(run).num_steps, flags) if is_first() else 0


def _refuse_what_is_fixed(run: str, args: list[str]) -> None:
    """Raise UserError for a flag of `seqrl train NAME` that a run was begun with."""
    settings = {field.name for name in ALGORITHMS for field in dataclasses.fields(config_class(name))}
    fixed = settings - {field.name for field in dataclasses.fields(Resume)}
    for name in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        if name[2:].replace("-", "_") in fixed:
            raise UserError(
                f"{name}: {run} goes on with the settings in its config.json; for others begin a new run, seqrl train "
                f"NAME, as the same agent with --start-from {quoted(run)}"
            )


def _check_logs(run: str) -> None:
    """Raise UserError where a log that the run learns from is not found: it was named from another folder."""
    config = read_config(run)
    for name in ("dataset", "dialogues", "prompts", "preferences", "thumbs"):
        log = getattr(config, name, "")
        if log and not Path(log).exists():
            raise UserError(
                f"{run} learns from {shown(log, 1000)} (--{name}), which is not found: start in the folder it was "
                "trained in, or bring the log back"
            )


def _until_one_ends(config: RunConfig, step: int) -> str:
    """What to change where no episode has ended in `step` steps."""
    limit = time_limit(config.env, parse_env_kwargs(config.env_kwargs))
    if limit is None:
        return "train for longer, or give the environment a time limit, --env-kwargs max_episode_steps=1000"
    at_once = config.num_envs * getattr(config, "num_actors", 1)
    lasts = f"one of {config.env} may last {limit:,} steps"
    if limit * at_once > step:
        return f"{lasts}, and {at_once:,} are played at once; give --num-steps {limit * at_once} or more"
    return f"{lasts}, and each checkpoint begins new ones; give a larger --checkpoint-every"


def _finish(run: str, num_steps: int, flags: str = "") -> int:
    """Say what is in the run folder now. A run that stopped early was interrupted. `flags` are those to resume with."""
    logged, saved = read_finished_step(Path(run)), read_saved_step(Path(run))
    step = max(logged, saved)  # what was saved as it stopped is logged with later steps
    if step < num_steps:
        kept = "" if saved == step else f", saved at step {saved:,}"
        print(
            f"seqrl: interrupted at step {step:,}{kept}; continue with: seqrl train --resume {quoted(run)}{flags}",
            file=sys.stderr,
        )
        return 130
    config = read_config(run)
    how_well = ways(run, config) if plays_nothing(run, config) else f"seqrl evaluate {quoted(run)}"
    if isinstance(config, OfflineConfig) and not config.env:  # nor does the log name one
        how_well += " --env ENV"
        if isinstance(config, decision_transformer.Config):
            how_well += f", or without an environment seqrl calibrate {quoted(run)} --no-play"
    print(f"{run}: trained for {step:,} steps. See how well: {how_well}")
    if isinstance(config, RunConfig) and not any("episode_return" in line for line in read_metrics(Path(run))):
        print(f"No episode ended in these steps, so there is no return yet: {_until_one_ends(config, step)}")
    if (share := rewards_clipped(Path(run))) > MUCH_CLIPPED:
        print(
            f"Clipping moved up to {percent(share)} of the rewards' sum from large to small ones (rewards_clipped): if "
            "large ones must count in full, train with --no-normalize-rewards"
        )
    brought, is_earlier = last_evaluation(Path(run))
    if is_earlier:
        print(f"An earlier agent is kept, which was clearly better than the last one: that brought {brought:.4g}.")
    if is_reward_run(run):
        tell_held_out(run)
    return 0
