"""The command line: seqrl train | evaluate | report | compare | envs."""

import contextlib
import dataclasses
import errno
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

import seqrl
from seqrl import compare as comparison
from seqrl.algorithms import ALGORITHMS, load, read_config, resume, train
from seqrl.config import make_environment, require
from seqrl.envs import ENVIRONMENTS
from seqrl.envs.exact import memoryless_return, optimal_return
from seqrl.errors import UserError, nearest
from seqrl.evaluate import evaluate
from seqrl.recipes import RECIPES, settings_for
from seqrl.report import advice, mean_and_interval
from seqrl.run import check_spaces, default_run_dir, read_finished_step, read_saved_step
from seqrl.run_report import plot_run
from seqrl.spaces import space_to_json

USAGE = """\
seqrl: reinforcement learning with memory

  seqrl compare ENV [flags]       train several memories on ENV, and say which one it needs
  seqrl train NAME [flags]        train a recipe ({recipes})
                                  or an algorithm ({algorithms}) on --env ENV
  seqrl train --resume RUN        continue a run, bit for bit
  seqrl evaluate RUN [flags]      play episodes with a trained agent
  seqrl report RUN                plot a run's curves: report.png in its folder
  seqrl envs                      list seqrl's environments (any Gymnasium id works too)

Each command explains its flags with --help.
"""
T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for bad input, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "report": _report,
        "compare": _compare,
        "envs": _envs,
    }
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± or … shows ? instead
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(recipes=", ".join(RECIPES), algorithms=", ".join(ALGORITHMS)), end="")
        return 0
    if args[0] == "--version":
        print(f"seqrl {seqrl.__version__}")
        return 0
    try:
        if args[0] not in commands:
            raise UserError(f"unknown command '{args[0]}': {nearest(args[0], commands)}")
        return commands[args[0]](args[1:])
    except UserError as error:
        print(f"seqrl: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(
            f"seqrl: {error.strerror}{where}: free some space; a run keeps its last checkpoint, continue with --resume",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("seqrl: interrupted; a run folder that was begun can be continued with --resume", file=sys.stderr)
        return 130


def _train(args: list[str]) -> int:
    name, args = _positional(args)
    run, args = _take_flag(args, "--resume")
    if run is not None:
        return _resume(run, args)
    if name is None:
        if "-h" in args or "--help" in args:
            print(USAGE.format(recipes=", ".join(RECIPES), algorithms=", ".join(ALGORITHMS)), end="")
            return 0
        raise UserError(f"train needs a recipe or an algorithm, named first: {', '.join([*ALGORITHMS, *RECIPES])}")
    if name in ALGORITHMS:
        default = ALGORITHMS[name].Config()
    elif name in RECIPES:
        default = RECIPES[name]()
    else:
        raise UserError(f"unknown recipe or algorithm '{name}': {nearest(name, [*ALGORITHMS, *RECIPES])}")
    config = _parse(type(default), args, default, f"seqrl train {name}")
    if not config.run_dir:
        config = dataclasses.replace(config, run_dir=default_run_dir(config.env, config.memory, config.seed))
    train(config)
    return _finish(config.run_dir, config.num_steps)


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Continue a run, bit for bit."""

    num_steps: int = 0
    """Train up to this step; 0 for the run's own number."""


def _resume(run: str, args: list[str]) -> int:
    options = _parse(Resume, args, Resume(), "seqrl train --resume RUN")
    resume(run, options.num_steps or None)
    flags = f" --num-steps {options.num_steps}" if options.num_steps else ""
    return _finish(run, options.num_steps or read_config(run).num_steps, flags)


def _finish(run: str, num_steps: int, flags: str = "") -> int:
    """Say what is in the run folder now. A run that stopped early was interrupted. `flags` are those to resume with."""
    step, saved = read_finished_step(Path(run)), read_saved_step(Path(run))
    if step < num_steps:
        kept = "" if saved == step else f", saved at step {saved:,}"
        print(
            f"seqrl: interrupted at step {step:,}{kept}; continue with: seqrl train --resume {run}{flags}",
            file=sys.stderr,
        )
        return 130
    print(f"{run}: trained for {step:,} steps. See how well: seqrl evaluate {run}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Play episodes with a trained agent, on the environment it was trained on or another that fits."""

    num_episodes: int = 100
    """Episodes to play."""
    seed: int = 10_000
    """Seed of the episodes."""
    sample: bool = False
    """Draw actions from the policy; else the likeliest one is taken."""
    env: str = ""
    """Another environment than the run's, with the same spaces."""
    env_kwargs: tuple[str, ...] = ()
    """Other arguments of the environment, KEY=VALUE."""
    num_envs: int = 50
    """Environments that are played side by side."""


def _evaluate(args: list[str]) -> int:
    run, args = _positional(args)
    options = _parse(Evaluate, args, Evaluate(), "seqrl evaluate RUN")
    if run is None:
        raise UserError("evaluate needs a run folder, named first: seqrl evaluate RUN")
    for flag, value in (("--num-episodes", options.num_episodes), ("--num-envs", options.num_envs)):
        require(value >= 1, f"{flag} is {value}: it must be at least 1")
    config = read_config(run)
    changes: dict[str, Any] = {"device": "cpu"}
    if options.env:
        changes |= {"env": options.env, "env_kwargs": options.env_kwargs}
    elif options.env_kwargs:
        changes |= {"env_kwargs": options.env_kwargs}
    config = dataclasses.replace(config, **changes)
    agent = load(run)
    with contextlib.closing(make_environment(config, min(options.num_envs, options.num_episodes))) as environment:
        check_spaces(
            Path(run),
            {
                "observation": space_to_json(environment.single_observation_space),
                "action": space_to_json(environment.single_action_space),
            },
        )
        result = evaluate(agent, environment, options.num_episodes, options.seed, options.sample)
    table = Table(title=f"{run} on {' '.join([config.env, *config.env_kwargs])}")
    columns = {
        "episodes": str(len(result.returns)),
        "return (95 %)": mean_and_interval(result.mean, result.half_width),
        "lowest": f"{result.returns.min():.4g}",
        "highest": f"{result.returns.max():.4g}",
        "mean length": f"{result.lengths.mean():.1f}",
    }
    for column in columns:
        table.add_column(column, justify="right")
    table.add_row(*columns.values())
    Console().print(table)
    return 0


@dataclass(frozen=True)
class Report:
    """Plot a run's curves, those of a run that is still training too: report.png in its folder."""


def _report(args: list[str]) -> int:
    run, args = _positional(args)
    _parse(Report, args, Report(), "seqrl report RUN")
    if run is None:
        raise UserError("report needs a run folder, named first: seqrl report RUN")
    print(plot_run(Path(run)))
    return 0


def _compare(args: list[str]) -> int:
    env, args = _positional(args)
    run, args = _take_flag(args, "--resume")
    if run is not None:
        _parse(ResumeComparison, args, ResumeComparison(), "seqrl compare --resume RUN")
        config, resumed = comparison.read_comparison(Path(run)), True
    else:
        if memory := _take_flag(args, "--memory")[0]:
            raise UserError(f"compare takes several memories: give --memories {memory} and others, not --memory")
        settings = settings_for(env) if env else settings_for("")
        default = comparison.Config(settings=settings)
        config, resumed = _parse(comparison.Config, args, default, "seqrl compare ENV"), False
        if not config.settings.run_dir:
            run_dir = default_run_dir(config.settings.env, "compare", config.settings.seed)
            config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, run_dir=run_dir))
    try:
        result = comparison.compare(config, resumed)
    except KeyboardInterrupt:
        folder = config.settings.run_dir
        print(f"seqrl: interrupted; continue with: seqrl compare --resume {folder}", file=sys.stderr)
        return 130
    console = Console()
    console.print(result.table())
    console.print(advice(result))
    console.print(f"Plot and figures: {Path(config.settings.run_dir) / 'compare.png'}, table.md, results.json")
    return 0


