"""seqrl ship, seqrl frontier and seqrl turns: exit statuses, files, messages."""

import dataclasses
import importlib
import json
import shutil
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from off_policy.test_shipping import GOOD
from rated import tuned

from seqrl.algorithms import dpo, ilql, load_speaker, train
from seqrl.cli import main, shipping
from seqrl.cli.shipping import Ship
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.errors import UserError
from seqrl.language.generation import Plain
from seqrl.language.logging import logged_play
from seqrl.language.scripted import scripted_dialogues
from seqrl.off_policy import FittedConfig, Requirements, checks
from seqrl.reports import shipping as report_shipping
from seqrl.text import make_task

TASK = make_task("wordle", num_words=3)
QUICK = ("--num-iterations", "1", "--num-resamples", "100")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of ilql (and of bc, its policy) after two updates, the log of it, and a log of the policy's."""
    path = tmp_path_factory.mktemp("shipping")
    write_dialogues(path / "learnt.jsonl", scripted_dialogues(TASK, ["random"], 12, seed=0))
    config = ilql.Config(
        dialogues=str(path / "learnt.jsonl"), task="wordle", task_kwargs=("num_words=3",), model="gru", hidden_size=8,
        num_steps=2, batch_size=4, run_dir=str(path / "run"), beta=1.0, max_tokens=8,
    )  # fmt: skip
    train(config)
    # An untrained model hardly ends its utterances, so what it would say of scripted ones is written in their place.
    held_out = [
        dataclasses.replace(
            each,
            id=f"other-{each.id}",
            turns=tuple(
                dataclasses.replace(turn, propensity=1 / 3) if turn.speaker == each.agent else turn
                for turn in each.turns
            ),
        )
        for each in scripted_dialogues(TASK, ["random"], 10, seed=1)
    ]
    write_dialogues(path / "held_out.jsonl", held_out)
    write_dialogues(path / "silent.jsonl", [Dialogue(id="s", agent="a", turns=(Turn(speaker="b", text="x"),))])
    shutil.copytree(path / "run", path / "no_task")
    settings = json.loads((path / "run" / "config.json").read_text()) | {"task": "", "task_kwargs": []}
    (path / "no_task" / "config.json").write_text(json.dumps(settings))
    return path


def test_ship_writes_what_it_found_and_does_not_ship(folder, capsys):
    assert main(["ship", str(folder / "run"), "--dialogues", str(folder / "held_out.jsonl"), *QUICK]) == 1
    said = capsys.readouterr().out
    assert "DO NOT SHIP" in said
    assert "weighted doubly robust" in said
    content = json.loads((folder / "run" / "shipping.json").read_text())
    assert content["verdict"] == "do not ship"
    assert content["num_dialogues"] == 10
    assert content["command"].startswith("seqrl ship ")
    assert {check["name"]: check["passed"] for check in content["checks"]}["enough dialogues"] is False
    assert content["estimates"]["fitted Q evaluation"]["low"] is None
    assert matplotlib.image.imread(folder / "run" / "shipping.png").shape[:2] == (1110, 1425)
    assert not list((folder / "run").glob(".*"))


def test_ship_says_ship(folder, capsys, monkeypatch):
    """Breaks if the exit status is not the verdict's."""
    monkeypatch.setattr(shipping, "evaluate_logged", lambda *args, **kwargs: GOOD)
    assert main(["ship", str(folder / "run"), "--dialogues", str(folder / "held_out.jsonl")]) == 0
    assert "\nSHIP" in capsys.readouterr().out
    assert json.loads((folder / "run" / "shipping.json").read_text())["verdict"] == "ship"


def test_a_run_of_bc_ships_too_and_needs_no_fitted_values(folder, capsys):
    run = folder / "run_policy"
    assert main(["ship", str(run), "--dialogues", str(folder / "held_out.jsonl"), "--no-fit", *QUICK[2:]]) == 1
    said = capsys.readouterr().out
    assert "Values were not fitted." in " ".join(said.split())
    assert "doubly robust" not in said


def test_what_was_learnt_from_is_found(folder, tmp_path):
    """By the file, or by id and words. Breaks if the policy's log is not looked at, or the words alone are compared."""
    learnt = list(read_dialogues(folder / "learnt.jsonl"))
    run, copy = folder / "run", str(tmp_path / "copy.jsonl")
    assert shipping.num_learnt_from(run, learnt, str(folder / "learnt.jsonl")) == 12
    other = [dataclasses.replace(each, id=f"new-{each.id}") for each in learnt[3:]]
    assert shipping.num_learnt_from(run, [*learnt[:3], *other], copy) == 3
    held_out = list(read_dialogues(folder / "held_out.jsonl"))
    assert shipping.num_learnt_from(run, held_out, str(folder / "held_out.jsonl")) == 0


