"""A run goes on with the log that it began with: one of the same size, but other contents, is refused."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from seqrl.algorithms import bc, decision_transformer, kto, resume, reward_model, rlhf, train
from seqrl.checkpoint import load_checkpoint, save_checkpoint
from seqrl.data import Episode, EpisodeWriter
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.errors import UserError
from seqrl.offline import same_log
from seqrl.offline.same_log import log_digest
from seqrl.run_folder import CHECKPOINT, METRICS

SHORT = {"num_steps": 4, "checkpoint_every": 2, "log_every": 2, "batch_size": 4, "warmup": 0}


@dataclasses.dataclass(frozen=True)
class Named:
    """A config that names a log."""

    dataset: str = ""
    dialogues: str = ""


def talk(number: int, thumbs: int) -> Dialogue:
    turns = Turn(speaker="o", text="so so"), Turn(speaker="a", text="fine", thumbs=thumbs)
    return Dialogue(id=str(number), agent="a", turns=turns)


def judged(number: int, worse: str) -> Preference:
    said = [(Turn(speaker="assistant", text=text),) for text in ("fine", worse)]
    return Preference(id=str(number), prompt=(Turn(speaker="user", text="so"),), chosen=said[0], rejected=said[1])


def write_talks(path: Path, changed: bool) -> None:
    thumbs = [1 if k % 2 else -1 for k in range(8)]
    write_dialogues(path, [talk(k, each) for k, each in enumerate(reversed(thumbs) if changed else thumbs)])


def write_pairs(path: Path, changed: bool) -> None:
    write_preferences(path, [judged(k, "poor" if changed and k == 7 else "evil") for k in range(8)])


def write_episodes(path: Path, changed: bool) -> None:
    shutil.rmtree(path, ignore_errors=True)
    box = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    with EpisodeWriter(path, box, gym.spaces.Discrete(2), about={}) as writer:
        for k in range(8):
            observation = np.full((4, 2), 0.1 * k, np.float32)
            observation[2, 1] = 0.5 if changed and k == 5 else 0.0
            writer.add(Episode(observation, np.array([0, 1, k % 2]), np.ones(3, np.float32), True, False))


CASES: dict[str, tuple[Any, str, Any]] = {
    "bc": (bc, "dialogues", write_talks),
    "kto": (kto, "thumbs", write_talks),
    "reward_model": (reward_model, "preferences", write_pairs),
    "rlhf": (rlhf, "prompts", write_talks),
    "decision_transformer": (decision_transformer, "dataset", write_episodes),
}


def config_of(name: str, folder: Path) -> Any:
    """A short run of the algorithm on a log that it is given, and on a policy where it needs one."""
    algorithm, flag, write = CASES[name]
    write(folder / "log", changed=False)
    settings: dict[str, Any] = {**SHORT, "hidden_size": 8, flag: str(folder / "log"), "run_dir": str(folder / "run")}
    if name in ("kto", "rlhf"):
        write_talks(folder / "talks", changed=False)
        train(bc.Config(**SHORT, hidden_size=8, dialogues=str(folder / "talks"), run_dir=str(folder / "policy")))
        del settings["hidden_size"]
        settings["policy"] = str(folder / "policy")
    if name == "rlhf":
        del settings["log_every"]
        settings |= {"method": "rloo", "reward": ("length",), "num_conversations": 4, "group_size": 2, "max_tokens": 4}
    return algorithm.Config(**settings)


# Must break: in `fit` or in rlhf's `train_share`, `log = log_digest(config)`; a name left out of LOGS.
@pytest.mark.parametrize("name", CASES)
def test_a_log_of_the_same_size_that_was_edited_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing of the run is changed by that, and with the log that it began with it goes on."""
    config = config_of(name, tmp_path)
    _, flag, write = CASES[name]
    train(config)
    before = [(tmp_path / "run" / file).read_bytes() for file in (CHECKPOINT, METRICS)]
    write(tmp_path / "log", changed=True)
    with pytest.raises(UserError, match=rf"run began with other contents of .*log \(--{flag}\): bring back the log"):
        resume(tmp_path / "run", 6)
    assert before == [(tmp_path / "run" / file).read_bytes() for file in (CHECKPOINT, METRICS)]
    write(tmp_path / "log", changed=False)
    resume(tmp_path / "run", 6)
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 6


# Must break: in `same_log`, `counters.get("log")` without a default.
@pytest.mark.parametrize("name", ["bc", "rlhf"])
def test_a_run_of_before_digests_were_kept_goes_on(tmp_path: Path, name: str) -> None:
    """From then on it keeps one."""
    train(config_of(name, tmp_path))
    path = tmp_path / "run" / CHECKPOINT
    tree, counters = load_checkpoint(path)
    del counters["log"]
    save_checkpoint(path, tree, counters)
    resume(tmp_path / "run", 6)
    write_talks(tmp_path / "log", changed=True)
    with pytest.raises(UserError, match="began with other contents"):
        resume(tmp_path / "run", 8)


# Must break: `_of_episodes` begins each block at `k * BLOCK`, or leaves out the size; in `log_digest`, `is_file` of
# all that is there (a pipe would be waited for).
def test_what_a_digest_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_log, "BLOCK", 16)
    monkeypatch.setattr(same_log, "MOST_BLOCKS", 4)
    folder = tmp_path / "log"
    folder.mkdir()

    def digest(rows: bytes, name: str = "rows.bin") -> str:
        for old in folder.glob("*.bin"):
            old.unlink()
        (folder / name).write_bytes(rows)
        return log_digest(Named(dataset=str(folder)))

    small = bytes(range(60))  # whole, though blocks overlap
    assert len({digest(small[:k] + b"\xff" + small[k + 1 :]) for k in range(60)} | {digest(small)}) == 61
    large = bytes(1000)
    changed = {k: digest(large[:k] + b"\xff" + large[k + 1 :]) != digest(large) for k in range(1000)}
    assert [changed[k] for k in (0, 15, 328, 343, 999, 984)] == [True] * 6
    assert sum(changed.values()) == 64
    assert digest(large) != digest(bytes(999))
    assert digest(large) != digest(large, "starts.bin")
    (folder / "index.json").write_text("{}")
    one = digest(large)
    (folder / "index.json").write_text(json.dumps({"about": "another"}))
    assert digest(large) == one
    shutil.move(folder, tmp_path / "moved")
    assert log_digest(Named(dataset=str(tmp_path / "moved"))) == one
    assert log_digest(Named()) == log_digest(Named(dialogues=str(tmp_path / "none"))) == ""
    os.mkfifo(tmp_path / "pipe")
    assert log_digest(Named(dialogues=str(tmp_path / "pipe"))) == ""
