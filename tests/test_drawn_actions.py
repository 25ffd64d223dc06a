"""How a finished agent acts: by its likeliest actions, or by drawn ones where these bring more."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqrl.algorithms import draws, impala, load, ppo, r2d2, resume, train
from seqrl.cli import main
from seqrl.comparison.advice import advice
from seqrl.comparison.online import Config, compare
from seqrl.comparison.report import Comparison
from seqrl.errors import UserError
from seqrl.evaluations import Evaluations
from seqrl.run_folder import read_metrics
from tests.comparison.test_advice import row

SMALL: dict[str, Any] = {
    "env": "tests.doors:Doors-v0",
    "memory": "none",
    "num_envs": 2,
    "rollout_length": 8,
    "hidden_size": 8,
}
SMALL |= {"num_steps": 64, "num_evaluations": 2, "evaluation_episodes": 20, "actions": "best"}
CONFIGS = {"ppo": ppo.Config(**SMALL), "impala": impala.Config(batch_size=1, **SMALL)}


def ways(agent: Any, **act: Any) -> set[int]:
    """The doors that an agent opens in 100 episodes that look alike."""
    agent.reset()
    return set(np.asarray(agent.act(np.zeros(100, int), **act)).tolist())


@pytest.mark.parametrize("name", CONFIGS)
def test_it_draws_where_that_brings_more(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    agent = train(replace(CONFIGS[name], run_dir=str(folder)))
    *_, last = read_metrics(folder)
    assert last["draws"] == 1.0
    assert last["drawn_return"] > last["likeliest_return"] + 0.4
    assert last["eval_return"] < 0.6  # breaks where evaluations draw before it was chosen
    for each in (agent, load(folder), resume(folder)):
        assert each.draws  # breaks where a checkpoint does not hold it, or `load` does not read it
        assert ways(each) == {0, 1, 2, 3}  # breaks where `act` looks at `sample` alone
        assert len(ways(each, sample=False)) == 1
    assert draws(folder)
    assert not draws(tmp_path / "none")


def test_of_several_learners_the_agent_that_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Breaks where what spawned them takes the weights alone from their run."""

    def alone(share: Any, number: int, config: impala.Config, resume: bool, *, cuda: bool) -> None:
        train(replace(config, num_learners=1))

    monkeypatch.setattr(impala, "spawn", alone)
    config = replace(CONFIGS["impala"], num_actors=2, batch_size=2, num_learners=2, run_dir=str(tmp_path / "run"))
    assert train(config).draws


def test_values_have_nothing_to_draw_by(tmp_path: Path) -> None:
    """The actions of Q-learning are the same either way: the likeliest stay."""
    config = r2d2.Config(**SMALL, length=4, overlap=1, burn_in=2, batch_size=2, learning_starts=20, replay_capacity=100)
    assert not train(replace(config, run_dir=str(tmp_path / "run"))).draws
    *_, last = read_metrics(tmp_path / "run")
    assert last["drawn_return"] == last["likeliest_return"]


def test_nothing_else_changes(tmp_path: Path) -> None:
    """Breaks where drawn actions come from the run's own generators."""
    one, two = (
        train(replace(CONFIGS["ppo"], actions=way, run_dir=str(tmp_path / way))) for way in ("best", "likeliest")
    )
    assert not two.draws
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_drawn_throughout(tmp_path: Path) -> None:
    agent = train(replace(CONFIGS["ppo"], actions="drawn", run_dir=str(tmp_path / "run")))
    *_, last = read_metrics(tmp_path / "run")
    assert last["eval_return"] > 0.8  # breaks where evaluations take the likeliest actions all the same
    assert "drawn_return" not in last
    assert agent.draws
    assert load(tmp_path / "run").draws
    without = replace(CONFIGS["ppo"], actions="drawn", num_evaluations=0, run_dir=str(tmp_path / "without"))
    assert train(without).draws
    assert load(tmp_path / "without").draws  # breaks where what was not evaluated never draws


def test_it_is_chosen_anew_where_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(replace(CONFIGS["ppo"], run_dir=str(tmp_path / "run")))
    played: list[tuple[int, bool]] = []

    def play(self: Evaluations, purpose: int) -> list[float]:
        played.append((purpose, self.agent.draws))
        return [1.0, 2.0, 3.0]

    monkeypatch.setattr(Evaluations, "_play", play)
    assert not resume(tmp_path / "run", 128).draws
    # Breaks where evaluations go on by what was chosen at the first end.
    assert played == [(0, False), (1, False), (1, True)]