# Broken by a ship that does not hand `not_found` to `checks`.
def test_what_may_have_been_learnt_from_but_is_not_there_does_not_ship(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shipping, "evaluate_logged", lambda *args, **kwargs: GOOD)
    monkeypatch.setattr(report_shipping, "write", lambda *args: [])
    run = shutil.copytree(folder / "run_policy", tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"dialogues": "gone.jsonl"}))
    assert main(["ship", str(run), "--dialogues", str(folder / "held_out.jsonl")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "NO held out Not known, as what it learnt from is not found: gone.jsonl." in said


@pytest.fixture(params=["ours", "a copy"])
def algorithm(request, tmp_path, monkeypatch):
    """dpo, or a user's copy of its file."""
    shutil.copy(dpo.__file__, tmp_path / "copied_dpo.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "copied_dpo", raising=False)
    return dpo if request.param == "ours" else importlib.import_module("copied_dpo")


# Broken by `agent.cloned()` of a run of dpo or of a copy, whose weights would all be 1; by a policy that must be there
# for nothing.
def test_what_stands_in_for_the_log_is_what_the_run_began_as(folder, tmp_path, algorithm):
    pair = [(Turn(speaker="assistant", text=text),) for text in ("ivory", "onion")]
    write_preferences(tmp_path / "p.jsonl", [Preference(id="p", prompt=(), chosen=pair[0], rejected=pair[1])] * 2)
    config = algorithm.Config(
        policy=str(folder / "run_policy"), preferences=str(tmp_path / "p.jsonl"), run_dir=str(tmp_path / "dpo"),
        num_steps=1, warmup=0, held_out=0.0,
    )  # fmt: skip
    agent, run = algorithm.train(config), tmp_path / "dpo"
    logged = list(read_dialogues(folder / "held_out.jsonl"))
    bare = list(read_dialogues(folder / "learnt.jsonl"))  # without propensities

    def weights(voice):
        assert isinstance(voice, Plain)
        return torch.cat([parameter.flatten() for parameter in voice.model.parameters()])

    began = weights(load_speaker(folder / "run_policy").voice())
    assert not torch.equal(weights(agent.voice()), began)
    assert torch.equal(weights(shipping._behaviour(agent, run, Ship(), bare)), began)
    named = shipping._behaviour(agent, folder / "run", Ship(behaviour=str(run)), bare)
    assert torch.equal(weights(named), weights(agent.voice()))
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"policy": "gone"}))
    shipping._behaviour(agent, run, Ship(), logged)
    with pytest.raises(UserError, match=r"policy gone .* is not there.*--behaviour"):
        shipping._behaviour(agent, run, Ship(), bare)


# Broken by `cloned` left out of TunedAgent.
def test_what_was_fine_tuned_by_rewards_was_cloned_as_its_reference():
    agent = tuned(move=1.0)
    assert agent.cloned().voice().model is agent.reference


