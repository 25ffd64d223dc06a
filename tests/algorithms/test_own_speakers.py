"""Copies of what learns to speak: the policies in their runs serve as those of ours do."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from seqrl.algorithms import bc, dpo, ilql, kto, load_speaker, reward_model
from seqrl.cli import main
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.errors import UserError
from seqrl.run_folder import read_json

RLHF = """
from dataclasses import dataclass

from seqrl.algorithms.rlhf import build, check, train
from seqrl.language_runs import rlhf_config


@dataclass(frozen=True, kw_only=True)
class Config(rlhf_config.Config):
    method: str = "rloo"
"""
QUICK = ["--num-steps", "2", "--warmup", "0", "--device", "cpu"]
PAIRS, LOG = ["--preferences", "pairs.jsonl"], ["--dialogues", "log.jsonl"]
RLOO = [
    "--prompts",
    "log.jsonl",
    "--reward",
    "length=1",
    "--num-conversations",
    "4",
    "--batch-size",
    "4",
    "--group-size",
    "4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and pairs of answers, copies of our files, and a run of one of them, `cloned`."""
    path = tmp_path_factory.mktemp("speakers")
    said = tuple((Turn(speaker="assistant", text=text),) for text in ("good so", "bad so"))
    asked = (Turn(speaker="user", text="so"),)
    write_dialogues(
        path / "log.jsonl", [Dialogue(id=f"{k}", agent="assistant", turns=asked + said[k % 2]) for k in range(4)]
    )
    write_preferences(
        path / "pairs.jsonl", [Preference(id=f"{k}", prompt=asked, chosen=said[0], rejected=said[1]) for k in range(6)]
    )
    for algorithm in (bc, dpo, kto, ilql, reward_model):
        shutil.copy(str(algorithm.__file__), path / f"my_{algorithm.__name__.rpartition('.')[2]}.py")
    (path / "my_rlhf.py").write_text(RLHF)
    return path


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in [path.stem for path in folder.glob("my_*.py")]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    if not (folder / "cloned").exists():
        assert main(["train", "my_bc:Config", *LOG, *QUICK, "--hidden-size", "8", "--run-dir", "cloned"]) == 0


# Breaks if a run is taken by the name of its algorithm alone.
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [("bc", LOG), ("dpo", PAIRS), ("kto", PAIRS), ("rlhf", RLOO), ("reward_model", PAIRS), ("my_dpo:Config", PAIRS),
     ("my_kto:Config", PAIRS), ("my_rlhf:Config", RLOO)],
)  # fmt: skip
def test_a_copy_s_run_is_taken_as_a_policy(algorithm: str, settings: list[str], tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert main(["train", algorithm, *settings, *QUICK, "--policy", "cloned", "--run-dir", run]) == 0
    assert read_json(Path(run), "config.json")["hidden_size"] == 8
    if algorithm == "reward_model":
        return
    # Whose own runs serve too, where they have a policy: another that is not trained begins as it.
    again = [*LOG, *QUICK[2:], "--num-steps", "1", "--learning-rate", "1e-12", "--run-dir", str(tmp_path / "again")]
    assert main(["train", "my_bc:Config", *again, "--policy", run]) == 0
    begun, begun_as = load_speaker(tmp_path / "again").policy, load_speaker(run).policy
    torch.testing.assert_close(begun.state_dict(), begun_as.state_dict())


# Breaks if a reward model is told by the name of its algorithm alone: it could be trained, and asked for nothing.
def test_a_copied_reward_model_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge, run = (str(tmp_path / name) for name in ("judge", "run"))
    assert main(["train", "my_reward_model:Config", *PAIRS, *QUICK, "--hidden-size", "8", "--run-dir", judge]) == 0
    assert main(["evaluate", judge, *PAIRS]) == 0
    assert "accuracy" in capsys.readouterr().out
    judged = ["--prompts", "log.jsonl", "--reward", judge, *RLOO[4:]]
    assert main(["train", "rlhf", "--policy", "cloned", *judged, *QUICK, "--run-dir", run]) == 0
    with pytest.raises(UserError, match="scores and does not speak"):
        load_speaker(judge)


# Breaks if what is steered, whose model another file tells, or has no policy is taken, or a folder is left behind.
def test_what_has_no_policy_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steered, judge, refused = (str(tmp_path / name) for name in ("steered", "judge", "refused"))
    log = [
        Dialogue(id="d", agent="a", turns=(Turn(speaker="o", text="so"), Turn(speaker="a", text="good", reward=1.0)))
    ]
    write_dialogues(tmp_path / "rewarded.jsonl", log * 2)
    rewarded = ["--dialogues", str(tmp_path / "rewarded.jsonl"), "--policy", "cloned"]
    assert main(["train", "my_ilql:Config", *rewarded, *QUICK, "--hidden-size", "8", "--run-dir", steered]) == 0
    assert main(["train", "my_reward_model:Config", *PAIRS, *QUICK, "--hidden-size", "8", "--run-dir", judge]) == 0
    capsys.readouterr()
    for run, kind, instead in ((steered, "ilql", ", such as the policy in it, cloned"), (judge, "reward_model", "")):
        assert main(["train", "dpo", *PAIRS, *QUICK, "--policy", run, "--run-dir", refused]) == 2
        known = "bc, dpo, kto, rlhf, or of a copy of theirs, whose policy stands alone"
        assert capsys.readouterr().err == f"seqrl: {run} is a run of my_{kind}:Config: give one of {known}{instead}\n"
        assert not Path(refused).exists()
