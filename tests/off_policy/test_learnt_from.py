"""Which logs a run learnt from, along the chain of its policies, from wherever it is asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.off_policy.learnt_from import not_found, num_learnt_from, policy_of


def run(name: str, file: str = "config.json", **settings: Any) -> None:
    """A run folder of that config, as training in the current folder writes it."""
    Path(name).mkdir(parents=True, exist_ok=True)
    (Path(name) / file).write_text(json.dumps({"type": "bc", "run_dir": name, **settings}))


def log(name: str, *ids: str) -> list[Dialogue]:
    dialogues = [Dialogue(id=each, agent="a", turns=(Turn(speaker="a", text="x"),)) for each in ids]
    write_dialogues(name, dialogues)
    return dialogues


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are trained: rlhf on prompts, begun as dpo, begun as bc; and ilql, which steers a run of bc."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    log("cloned.jsonl", "1", "2", "3")
    log("asked.jsonl", "4", "5")
    log("own.jsonl", "6")
    run("runs/bc", dialogues="cloned.jsonl", policy="")
    run("runs/dpo", dialogues="", preferences="p.jsonl", policy="runs/bc")
    run("runs/rlhf", dialogues="", prompts="asked.jsonl", policy="runs/dpo")
    run("runs/ilql", dialogues="own.jsonl", policy="runs/bc")
    run("runs/ilql", "policy.json", dialogues="cloned.jsonl", policy="", run_dir="runs/bc")
    return tmp_path / "there"


# Broken by `LOGS` without prompts; a chain that ends after one policy; names that are looked up in the current folder
# alone (`started` left out), or in the run's own place alone.
@pytest.mark.parametrize("place", ["there", "there/runs", "elsewhere"])
def test_all_logs_of_the_chain_count(there: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(there.parent / place)
    own = {
        "bc": {"cloned": 3},
        "dpo": {"cloned": 3},
        "rlhf": {"cloned": 3, "asked": 2},
        "ilql": {"cloned": 3, "own": 1},
    }
    for name, learnt in own.items():
        folder = Path("dpo").parent / name if place.endswith("runs") else there / "runs" / name
        assert not_found(folder) == []
        for each in ("cloned", "asked", "own"):
            dialogues = list(read_dialogues(there / f"{each}.jsonl"))
            assert num_learnt_from(folder, dialogues, "copy.jsonl") == learnt.get(each, 0), (name, each)
    (there / "thumbs.jsonl").write_text('{"prompt": "a", "completion": "b", "label": true}\n')
    for thumbs, learnt in (("asked.jsonl", 2), ("thumbs.jsonl", 0)):  # kto learns from logs too
        run(str(there / "runs/kto"), dialogues="", thumbs=str(there / thumbs), policy=str(there / "runs/bc"))
        asked = list(read_dialogues(there / "asked.jsonl"))
        assert num_learnt_from(there / "runs/kto", asked, "copy.jsonl") == learnt
        assert not_found(there / "runs/kto") == []
    half = [*log("half.jsonl", "2", "9", "3")]
    assert num_learnt_from(there / "runs/dpo", half, "half.jsonl") == 2
    assert num_learnt_from(there / "runs/dpo", half, str(there / "cloned.jsonl")) == 3  # the very file
    assert policy_of(there / "runs/dpo") == there / "runs/bc"


# Broken by a policy's run that is passed over, `policy.json` that is not read, or whose names are not looked up where
# the run's are (`others` left out).
def test_what_is_not_there_is_named(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("asked.jsonl").unlink()
    assert not_found(Path("runs/rlhf")) == ["asked.jsonl"]
    assert num_learnt_from(Path("runs/rlhf"), list(read_dialogues("cloned.jsonl")), "x") == 3
    Path("runs/bc").rename("runs/moved")
    assert not_found(Path("runs/rlhf")) == ["asked.jsonl", "runs/bc"]
    assert policy_of(Path("runs/dpo")) is None
    Path("runs/ilql").rename("moved")  # from here, where its names were given, it is still known
    assert not_found(Path("moved")) == []  # it has a copy of its policy's config
    monkeypatch.chdir("..")
    assert not_found(Path("there/moved")) == ["own.jsonl", "cloned.jsonl"]
    Path("there/moved").rename("there/runs/ilql")
    assert not_found(Path("there/runs/ilql")) == []


# Broken by `seen` left out: it would never end.
def test_runs_in_a_circle(there: Path) -> None:
    run("runs/bc", dialogues="cloned.jsonl", policy="runs/dpo")  # written anew since
    assert not_found(Path("runs/dpo")) == ["runs/dpo"]


# Broken by the id alone: each side has its own.
def test_a_dialogue_seen_from_the_other_side_was_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turns = Turn(speaker="a", text="two?"), Turn(speaker="b", text="one")
    sides = [Dialogue(id=f"7-{agent}", agent=agent, turns=turns, meta={"dialogue": 7}) for agent in "ab"]
    write_dialogues("a.jsonl", sides[:1])
    run("runs/bc", dialogues="a.jsonl", policy="")
    assert num_learnt_from(Path("runs/bc"), sides[1:], "b.jsonl") == 1
    others = [replace(sides[1], meta={"dialogue": 8}), replace(sides[1], turns=turns[:1])]
    assert num_learnt_from(Path("runs/bc"), others, "b.jsonl") == 0
