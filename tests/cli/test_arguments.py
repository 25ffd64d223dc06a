"""From words to flags: how numbers may be written, what is suggested, where help is asked for."""

import re
from dataclasses import dataclass

import pytest

from seqrl.algorithms import ppo
from seqrl.cli import main
from seqrl.cli.arguments import parse, take_flag
from seqrl.cli.evaluation import Evaluate
from seqrl.comparison.online import Config
from seqrl.errors import UserError


@dataclass(frozen=True)
class Flags:
    count: int = 1
    rate: float = 1.0
    name: str = ""
    hide: tuple[int, ...] = ()
    on: bool = False


# Breaks without `_whole_numbers`, or if it takes flags of other types, such as a folder called 1e5.
def test_whole_numbers_as_they_are_written() -> None:
    args = ["--count", "1.5e3", "--rate", "1e5", "--name", "1e5", "--hide", "1e1", "100_000", "--on"]
    assert parse(Flags, args, Flags(), "x") == Flags(1500, 1e5, "1e5", (10, 100_000), True)
    compared = parse(Config, ["--num-steps", "1e5"], Config(settings=ppo.Config()), "x")
    assert compared.settings.num_steps == 100_000
    assert parse(Flags, ["--count", "-2E+1"], Flags(), "x").count == -20


@pytest.mark.parametrize("word", ["four", "1.5e0", "1.5", "1e-1", "1e", "._e1", "inf", "nan"])
def test_what_is_no_whole_number_is_refused_in_one_line(word: str) -> None:
    with pytest.raises(UserError, match=r"^error parsing --count: [^\n]*$"):
        parse(Flags, ["--count", word], Flags(), "x")


# Breaks if tyro's first suggestion is taken: --seed, --horizon-steps, --env and --log-episodes.
@pytest.mark.parametrize("word", ["seeds", "steps", "envs", "episodes"])
def test_counts_are_suggested_first(word: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean --num-{word}\?"):
        parse(Config, [f"--{word}", "3"], Config(settings=ppo.Config()), "x")


# Breaks if ALSO_CALLED has another flag, or if one is suggested that the command has not.
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--lr", "1e-3"], "options: --lr, 1e-3: did you mean --learning-rate?"),
        (["--lr=1e-3"], "options: --lr=1e-3: did you mean --learning-rate?"),
        (["--discount", "0.9"], "did you mean --gamma?"),
        (["--total_timesteps", "5"], "did you mean --num-steps?"),
        (["--log-dir", "here"], "did you mean --run-dir?"),
        (["--deterministic"], "did you mean --actions?"),
    ],
)
def test_flags_as_other_programs_have_them(args: list[str], words: str) -> None:
    for default in (ppo.Config(), Config(settings=ppo.Config())):
        with pytest.raises(UserError) as error:
            parse(type(default), args, default, "x")
        assert f"{words} (see x --help)" in str(error.value)
    with pytest.raises(UserError) as error:
        parse(Flags, args, Flags(), "x")
    assert not re.search("--(learning-rate|gamma|num-steps|run-dir|actions)", str(error.value))


def test_drawn_actions_as_other_programs_call_them() -> None:
    with pytest.raises(UserError, match=r"options: --stochastic: did you mean --sample\? \(see x --help\)"):
        parse(Evaluate, ["--stochastic"], Evaluate(), "x")


# Breaks if what stands behind help is not read.
@pytest.mark.parametrize("asked", [["help", "evaluate"], ["--help", "evaluate"], ["-h", "evaluate"]])
def test_help_before_a_command(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(asked)
    assert stop.value.code == 0
    assert "usage: seqrl evaluate RUN" in capsys.readouterr().out
    assert main(["help", "evaluat"]) == 2


# Breaks if --help is taken for a run folder, or if a flag is.
@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_where_a_run_is_expected(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "-h"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--resume", word])
        assert stop.value.code == 0
        assert f"usage: seqrl {command} --resume RUN" in capsys.readouterr().out
    with pytest.raises(UserError, match="--resume needs a run folder: --resume RUN"):
        take_flag(["--resume", "--num-steps", "5"], "--resume")
