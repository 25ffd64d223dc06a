"""What comes from outside: Ctrl-C while the command still begins, no standard input, names and numbers past limits."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import ENV, TINY, refuse

from seqrl.cli import main
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.interrupt import ends_on_interrupt


# Break: `ends_on_interrupt` left out of `seqrl/__init__.py`, or not applied to the command: a traceback.
@pytest.mark.parametrize("command", [["-m", "seqrl"], ["seqrl"]], ids=["module", "script"])
def test_ctrl_c_while_the_command_begins(tmp_path: Path, command: list[str]) -> None:
    """Gymnasium, which is imported on the way, is here a package that interrupts."""
    (tmp_path / "gymnasium").mkdir()
    (tmp_path / "gymnasium/__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n" * 2)
    if command == ["seqrl"]:
        (tmp_path / "seqrl_script").mkdir()
        script = tmp_path / "seqrl_script" / "seqrl"
        script.write_text("import sys\nfrom seqrl.cli import main\nsys.exit(main())\n")
        command = [str(script)]
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, "--version"], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(("program", "is_ours"), [("/usr/bin/seqrl", True), ("-m", True), ("ipykernel.py", False)])
def test_ctrl_c_is_a_notebooks_own_and_afterwards_what_it_was(
    program: str, is_ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with ends_on_interrupt():
            assert (signal.getsignal(signal.SIGINT) is not signal.default_int_handler) == is_ours
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# Break: standard input not looked at in `main`: RuntimeError, "lost sys.stdin".
def test_a_chat_without_standard_input_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, run = tmp_path / "log.jsonl", tmp_path / "run"
    turns = (Turn(speaker="person", text="x"), Turn(speaker="bot", text="y"))
    write_dialogues(log, [Dialogue(id=str(k), agent="bot", turns=turns) for k in range(4)])
    quick = ["--num-steps", "1", "--hidden-size", "8", "--batch-size", "2", "--held-out", "0"]
    assert main(["train", "bc", "--dialogues", str(log), "--run-dir", str(run), *quick]) == 0
    monkeypatch.setattr(sys, "stdin", None)
    capsys.readouterr()
    assert main(["chat", str(run)]) == 0
    assert "you>" in capsys.readouterr().out
    assert isinstance(sys.stdin, io.TextIOWrapper)


# Break: the name not looked at in `create_folder`: a traceback of TensorBoard's, and the folder stays behind.
def test_a_run_folder_whose_name_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    refuse(capsys, tmp_path, [*ENV, *TINY, "--run-dir", name], "run\\udcff", "is no UTF-8 (--run-dir)")


# Break: `_is_finite`, or what else than JSONDecodeError is caught, left out of `parse_env_kwargs`.
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("1e400", "'length=1e400': it must be a finite number"),
        ("-Infinity", "finite"),
        ("[1,{\"a\":NaN}]", "finite"),
        ("9" * 400 + ".0", "finite"),
        ("9" * 5_000, "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=["large", "infinite", "inside", "many digits", "too many digits", "nested"],
)  # fmt: skip
def test_arguments_of_environments_that_are_no_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str, words: str
) -> None:
    args = [*ENV, *TINY, "--env-kwargs", f"length={value}", "--run-dir", str(tmp_path / "run")]
    refuse(capsys, tmp_path, args, "--env-kwargs", words)


# Break: `_reward` in `seqrl.data.dialogues` without its bound.
def test_rewards_beyond_what_numbers_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = (Turn(speaker="person", text="x"), Turn(speaker="bot", text="y"))
    write_dialogues(tmp_path / "log.jsonl", [Dialogue(id=str(k), agent="bot", turns=turns * 2) for k in range(4)])
    args = ["reward", str(tmp_path / "log.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    for weight in ("1e308", "1e16"):
        refuse(capsys, tmp_path, [*args, "--turns", weight], "dialogue 1 to write: turns[1].reward is", "scale them")
    assert main([*args, "--turns", "1e15"]) == 0
