"""seqrl audit, seqrl import, seqrl export: datasets of logged episodes, and logs of dialogues."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from seqrl.audit import audit as look_at
from seqrl.audit import audit_dialogues, audit_preferences, audit_thumbs
from seqrl.checkpoint import write_json
from seqrl.cli.arguments import parse, positional
from seqrl.cli.outputs import DATASETS, check_output
from seqrl.cli.splitting import check_parts, write_good
from seqrl.config import RunConfig, make_environment, require
from seqrl.data import EpisodeDataset, import_episodes, to_minari
from seqrl.data.dialogue_importers import form_of, import_dialogues
from seqrl.data.dialogues import shown
from seqrl.data.preferences import holds_preferences, holds_thumbs
from seqrl.data.tables import TABLES
from seqrl.errors import UserError, quoted
from seqrl.run_folder import first_free


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Look at a dataset, or a file of dialogues, preferences or thumbs, before training.

    The exit status is 1 where something is wrong.
    """

    output: str = ""
    """File to write the findings and figures to as JSON; by default none."""
    max_rows: int = 2_000_000
    """Rows of a larger dataset that are looked at: whole episodes, drawn at random. Of dialogues, all are."""
    keep_good: str = ""
    """Of a log of dialogues: file to write those to that nothing is wrong with; must not exist yet."""
    held_out: str = ""
    """File to write a share of these to instead, to be held out of training; must not exist yet."""
    share: float = 0.1
    """That share. Which they are depends on what is said in them alone, so a longer log holds out the same ones."""
    seed: int = 0
    """Seeds that draw."""


def audit(args: list[str]) -> int:
    folder, args = positional(args)
    options = parse(Audit, args, Audit(), "seqrl audit DATASET")
    if folder is None:
        raise UserError("audit needs a dataset folder, named first: seqrl audit DATASET")
    if options.max_rows < 1:
        raise UserError(f"--max-rows is {options.max_rows}: it must be at least 1")
    check_output(options.output)
    check_parts(options.keep_good, options.held_out, options.share, options.output)
    if Path(folder).is_file() and Path(folder).suffix in (*TABLES, ".npz", ".hdf5", ".h5"):
        raise UserError(f"{folder} is of another program: seqrl import it, and audit what that writes")
    is_file = Path(folder).is_file() or Path(folder).suffix == ".jsonl"  # episodes are folders
    has_preferences = is_file and holds_preferences(folder)
    has_thumbs = is_file and not has_preferences and holds_thumbs(folder)
    holds_dialogues = is_file and not (has_preferences or has_thumbs)
    require(holds_dialogues or not options.keep_good, "--keep-good is for logs of dialogues: leave it out")
    if has_preferences:
        result = audit_preferences(folder)
    elif has_thumbs:
        result = audit_thumbs(folder)
    elif holds_dialogues:
        if form_of(folder) not in ("seqrl", None):
            raise UserError(f"{shown(folder, 1000)} is of another program: seqrl import it, and audit what that writes")
        result = audit_dialogues(folder)
    else:
        result = look_at(EpisodeDataset.open(folder), max_rows=options.max_rows, seed=options.seed)
    if options.output:
        path = Path(options.output)
        try:
            write_json(path, result.as_dict())
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another --output") from None
    Console().print(*result.tables())
    if options.keep_good:
        print(write_good(result, options.keep_good, options.held_out, options.share))
    return 0 if result.sound else 1


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a dataset of what another program logged: .npz, .hdf5, .jsonl, .csv, .parquet, .npy files, minari:ID.

    Dialogues are recognised, and become a file of JSON lines: CaSiNo's .json, Deal or No Deal's .txt, and .jsonl with
    messages, prompt and completion, or chosen and rejected.
    """

    dataset_dir: str = ""
    """Folder to write; must not exist yet. By default datasets/SOURCE, numbered if that is taken."""
    output: str = ""
    """Of dialogues, the file to write; must not exist yet. By default datasets/SOURCE.jsonl, numbered likewise."""
    env: str = ""
    """The environment that it was logged in, for its spaces; else they are inferred from what was logged, and Minari's
    are the dataset's own."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of that environment."""
    unfinished: Literal["error", "truncate", "drop"] = "error"
    """What to do with an episode that ends neither terminated nor truncated."""
    episode_column: str = ""
    """The column of a table that tells episodes apart; by default "episode"."""


def import_(args: list[str]) -> int:
    source, args = positional(args)
    options = parse(Import, args, Import(), "seqrl import SOURCE")
    if source is None:
        raise UserError("import needs a file, a folder or minari:ID, named first: seqrl import SOURCE")
    if form_of(source):
        return _import_dialogues(source, options)
    if options.output:
        raise UserError("--output is for dialogues: a dataset of episodes is a folder, give --dataset-dir")
    chosen: dict[str, Any] = {"unfinished": options.unfinished} | _spaces(source, options)
    if options.episode_column:
        if Path(source).suffix not in (".csv", ".parquet"):
            raise UserError(f"--episode-column is for tables, .csv and .parquet: {source} tells episodes apart itself")
        chosen["episode"] = options.episode_column
    folder = options.dataset_dir or first_free(DATASETS, Path(source.removeprefix("minari:")).stem or "imported")
    try:
        dataset = import_episodes(source, folder, **chosen)
    except KeyboardInterrupt:
        print("seqrl: interrupted; no episodes were kept", file=sys.stderr)
        return 130
    print(f"{folder}: {dataset.num_episodes:,} episodes, {len(dataset):,} steps, mean return "
          f"{dataset.returns.mean():.4g}. Look at them first: seqrl audit {quoted(folder)}")  # fmt: skip
    return 0


def _import_dialogues(source: str, options: Import) -> int:
    for name in ("dataset_dir", "env", "env_kwargs", "episode_column", "unfinished"):
        if getattr(options, name) != getattr(Import, name):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} is for episodes, and {shown(source, 1000)} holds dialogues: leave it out")
    path = options.output or first_free(DATASETS, Path(source).stem, ".jsonl")
    number = import_dialogues(source, path)
    print(f"{shown(path, 1000)}: {number:,} dialogues. Look at them first: seqrl audit {quoted(shown(path, 1000))}")
    return 0


def _spaces(source: str, options: Import) -> dict[str, Any]:
    """The spaces of --env, and its name for the dataset's index."""
    if not options.env:
        if options.env_kwargs:
            raise UserError("--env-kwargs needs --env: name the environment that it was logged in")
        return {}
    config = RunConfig(env=options.env, env_kwargs=options.env_kwargs)
    with contextlib.closing(make_environment(config, 1)) as environment:
        return {
            "observation_space": environment.single_observation_space,
            "action_space": environment.single_action_space,
            "about": {"env": options.env, "env_kwargs": options.env_kwargs},
        }


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a dataset in another program's format."""

    to_minari: str = ""
    """Id of the Minari dataset to make, such as cartpole/random-v0."""


def export(args: list[str]) -> int:
    folder, args = positional(args)
    options = parse(Export, args, Export(), "seqrl export DATASET")
    if folder is None or not options.to_minari:
        raise UserError("export needs a dataset folder and a format: seqrl export DATASET --to-minari NAME-v0")
    dataset = EpisodeDataset.open(folder)
    to_minari(dataset, options.to_minari)
    print(f"{options.to_minari}: {dataset.num_episodes:,} episodes, in Minari's own folder")
    return 0