def test_help_tells_how_many_updates_an_iteration_has(capsys):
    with pytest.raises(SystemExit):
        main(["ship", "--help"])
    assert f"of {FittedConfig().updates_per_iteration} updates each" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["ship"], "needs a run folder"),
        (["ship", "{run}"], "no dialogues given"),
        (["ship", "{run}", "--dialogues", "missing.jsonl"], "cannot read missing.jsonl"),
        (["ship", "missing", "--dialogues", "{log}"], "not a run folder"),
        (["ship", "{run}_policy", "--dialogues", "{log}", "--beta", "1"], "--beta steers by values"),
        (["ship", "{run}", "--dialogues", "{log}", "--gamma", "1.5"], "--gamma is 1.5"),
        (["ship", "{run}", "--dialogues", "{log}", "--beta", "nan"], "--beta is nan"),
        (["ship", "{run}", "--dialogues", "{log}", "--baseline", "nan"], "--baseline is nan"),
        (["ship", "{run}", "--dialogues", "{log}", "--num-resamples", "5"], "--num-resamples is 5"),
        (["ship", "{run}", "--dialogues", "{log}", "--max-share", "0"], "--max-share is 0"),
        (["ship", "{run}", "--dialogues", "{log}", "--min-effective-size", "0"], "--min-effective-size is 0"),
        (["ship", "{run}", "--dialogues", "{log}", "--num-iterations", "0"], "--num-iterations is 0"),
        (["frontier"], "needs a run folder"),
        (["frontier", "{run}_policy"], "no values of tokens to steer by"),
        (["frontier", "{run}", "--betas", "-1"], "beta is -1.0"),
        (["frontier", "{run}", "--num-dialogues", "1"], "at least 2"),
        (["frontier", "{no_task}"], "seqrl ship {no_task} --dialogues HELD_OUT --betas"),
        (["turns"], "needs a run folder"),
        (["turns", "{run}", "--dialogues", "{silent}"], "the agent never speaks in {silent}"),
        (["turns", "{run}"], "no dialogues given"),
        (["turns", "{run}", "--dialogues", "{log}", "--worst", "-1"], "0 or more"),
        (["turns", "{run}", "--dialogues", "{log}", "--output", "{log}"], "exists already"),
        (["turns", "{run}", "--dialogues", "{log}", "--output", "no/such/folder.jsonl"], "cannot write"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(folder, capsys, args, words):
    known = {
        "run": folder / "run", "log": folder / "held_out.jsonl", "no_task": folder / "no_task",
        "silent": folder / "silent.jsonl",
    }  # fmt: skip
    assert main([arg.format(**known) for arg in args]) == 2
    said = capsys.readouterr().err
    assert words.format(**known) in said
    assert said.count("\n") == 1


def test_frontier(folder, capsys):
    assert main(["frontier", str(folder / "run"), "--betas", "0,2", "--num-dialogues", "4"]) == 0
    said = capsys.readouterr().out
    assert "KL, dialogue" in said
    content = json.loads((folder / "run" / "frontier.json").read_text())
    assert [point["beta"] for point in content["points"]] == [0.0, 2.0]
    assert content["points"][0]["kl_of_token"]["mean"] == 0
    assert content["points"][1]["kl_of_token"]["mean"] > 0
    assert (folder / "run" / "frontier.png").is_file()


def test_turns(folder, capsys, tmp_path):
    """Values add up by the run's own γ; the exported lines are ASCII."""
    output = tmp_path / "turns.jsonl"
    flags = ["--worst", "2", "--best", "500", "--by", "change", "--output", str(output)]
    assert main(["turns", str(folder / "run"), "--dialogues", str(folder / "held_out.jsonl"), *flags]) == 0
    said = capsys.readouterr().out
    assert "greatest falls" in said
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    worst = [line for line in lines if line["list"] == "worst"]
    assert len(worst) <= 2
    assert all(line["change"] < 0 for line in worst)
    power = 0.99**5  # five letters, and the end
    for line in lines:
        after = power * (line["reward"] + 0.99 * line["after"])
        assert line["change"] == pytest.approx(after - line["before"], abs=1e-5)


# Broken by a table that is left out without a word.
def test_turns_that_never_fall_are_told(folder, capsys, monkeypatch):
    monkeypatch.setattr(shipping, "extremes", lambda found, number, by: ([], []))
    flags = ["--dialogues", str(folder / "held_out.jsonl"), "--by", "reply"]
    assert main(["turns", str(folder / "run"), *flags, "--best", "0"]) == 0
    said = capsys.readouterr().out
    assert "no falls of" in said
    assert "turns in held_out.jsonl, by reply" in said
    assert "rises" not in said


def test_a_title_is_text(tmp_path):
    """Dollars are no formula on the page, and markup in a file's name is none in the terminal's table."""
    results = checks(GOOD, Requirements(baseline=1.2), 3)
    picture = report_shipping.plot(GOOD, results, Requirements(baseline=1.2), "a $ of $ [bold]")
    assert picture.startswith(b"\x89PNG")
    assert "[bold]" in str(report_shipping.figures_table(GOOD, r"\[bold]").title)


def test_a_log_of_the_policy_itself_is_as_good_as_the_log(folder, tmp_path, capsys):
    """Propensities are those that `ship` computes. Breaks if other tokens may be said there than here."""
    agent = load_speaker(folder / "run_policy")
    played = [each for each in logged_play(TASK, agent.voice(), 40, seed=3, max_tokens=64) if readable(each)]
    path = tmp_path / "own.jsonl"
    write_dialogues(path, played)
    main(["ship", str(folder / "run_policy"), "--dialogues", str(path), "--no-fit", *QUICK[2:]])
    content = json.loads((folder / "run_policy" / "shipping.json").read_text())
    assert content["effective_size"] == pytest.approx(len(played), rel=1e-3)
    assert content["gain"]["value"] == pytest.approx(0, abs=1e-3)


def readable(dialogue: Dialogue) -> bool:
    """Whether every turn of the agent was ended by itself."""
    mine: list[Turn] = [turn for turn in dialogue.turns if turn.speaker == dialogue.agent]
    return all(turn.propensity is not None for turn in mine)
