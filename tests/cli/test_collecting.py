"""seqrl collect: what trained agents, learners and references play becomes a dataset."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_collect import CONFIG

from seqrl.algorithms import train
from seqrl.cli import main
from seqrl.data import EpisodeDataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one problem, and one of another. Tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, kwargs in (("one", "length=3"), ("two", "length=3"), ("other", "length=4")):
        train(replace(CONFIG, env_kwargs=(kwargs,), seed=len(name), run_dir=str(folder / name)))
    return [folder / name for name in ("one", "two", "other")]


def test_from_runs_to_a_dataset(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["collect", str(runs[0]), str(runs[1]), "random", "--episodes", "20", "--num-envs", "4"]
    for name in ("seqrl-TMaze-v0", "seqrl-TMaze-v0_2"):
        assert main(args) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.startswith(f"datasets/{name}: 20 episodes, ")
        assert out.endswith(f"seqrl audit datasets/{name}\n")
    first, again = (EpisodeDataset.open(f"datasets/{name}") for name in ("seqrl-TMaze-v0", "seqrl-TMaze-v0_2"))
    assert first.num_episodes == 20
    assert (first.action == again.action).all()  # the same seed
    assert first.about["env"] == "seqrl/TMaze-v0"
    assert first.about["env_kwargs"] == ["length=3"]
    assert [p["num_episodes"] for p in first.about["policies"]] == [7, 7, 6]
    assert set(first.about) >= {"hide", "flicker", "noise", "source", "seed", "versions"}
    assert main([*args, "--seed", "1", "--no-sample", "--dataset-dir", "else"]) == 0
    assert not np.array_equal(EpisodeDataset.open("else").lengths, first.lengths)


def test_another_problem(tmp_path: Path, runs: list[Path]) -> None:
    folder = tmp_path / "data"
    args = ["collect", str(runs[0]), str(runs[2]), "--episodes", "4", "--dataset-dir", str(folder)]
    assert main([*args, "--env-kwargs", "length=9"]) == 0
    assert EpisodeDataset.open(folder).about["env_kwargs"] == ["length=9"]
    args = ["collect", "random", "--env", "CartPole-v1", "--hide", "1,3", "--episodes", "4", "--noise", "0.1"]
    assert main([*args, "--dataset-dir", str(tmp_path / "hidden")]) == 0
    dataset = EpisodeDataset.open(tmp_path / "hidden")
    assert (dataset.observation_space.shape, dataset.about["hide"], dataset.about["noise"]) == ((2,), [1, 3], 0.1)


def test_learners_and_references_log_histories(tmp_path: Path) -> None:
    """A logged episode of a learner is a whole trial, in which it becomes better."""
    folder = tmp_path / "data"
    args = ["collect", "q_learning", "annealed_oracle", "optimal", "--env", "seqrl/DarkRoom-v0", "--num-envs", "10"]
    args += ["--env-kwargs", "size=3", "goals=train", "num_episodes=60", "episode_steps=6", "--episodes", "30"]
    assert main([*args, "--dataset-dir", str(folder)]) == 0
    dataset = EpisodeDataset.open(folder)
    assert dataset.lengths.tolist() == [360] * 30
    rewards = np.stack([dataset.episode(k).reward.reshape(60, 6).sum(1) for k in range(30)])
    for learner in (rewards[:10], rewards[10:20]):
        assert learner[:, -10:].mean() > learner[:, :10].mean() + 1.5
    assert rewards[20:].min() >= 5  # it needs at most two steps
    assert [p["policy"] for p in dataset.about["policies"]] == ["q_learning", "annealed_oracle", "optimal"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["collect needs a run folder, or random"]),
        (["q_learning"], ["q_learning is not a run folder"]),
        (["q_leaning", "--env", "seqrl/DarkRoom-v0"], ["q_leaning is no run folder", "did you mean 'q_learning'?"]),
        (["ucb1", "--env", "seqrl/DarkRoom-v0"], ["no reference or learner for this environment", "annealed_oracle"]),
        (["annealed_oracle", "--env", "CartPole-v1"], ["annealed_oracle", "not of trials"]),
        (["nowhere"], ["nowhere is not a run folder"]),
        (["random"], ["random actions need an environment", "--env"]),
        (["random", "--env", "Nope-v0"], ["unknown environment 'Nope-v0'"]),
        (["random", "--env", "CartPole-v1", "--episodes", "0"], ["--num-episodes is 0"]),
        (["random", "random", "--env", "CartPole-v1", "--episodes", "1"], ["at least 2"]),
        (["random", "--env", "CartPole-v1", "--epsilon", "nan"], ["--epsilon is nan"]),
        (["random", "--env", "CartPole-v1", "--random-share", "2"], ["--random-share is 2.0"]),
        (["random", "--env", "CartPole-v1", "--num-envs", "0"], ["--num-envs is 0"]),
        (["random", "--env", "CartPole-v1", "--seed", "-1"], ["--seed is -1"]),
        (["random", "--env", "CartPole-v1", "--hide", "7"], ["hide", "7"]),
        (["random", "--env", "CartPole-v1", "--flicker", "2"], ["flicker"]),
        (["random", "--env", "CartPole-v1", "--noise", "nan"], ["noise"]),
        (["random", "--env", "CartPole-v1", "--numepisodes", "3"], ["--numepisodes"]),
        (["{one}", "{other}"], ["--env-kwargs", "the same problem"]),
        (["{one}", "--env", "CartPole-v1"], ["does not fit", "one"]),
        (["{one}", "--dataset-dir", "{one}"], ["exists already", "--dataset-dir"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    args: list[str], words: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    names = {run.name: str(run) for run in runs}
    assert main(["collect", *(arg.format(**names) for arg in args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seqrl: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.rglob("*.bin")) == []


def test_ctrl_c_keeps_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Breaks when the writer does not clear up, or the command says that a run can be continued.
    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".data.*/*.bin")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    flags = ["--env", "CartPole-v1", "--episodes", "10000000", "--dataset-dir", str(tmp_path / "data")]
    assert main(["collect", "random", *flags]) == 130
    thread.join()
    assert capsys.readouterr().err == "seqrl: interrupted; no episodes were kept\n"
    assert list(tmp_path.iterdir()) == []


def test_the_index_is_json(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    assert main(["collect", "random", "--env", "CartPole-v1", "--episodes", "2", "--dataset-dir", str(folder)]) == 0
    about = json.loads((folder / "index.json").read_text())["about"]
    assert about["source"] == "seqrl collect random"
    assert set(about["versions"]) == {"seqrl", "gymnasium", "numpy", "torch"}
