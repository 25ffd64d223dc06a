"""From the words of a command line to a dataclass of flags; what is wrong with them, in one line."""

import contextlib
import io
import re
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from seqrl.config import require
from seqrl.errors import UserError

T = TypeVar("T")

ALSO_CALLED = {
    "--deterministic": "--actions",
    "--discount": "--gamma",
    "--lr": "--learning-rate",
    "--log-dir": "--run-dir",
    "--logdir": "--run-dir",
    "--output-dir": "--run-dir",
    "--save-dir": "--run-dir",
    "--stochastic": "--sample",
    "--timesteps": "--num-steps",
    "--total-steps": "--num-steps",
    "--total-timesteps": "--num-steps",
}
"""Flags that other programs have for one of ours, where no likeness of letters tells."""


def positional(args: list[str]) -> tuple[str | None, list[str]]:
    """The first word, unless it is a flag, and the rest."""
    return (args[0], args[1:]) if args and not args[0].startswith("-") else (None, args)


def positionals(args: list[str]) -> tuple[list[str], list[str]]:
    """All words before the first flag, and the rest."""
    count = next((index for index, arg in enumerate(args) if arg.startswith("-")), len(args))
    return args[:count], args[count:]


def take_flag(args: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of `flag` and the other arguments."""
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == flag:
            if equals:
                return value, args[:index] + args[index + 1 :]
            if args[index + 1 :][:1] in (["-h"], ["--help"]):
                return "", args[:index] + args[index + 1 :]  # the parser shows its help before a run is looked for
            if args[index + 1 :][:1] == [] or args[index + 1].startswith("-"):
                raise UserError(f"{flag} needs a run folder: {flag} RUN")
            return args[index + 1], args[:index] + args[index + 2 :]
    return None, args


def environment_asked_for(env: str, env_kwargs: tuple[str, ...]) -> dict[str, Any]:
    """What --env and --env-kwargs change of a run's settings. Another environment takes none of the run's arguments."""
    if env:
        return {"env": env, "env_kwargs": env_kwargs}
    return {"env_kwargs": env_kwargs} if env_kwargs else {}


def parse(kind: type[T], args: list[str], default: T, program: str) -> T:
    """Flags over `default`. What tyro says of bad ones, a box of several lines, becomes one line.

    Lists may be written with commas: `--hide 1,3`. A `--seed` has to be one that environments take.
    """
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), _WHOLE_NUMBERS:
            options = tyro.cli(kind, args=_split_commas(args), default=default, prog=program)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        problem = one_line(errors.getvalue())
        raise UserError(f"{problem}{_also_called(problem, default)} (see {program} --help)") from None
    seed = getattr(options, "seed", 0)
    require(0 <= seed < 2**31, f"--seed is {seed}: it must be from 0 to {2**31 - 1}")
    return options


def _also_called(problem: str, default: Any) -> str:
    """The flag of `default` that other programs call what is not recognised, if there is one."""
    word = re.match(r"unrecognized options: (--[\w-]+)[^:]*$", problem)
    meant = ALSO_CALLED.get(word[1].replace("_", "-"), "") if word else ""
    known = {field.name for part in (default, getattr(default, "settings", None) or default) for field in fields(part)}
    return f": did you mean {meant}?" if meant[2:].replace("-", "_") in known else ""


def _paragraphs(text: str) -> str:
    """A docstring whose paragraphs run on: each is broken anew where the terminal ends."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


# tyro's own keeps the break before every line that is indented. It is private; without it help is less pretty, no more.
with contextlib.suppress(AttributeError):
    tyro._strings.remove_single_line_breaks = _paragraphs  # type: ignore[assignment]

_WHOLE_NUMBERS = tyro.constructors.ConstructorRegistry()
"""What tyro reads besides its own: whole numbers as 1e5."""


@_WHOLE_NUMBERS.primitive_rule
def _whole_numbers(of: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    if of.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _whole(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


def _whole(word: str) -> int:
    if re.fullmatch(r"-?[\d_.]+[eE]\+?\d{1,2}", word) and float(word).is_integer():
        return int(float(word))
    return int(word)


def one_line(box: str) -> str:
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
    if not similar:
        return problem
    # tyro sorts by letters, and has --seed before --num-seeds for --seeds
    word = re.search(r"--[\w-]+", problem)
    flags = re.findall(r"^\W{4,6}(--[\w-]+)", plain, re.MULTILINE)
    meant = f"--num-{word[0].strip('-')}" if word else ""
    return f"{problem}: did you mean {meant if meant in flags else similar[1]}?"


def _split_commas(args: list[str]) -> list[str]:
    """`--hide 1,3` and `--memories none,gru` as tyro reads lists, one word each."""
    lists = {
        "--hide", "--memories", "--methods", "--env-kwargs", "--env_kwargs", "--task-kwargs", "--task_kwargs",
        "--memory-kwargs", "--memory_kwargs", "--targets", "--betas", "--approaches", "--override", "--reward",
        "--outcome",
    }  # fmt: skip
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
