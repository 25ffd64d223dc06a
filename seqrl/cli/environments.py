"""seqrl envs."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from seqrl.cli.arguments import parse
from seqrl.envs import ENVIRONMENTS
from seqrl.envs.exact import memoryless_return, optimal_return


def envs(args: list[str]) -> int:
    parse(Envs, args, Envs(), "seqrl envs")
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
    print("seqrl.envs.Trials makes trials of any of them: a few episodes of one drawn task, to adapt within.")
    return 0


@dataclass(frozen=True)
class Envs:
    """List seqrl's environments."""