@pytest.mark.parametrize(
    ("others", "kept", "drawing"),
    [
        ([[3, 3, 3], [5, 5, 5], [4, 4, 4]], 2, True),  # breaks where the best weights stay when the last agent draws
        ([[3, 3, 3], [4, 4, 4], [5, 5, 5]], 1, False),  # breaks where drawing is compared with the last agent alone
        ([[3, 3, 3], [1, 5, 9], [3, 3, 3]], 2, False),  # 2 ± 9.9; breaks where the interval is left out
        ([[3, 3, 3], [4, 4, 4], [3, 3, 3]], 2, True),
    ],
)
def test_which_agent_and_how(
    others: list[list[float]], kept: int, drawing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    again = iter(others)

    def play(self: Evaluations, purpose: int) -> list[float]:
        if purpose:
            return next(again)
        seen.append({key: value.clone() for key, value in self.agent.state_dict().items()})
        return [[1.0], [5.0], [3.0]][len(seen) - 1] * 3

    monkeypatch.setattr(Evaluations, "_play", play)
    config = replace(CONFIGS["ppo"], num_steps=96, num_evaluations=3, keep="best", run_dir=str(tmp_path / "run"))
    agent = train(config)
    assert agent.draws == drawing
    assert all(torch.equal(value, seen[kept][key]) for key, value in agent.state_dict().items())
    *_, last = read_metrics(tmp_path / "run")
    assert last["kept_return"] == (5.0 if kept == 1 else 3.0)


def test_commands_play_as_was_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, figures = tmp_path / "run", tmp_path / "played.json"
    train(replace(CONFIGS["ppo"], run_dir=str(folder)))
    for flags, sample in (([], True), (["--no-sample"], False)):
        assert main(["evaluate", str(folder), "--num-episodes", "40", "--output", str(figures), *flags]) == 0
        title = " ".join(capsys.readouterr().out.split())
        assert (", actions drawn" in title) == sample
        played = json.loads(figures.read_text())
        assert played["sample"] == sample
        assert (np.mean(played["returns"]) > 0.8) == sample
        figures.unlink()
    assert main(["inspect", str(folder), "--num-episodes", "1"]) == 0
    assert "actions drawn from the policy" in (folder / "episodes.html").read_text()
    assert main(["report", str(folder)]) == 0
    assert "of the agent that is kept, which draws" in (folder / "report.html").read_text()


def test_evaluations_that_bring_less_than_training_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, told = tmp_path / "run", "compare --sample, or train with --actions best"
    config = replace(CONFIGS["ppo"], actions="likeliest", num_evaluations=0, num_steps=320, run_dir=str(folder))
    train(config)
    assert main(["evaluate", str(folder)]) == 0
    assert "Training, which draws actions, ended with" in (words := capsys.readouterr().out)
    assert told in words
    lines = [json.dumps(line | {"episode_return": 9.0}) for line in read_metrics(folder)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    # Breaks where what another environment brings, or drawn actions do, is held against training.
    for flags in (["--sample"], ["--env", "tests.doors:Doors-v0"]):
        assert main(["evaluate", str(folder), *flags]) == 0
        assert told not in capsys.readouterr().out
    (folder / "metrics.jsonl").write_text("\n".join(lines[:9]) + "\n")
    assert main(["evaluate", str(folder)]) == 0
    assert told not in capsys.readouterr().out  # breaks where a few updates are enough


def test_a_comparison_plays_its_agents_as_they_act(tmp_path: Path, forked_comparisons: None) -> None:
    settings = replace(CONFIGS["ppo"], run_dir=str(tmp_path / "compared"))
    result = compare(Config(memories=("none", "gru"), num_seeds=1, num_episodes=40, workers=1, settings=settings))
    assert all(each.drawn == [True] and each.mean > 0.8 for each in result.rows)
    assert [each.final_means for each in result.rows] == [each.seed_means for each in result.rows]
    words = (tmp_path / "compared" / "table.md").read_text()
    assert "seeds that act by drawn actions, which bring more than the likeliest: none 1/1, gru 1/1" in words
    assert "none_s0, which acts by drawn actions." in words


def test_the_advice_says_it_of_the_run_that_it_names() -> None:
    told = row("none", 1.0, 0.9, runs=["runs/none_s0", "runs/none_s1"], drawn=[False, True])
    result = Comparison(env="Doors-v0", num_steps=1, num_episodes=2, optimal=None, memoryless=None, rows=[told])
    assert "likeliest: none 1/2" in result.caption()  # breaks where one seed of several does not count
    assert advice(result).endswith("Its best run is runs/none_s0.")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"actions": "greedy"}, "--actions 'greedy': choose likeliest, drawn or best"),
        (
            {"num_evaluations": 0},
            "--actions best needs evaluations to choose by: give --num-evaluations 10, or --actions likeliest",
        ),
        (
            {"num_evaluations": 0, "keep": "best"},
            "--keep best and --actions best need evaluations to choose by: give --num-evaluations 10, or --keep last "
            "--actions likeliest",
        ),
        (
            {"evaluation_episodes": 1},
            "--actions best needs more than --evaluation-episodes 1: what is chance in a return takes at least 2 "
            "to tell",
        ),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(replace(CONFIGS["ppo"], **settings, run_dir=str(tmp_path / "run")))
    assert str(caught.value) == problem
