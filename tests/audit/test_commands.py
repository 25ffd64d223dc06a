"""seqrl audit, import and export of datasets, by the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_of_episodes import sound, write

from seqrl.cli import main
from seqrl.data import EpisodeDataset


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "data", sound())
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert main(["audit", str(folder)]) == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert main(["audit", str(folder), "--output", str(tmp_path / "audit.json"), "--max-rows", "300"]) == 0
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["sound"] is True
    assert {finding["check"] for finding in written["findings"]} >= {"episodes", "leaks"}
    assert "a sample" in capsys.readouterr().out


def test_from_arrays_to_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    ends = np.arange(30) % 10 == 9
    np.savez("mine.npz", observations=random.normal(size=(30, 4)), actions=random.integers(0, 2, 30),
             rewards=random.normal(size=30), terminals=ends)  # fmt: skip
    for name in ("mine", "mine_2"):
        assert main(["import", "mine.npz"]) == 0
        assert capsys.readouterr().out.startswith(f"datasets/{name}: 3 episodes, ")
    assert main(["import", "mine.npz", "--dataset-dir", "given", "--env", "CartPole-v1"]) == 0
    dataset = EpisodeDataset.open("given")
    assert dataset.observation_space.high[0] == np.float32(4.8)  # the environment's, not what was seen
    assert dataset.about["env"] == "CartPole-v1"


def test_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    lines = ["run,observation,action,reward,terminated"]
    lines += [f"{k},{t / 7},{t % 2},1.5,{int(t == 4)}" for k in range(3) for t in range(5)]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "data"
    args = ["import", str(tmp_path / "mine.csv"), "--dataset-dir", str(folder), "--episode-column", "run"]
    assert main(args) == 0
    assert EpisodeDataset.open(folder).lengths.tolist() == [5, 5, 5]


def test_to_minari_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    folder = write(tmp_path / "data", sound(12))
    assert main(["export", str(folder), "--to-minari", "sound/random-v0"]) == 0
    assert main(["import", "minari:sound/random-v0", "--dataset-dir", str(tmp_path / "back")]) == 0
    first, second = EpisodeDataset.open(folder), EpisodeDataset.open(tmp_path / "back")
    assert (first.observation == second.observation).all()
    assert (first.starts == second.starts).all()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["audit"], ["audit needs a dataset folder"]),
        (["audit", "nowhere"], ["nowhere holds no logged episodes"]),
        (["audit", "nowhere", "--max-rows", "0"], ["--max-rows is 0"]),
        (["audit", "nowhere", "--seed", "-1"], ["--seed is -1"]),
        (["audit", "data", "--output", "/proc/nowhere/x.json"], ["cannot write", "--output"]),
        (["audit", "data", "--output", "data/index.json"], ["data/index.json exists already"]),
        (["audit", "data", "--outptu", "x"], ["--outptu"]),
        (["import"], ["import needs a file"]),
        (["import", "nowhere.npz"], ["nowhere.npz does not exist"]),
        (["import", "nowhere.npz", "--env-kwargs", "a=1"], ["--env-kwargs needs --env"]),
        (["import", "nowhere.npz", "--episode-column", "a"], ["--episode-column is for tables"]),
        (["import", "nowhere.npz", "--unfinished", "never"], ["never"]),
        (["import", "nowhere.npz", "--env", "Nope-v0"], ["unknown environment 'Nope-v0'"]),
        (["export"], ["export needs a run folder, or a dataset, named first"]),
        (["export", "data"], ["--to-minari NAME-v0"]),
        (["export", "nowhere"], ["there is no folder nowhere"]),
        (["export", "nowhere", "--to-minari", "x-v0"], ["there is no folder nowhere"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str],
    words: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data", sound(3))
    before = sorted(tmp_path.rglob("*"))
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seqrl: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert sorted(tmp_path.rglob("*")) == before