@dataclass(frozen=True)
class ResumeComparison:
    """Continue a comparison: runs that are done are kept, the others go on where they were."""


def _envs(args: list[str]) -> int:
    _parse(Envs, args, Envs(), "seqrl envs")
    table = Table(title="seqrl's environments, with their default arguments")
    for name in ("id", "what is hidden", "optimal", "best without memory"):
        text = name in ("id", "what is hidden")
        table.add_column(name, justify="left" if text else "right", no_wrap=name == "id")
    for name, kind in ENVIRONMENTS.items():
        returns = (optimal_return(name), memoryless_return(name))
        cells = ("–" if value is None else f"{value:.4g}" for value in returns)
        table.add_row(name, (kind.__doc__ or "").splitlines()[0], *cells)
    Console().print(table)
    print("Any Gymnasium id works too: CartPole-v1 --hide 1,3; popgym-… and MiniGrid-… with their extras.")
    return 0


@dataclass(frozen=True)
class Envs:
    """List seqrl's environments."""


def _positional(args: list[str]) -> tuple[str | None, list[str]]:
    """The first word, unless it is a flag, and the rest."""
    return (args[0], args[1:]) if args and not args[0].startswith("-") else (None, args)


def _take_flag(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of `flag` and the other arguments."""
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            if equals:
                return value, args[:index] + args[index + 1 :]
            if index + 1 == len(args):
                raise UserError(f"{flag} needs a run folder: {flag} RUN")
            return args[index + 1], args[:index] + args[index + 2 :]
    return None, args


def _parse(kind: type[T], args: list[str], default: T, program: str) -> T:
    """Flags over `default`. What tyro says of bad ones, a box of several lines, becomes one line.

    Lists may be written with commas: `--hide 1,3`.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(kind, args=_split_commas(args), default=default, prog=program)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(f"{_one_line(errors.getvalue())} (see {program} --help)") from None


def _one_line(box: str) -> str:
    """The first paragraph inside tyro's box of several lines, and the flag that it takes to be meant."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    paragraphs = [""]
    for line in plain.splitlines()[1:]:  # below the title
        words = line.strip("│ ")
        is_rule = set(words) <= set("─-╰╯")  # tyro draws with dashes where the terminal is not UTF-8
        paragraphs = [*paragraphs, ""] if is_rule else [*paragraphs[:-1], f"{paragraphs[-1]} {words}".strip()]
    problem, *rest = filter(None, [*paragraphs, "the flags could not be read"])
    problem = problem[:1].lower() + problem[1:].rstrip(".: ")
    similar = re.search(r"(?:Perhaps you meant|Arguments similar to [^:]*): (--[\w-]+)", " ".join(rest))
    return f"{problem}: did you mean {similar[1]}?" if similar else problem


def _split_commas(args: list[str]) -> list[str]:
    """`--hide 1,3` and `--memories none,gru` as tyro reads lists, one word each."""
    lists = {"--hide", "--memories", "--env-kwargs", "--env_kwargs"}
    result: list[str] = []
    flag = ""
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in lists and equals:
            result.append(name)
            flag, arg = name, value
        elif arg.startswith("--"):
            flag = arg
        is_list = flag in lists and not arg.startswith("--") and not set(arg) & set('{["')  # these open JSON
        result.extend(arg.split(",") if is_list else [arg])
    return result


if __name__ == "__main__":
    sys.exit(main())
