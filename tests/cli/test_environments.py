"""seqrl envs, and what happens where nobody reads what a command prints."""

import os
import subprocess
import sys

import pytest

from seqrl.cli import main
from seqrl.envs import ENVIRONMENTS


# Break: the line of arguments left out, or `width` of the whole terminal's.
def test_each_environment_is_a_block_that_60_columns_hold(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["envs"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.split("\n")[0] for block in blocks[:-1]] == list(ENVIRONMENTS)
    maze = next(block for block in blocks if "TMaze" in block)
    assert "length=10 active=false" in maze
    assert "optimal 1, best without memory 0.5" in maze
    assert max(len(line) for block in blocks for line in block.split("\n")) <= 60


# Break: `except BrokenPipeError` left out of `main`, or its `flush`.
@pytest.mark.parametrize(
    ("args", "unbuffered"),
    [(["envs"], ""), (["--help"], "1"), pytest.param(["train", "ppo", "--help"], "", marks=pytest.mark.slow)],
)
def test_nobody_reads(args, unbuffered):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "seqrl", *args]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=environment, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


# Must break: `except SystemExit` left out of `main`: rich ends with 1; the page written after the table.
def test_nobody_reads_the_table_of_a_comparison(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    folder = tmp_path / "compared"
    sizes = "--num-seeds 1 --num-steps 64 --num-envs 8 --rollout-length 8 --num-episodes 4 --workers 1"
    problem = ["compare", "seqrl/TMaze-v0", "--env-kwargs", "length=3", "--memories", "none"]
    with open(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main([*problem, *sizes.split(), "--run-dir", str(folder)]) == 141
    assert (folder / "report.html").is_file()


# Break: `_nobody_reads()` not asked.
def test_another_broken_pipe_is_not_hidden(monkeypatch):
    def fail(_):
        raise BrokenPipeError

    monkeypatch.setattr("seqrl.cli.environments.envs", fail)
    with open(os.devnull, "w") as out:
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, out)
        with pytest.raises(BrokenPipeError):
            main(["envs"])
