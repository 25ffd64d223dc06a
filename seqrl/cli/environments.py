"""seqrl envs."""

import inspect
import json
import textwrap
from dataclasses import dataclass

from rich.console import Console

from seqrl.cli.arguments import parse
from seqrl.envs import ENVIRONMENTS
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.exact import memoryless_return, optimal_return

NOT_GIVEN = ("num_envs", "device")
"""Arguments that come from elsewhere than --env-kwargs."""


def envs(args: list[str]) -> int:
    parse(Envs, args, Envs(), "seqrl envs")
    width = min(max(Console().width, 60), 100)
    for name, kind in ENVIRONMENTS.items():
        print(name)
        for line in (_summary(kind), _arguments(kind), _returns(name)):
            if line:
                print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
        print()
    print("Defaults are shown; for others: --env-kwargs length=20")
    print("Any Gymnasium id works too: CartPole-v1 --hide 1,3;")
    print("popgym-… and MiniGrid-… with their extras.")
    print("seqrl.envs.Trials makes trials of any of them:")
    print("a few episodes of one drawn task, to adapt within.")
    return 0


def _summary(kind: type[TorchVectorEnv]) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _arguments(kind: type[TorchVectorEnv]) -> str:
    """Each argument with its default, as --env-kwargs reads it."""
    given = [p for p in inspect.signature(kind).parameters.values() if p.name not in NOT_GIVEN]
    return "arguments: " + " ".join(
        f"{p.name}={p.default if isinstance(p.default, str) else json.dumps(p.default)}" for p in given
    )


def _returns(name: str) -> str:
    """The exact returns with the defaults, where they are known."""
    known = (("optimal", optimal_return(name)), ("best without memory", memoryless_return(name)))
    told = [f"{what} {value:.4g}" for what, value in known if value is not None]
    return f"return: {', '.join(told)}" if told else ""


@dataclass(frozen=True)
class Envs:
    """List seqrl's environments: what each is about, its arguments with their defaults, its best return."""
