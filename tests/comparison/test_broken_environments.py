"""A bug in a user's environment, met while approaches are compared."""

from pathlib import Path

import pytest

from seqrl.cli import main

BROKEN = """
import gymnasium as gym
import numpy as np


class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, where="reset"):
        self.where = where

    def reset(self, *, seed=None, options=None):
        if self.where == "reset":
            raise KeyError("no key")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        raise KeyError("no door")


gym.register("Broken-v0", Broken)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_by_test.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # the comparison's processes have it too


def compare(where: str) -> int:
    return main(["compare", "broken_by_test:Broken-v0", "--env-kwargs", f"where={where}", "--memories", "none",
                 "--num-seeds", "1", "--num-envs", "2", "--rollout-length", "4", "--run-dir", "compared"])  # fmt: skip


# Breaks if `check` does not reset the environment.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_reset_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("reset") == 2
    line = "seqrl: Broken-v0 failed in reset (KeyError: 'no key', broken_by_test.py:15): mend the environment\n"
    assert capsys.readouterr().err == line
    assert not Path("compared").exists()


# Breaks if what a run's process raised is not carried to the comparison's.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_step_is_one_line_and_the_folder_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("step") == 2
    line = "Broken-v0 failed in step (KeyError: 'no door', broken_by_test.py:19): mend the environment"
    run = "that was the run compared/none_s0; continue with seqrl compare --resume compared"
    assert f"seqrl: {line} ({run})\n" in capsys.readouterr().err
    assert Path("compared/none_s0/config.json").is_file()
