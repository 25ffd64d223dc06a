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


def compare(where: str) -> None:
    main(["compare", "broken_by_test:Broken-v0", "--env-kwargs", f"where={where}", "--memories", "none",
          "--num-seeds", "1", "--num-envs", "2", "--rollout-length", "4", "--run-dir", "compared"])  # fmt: skip


# Breaks if `check` does not reset the environment.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_reset_leaves_no_folder() -> None:
    with pytest.raises(KeyError, match="no key") as error:
        compare("reset")
    assert error.traceback[-1].path.name == "broken_by_test.py"
    assert not Path("compared").exists()


# Breaks if `_raise_from` adds no note.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_bug_in_step_names_the_run_below_the_traceback() -> None:
    with pytest.raises(KeyError, match="no door") as error:
        compare("step")
    assert "broken_by_test.py" in str(error.value.__cause__)  # the process's own traceback
    assert error.value.__notes__ == [
        "seqrl: that was the run compared/none_s0: mend it, then continue with seqrl compare --resume compared"
    ]
