"""seqrl actors."""

from dataclasses import dataclass
from pathlib import Path

from seqrl.algorithms import impala, read_config
from seqrl.cli.arguments import parse, positional
from seqrl.config import require
from seqrl.distributed import ask_for_actors
from seqrl.errors import UserError


@dataclass(frozen=True)
class Actors:
    """seqrl actors RUN N: let a run with --engine async or ray have N actors, while it trains or when it is resumed."""


def actors(args: list[str]) -> int:
    run, args = positional(args)
    number, args = positional(args)
    parse(Actors, args, Actors(), "seqrl actors RUN N")
    if run is None or number is None:
        raise UserError("actors needs a run folder and a number: seqrl actors RUN N")
    require(number.isdecimal(), f"'{number}' is no number of actors: seqrl actors RUN N")
    set_num_actors(run, int(number))
    print(f"{run}: {number} actors from the next update on")
    return 0


def set_num_actors(run: str, number: int) -> None:
    """Write what a run that trains, or is resumed, looks at. Raises UserError where it cannot have that many."""
    config = read_config(run)
    require(
        isinstance(config, impala.Config) and config.engine in ("async", "ray"),
        f"the number of actors of {run} cannot be changed: only that of impala with --engine async or ray can",
    )
    require(number >= 1, f"--num-actors is {number}: it must be at least 1")
    require(
        number % config.num_learners == 0,
        f"--num-actors {number} cannot be shared equally by the {config.num_learners} learners of {run}: "
        "choose a multiple",
    )
    ask_for_actors(Path(run), number)
