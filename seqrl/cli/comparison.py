"""seqrl compare."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from seqrl.cli.arguments import parse, positional, take_flag
from seqrl.comparison import offline as of_methods
from seqrl.comparison import online as of_memories
from seqrl.comparison.additions import Additions, extended, extended_on_log
from seqrl.comparison.advice import advice
from seqrl.config import require
from seqrl.data.episode_files import INDEX
from seqrl.errors import UserError, quoted
from seqrl.pages.comparison_page import write_comparison_page
from seqrl.run_folder import default_run_dir, read_json

EXAMPLE = "seqrl compare CartPole-v1 --hide 1,3 (`seqrl envs` lists ours; any Gymnasium id works)"


def compare(args: list[str]) -> int:
    """Approaches on an environment; methods on a folder of logged episodes."""
    name, args = positional(args)
    run, args = take_flag(args, "--resume")
    config: of_memories.Config | of_methods.Config
    if run is not None:
        require(name is None, f"compare --resume {run} goes on with what its config.json names: leave {name} out")
        _refuse_what_is_fixed(Path(run), args)
        config = _resumed(Path(run), parse(Additions, args, Additions(), "seqrl compare --resume RUN"))
    elif name is not None and Path(name).is_dir():
        config = _methods(name, args)
    else:
        require(
            name is None or not Path(name).is_file(),
            f"{name} is a file: seqrl import {quoted(name)} makes a dataset of what another program logged, and that "
            "is compared on",
        )
        asked = {arg.partition("=")[0] for arg in args} & {"--env", "-h", "--help"}
        require(name is not None or bool(asked), "compare needs an environment or a dataset, named first: " + EXAMPLE)
        config = _memories(name, args)
    try:
        if isinstance(config, of_methods.Config):
            failed = _show_methods(config, resumed=run is not None)
        else:
            failed = _show_memories(config, resumed=run is not None)
    except KeyboardInterrupt:
        if not Path(config.settings.run_dir).is_dir():
            raise  # while random actions were played: there is nothing to continue
        print(
            f"seqrl: interrupted; continue with: seqrl compare --resume {quoted(config.settings.run_dir)}",
            file=sys.stderr,
        )
        return 130
    folder = Path(config.settings.run_dir)
    more = f"seqrl compare --resume {quoted(folder)} --num-seeds {config.num_seeds + 2}"
    console = Console(emoji=False)
    console.print(
        f"Plot and figures: {folder / 'compare.png'}, table.md, results.json; a page: report.html", markup=False
    )
    console.print(f"More seeds, keeping these: {more}", markup=False, highlight=False)
    for error in failed:
        print(f"seqrl: {error}", file=sys.stderr)
    return 2 if failed else 0


def _refuse_what_is_fixed(folder: Path, args: list[str]) -> None:
    """Raise UserError for a flag of `seqrl compare` that its runs were begun with: that can only be compared anew."""
    of_settings = {field.name for kind in (of_memories.Config, of_methods.Config) for field in dataclasses.fields(kind)}
    of_settings |= {field.name for field in dataclasses.fields(of_memories.default_settings(""))}
    fixed = of_settings - {field.name for field in dataclasses.fields(Additions)}
    for name in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        if name[2:].replace("-", "_") in fixed:
            raise UserError(
                f"{name}: the runs of {folder} were begun with what is in its config.json, and --resume keeps them as "
                "they are; compare anew with another --run-dir"
            )


def _resumed(folder: Path, added: Additions) -> of_memories.Config | of_methods.Config:
    """The config of a comparison that was begun, with what is added."""
    if read_json(folder, "config.json").get("type") == of_methods.TYPE:
        return extended_on_log(of_methods.read_comparison(folder), added)
    return extended(of_memories.read_comparison(folder), added)


def _memories(problem: str | None, args: list[str]) -> of_memories.Config:
    if memory := take_flag(args, "--memory")[0]:
        raise UserError(f"compare takes several memories: give --memories {memory} and others, not --memory")
    words = {arg.partition("=")[0] for arg in args}
    if {"--memories", "--approaches"} <= words:
        raise UserError("--memories and --approaches: give one of them (--memories gru is --approaches ppo:gru)")
    default = of_memories.Config(settings=of_memories.default_settings(problem or ""))
    config = parse(of_memories.Config, args, default, "seqrl compare ENV")
    return _with_run_dir(config, config.settings.env)


def _methods(dataset: str, args: list[str]) -> of_methods.Config:
    if not (Path(dataset) / INDEX).is_file():
        way_out = "give a dataset, or an environment"
        if (Path(dataset) / "config.json").is_file():
            is_run = not str(read_json(Path(dataset), "config.json").get("type")).startswith("compare")
            collect = f"have it play a log with seqrl collect {quoted(dataset)}, and compare what learns from that"
            way_out = collect if is_run else f"continue a comparison with --resume {quoted(dataset)}"
        raise UserError(f"{dataset} holds no logged episodes (it has no {INDEX}): {way_out}")
    default = of_methods.Config()
    default = dataclasses.replace(default, settings=dataclasses.replace(default.settings, dataset=dataset))
    config = parse(of_methods.Config, args, default, "seqrl compare DATASET")
    return _with_run_dir(config, Path(config.settings.dataset).name)


def _with_run_dir(config: Any, problem: str) -> Any:
    """`config` with a folder to write, named after the problem, if it has none."""
    if config.settings.run_dir:
        return config
    run_dir = default_run_dir(problem, "compare", config.settings.seed)
    return dataclasses.replace(config, settings=dataclasses.replace(config.settings, run_dir=run_dir))


def _show_memories(config: of_memories.Config, resumed: bool) -> list[str]:
    """Compare, and print what came out; returns what was wrong with runs that failed."""
    # Without emoji, which `ppo:brain:Ema` would have for a memory in brain.py.
    result, console = of_memories.compare(config, resumed), Console(emoji=False)
    write_comparison_page(Path(config.settings.run_dir))  # before anything is printed, which perhaps nobody reads on
    console.print(result.table(console.width))
    for sentence in (advice(result), *(f"• {sentence}" for sentence in result.verdict)):
        console.print(sentence, highlight=False, markup=False)
    return [*result.failed, *(result.offline.failed if result.offline else [])]


def _show_methods(config: of_methods.Config, resumed: bool) -> list[str]:
    """The same of methods on logged episodes."""
    (result, sentences), console = of_methods.compare(config, resumed), Console()
    write_comparison_page(Path(config.settings.run_dir))
    console.print(result.table(console.width))
    for sentence in sentences:
        console.print(f"• {sentence}", highlight=False, markup=False)
    return result.failed
