"""Help, as a terminal shows it."""

from typing import Any

import pytest

from seqrl.cli import main


@pytest.mark.parametrize(
    "args",
    [[], ["--help"], ["-h"], ["train", "--help"], ["train", "ppo", "--help"], ["train", "tmaze", "-h"],
     ["compare", "--help"], ["compare", "seqrl/TMaze-v0", "--help"], ["evaluate", "--help"], ["envs", "--help"],
     ["collect", "--help"], ["import", "--help"], ["export", "--help"], ["audit", "--help"],
     ["train", "--resume", "RUN", "--help"], ["compare", "--resume", "RUN", "--help"], ["--version"]],
    ids=lambda args: " ".join(["seqrl", *args]),
)  # fmt: skip
def test_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    status: Any = None
    try:
        status = main(args)
    except SystemExit as stop:
        status = stop.code
    assert status == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "seqrl" in out
    assert "settings." not in out  # flags of nested settings go without a prefix
    if args[:2] in (["train", "ppo"], ["compare", "--help"]):
        for flag in ("--env ", "--num-steps", "--seed", "--run-dir", "--hide", "--env-kwargs", "--burn-in"):
            assert flag in out


# Must break: `textwrap.fill` left out; `print_usage(TRAIN)` without TRAIN.
def test_what_can_be_trained_is_listed_in_60_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    for args in ([], ["help"], ["train", "--help"]):
        assert main(args) == 0
        told = capsys.readouterr().out
        assert max(map(len, told.splitlines())) <= 60
        assert ("popgym_repeat_previous_easy" in told, "seqrl chat" in told) == (True, args[:1] != ["train"])


# Must break: tyro's own `remove_single_line_breaks`, which begins a line where a docstring does.
def test_help_runs_on_over_the_lines_of_a_docstring(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "of the way from random actions to the best approach" in capsys.readouterr().out
