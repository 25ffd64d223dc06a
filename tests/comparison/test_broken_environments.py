"""A bug in a user's environment, met while approaches are compared."""

from pathlib import Path

import pytest

from seqrl.cli import main

pytestmark = pytest.mark.usefixtures("forked_comparisons")

BROKEN = """
import gymnasium as gym
import numpy as np


class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, where="reset"):
        self.where, self.steps = where, 0

    def reset(self, *, seed=None, options=None):
        if self.where == "reset":
            raise KeyError("no key")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.where == "step" or self.steps > 50:
            raise KeyError("no door")
        return np.zeros(2, np.float32), 0.0, self.steps % 2 == 0, False, {}


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


# Breaks if random actions are not played before the folder is made.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_every_step_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("step") == 2
    line = "seqrl: Broken-v0 failed in step (KeyError: 'no door', broken_by_test.py:21): mend the environment\n"
    assert capsys.readouterr().err == line
    assert not Path("compared").exists()


# Breaks if what a run's process raised is not carried to the comparison's.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_a_late_step_is_one_line_and_the_folder_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("late") == 2
    line = "Broken-v0 failed in step (KeyError: 'no door', broken_by_test.py:21): mend the environment"
    run = "that was the run compared/none_s0; continue with seqrl compare --resume compared"
    assert f"seqrl: {line} ({run})\n" in capsys.readouterr().err
    assert Path("compared/none_s0/config.json").is_file()
