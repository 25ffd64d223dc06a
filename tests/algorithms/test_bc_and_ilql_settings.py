"""Settings of what learns to speak from logs that make no sense, and folders that do not fit."""

# ruff: noqa: F811  the fixture is imported, and tests take it by its name

import pytest
from test_bc_and_ilql import folder, settings  # noqa: F401

from seqrl.algorithms import bc, chai, ilql, load, load_speaker, read_config, train
from seqrl.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dialogues": ""}, "no dialogues given"),
        ({"best_share": 0.0}, "--best-share is 0.0"),
        ({"model": "grue"}, "unknown model 'grue' .--model.: did you mean 'gru'"),
        ({"task": "wordel"}, "unknown task 'wordel'"),
        ({"task_kwargs": ("num_words",)}, "--task-kwargs 'num_words' is not KEY=VALUE"),
        ({"context_turns": -1}, "--context-turns is -1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
        ({"reading_weight": -1.0}, "--reading-weight is -1.0"),
        ({"task": "text_maze", "task_kwargs": ()}, "no token fits"),
    ],
)
def test_bad_settings_of_cloning(folder, changes, message):
    with pytest.raises(UserError, match=message):
        train(bc.Config(**settings(folder, run_dir=str(folder / "run")) | changes))
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "nowhere"}, "nowhere is not a run folder"),
        ({"task_kwargs": (), "task": "twenty_questions"}, "was trained in another vocabulary"),
    ],
)
def test_bad_runs_to_begin_as(folder, changes, message):
    first = settings(folder, run_dir=str(folder / "first"), num_steps=1)
    train(bc.Config(**first))
    with pytest.raises(UserError, match=message):
        train(bc.Config(**first | {"run_dir": str(folder / "run"), "policy": str(folder / "first")} | changes))
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "turn"}, "--level 'turn': choose one of token, utterance"),
        ({"horizon": "word"}, "--horizon 'word': choose one of token, turn"),
        ({"target": "returns"}, "--target 'returns': choose one of bootstrap, return"),
        ({"expectile": 1.0}, "--expectile is 1.0"),
        ({"polyak": 0.0}, "--polyak is 0.0"),
        ({"gamma": 0.0}, "--gamma is 0.0"),
        ({"beta": -1.0}, "--beta is -1.0"),
        ({"heads_only": True, "initial": "fresh"}, "--heads-only with --initial fresh"),
        ({"policy": "nowhere"}, "nowhere is not a run folder"),
        ({"hidden_size": 16}, "--hidden-size 16 is not read: without --initial fresh the values' model begins as"),
        ({"task_kwargs": ("num_words=7",), "task": "twenty_questions"}, "takes no 'num_words'"),
        ({"task_kwargs": (), "task": "twenty_questions"}, "was trained in another vocabulary"),
    ],
)
def test_bad_settings_of_values(folder, changes, message):
    train(bc.Config(**settings(folder, run_dir=str(folder / "policy"), num_steps=1)))
    config = settings(folder, run_dir=str(folder / "run"), policy=str(folder / "policy"))
    with pytest.raises(UserError, match=message):
        train(ilql.Config(**config | changes))
    assert not (folder / "run").exists()


# Broken by sizes that have to be given twice, and by runs that cannot be played though their policy's task is known.
@pytest.mark.parametrize("initial", ["policy", "fresh"])
def test_values_take_the_model_and_the_task_of_their_policy(folder, initial):
    whole = settings(folder, run_dir=str(folder / "policy"), num_steps=1)
    train(bc.Config(**whole))
    sizes = {"model", "hidden_size", "num_layers", "num_heads", "context_length"}
    few = {name: value for name, value in whole.items() if name not in {"task", "task_kwargs", *sizes}}
    run = str(folder / "run")
    train(ilql.Config(**few | {"run_dir": run, "policy": str(folder / "policy"), "initial": initial}))
    policy, values = read_config(folder / "policy"), read_config(run)
    assert (values.task, values.task_kwargs) == (policy.task, policy.task_kwargs)
    assert values.hidden_size == (policy.hidden_size if initial == "policy" else bc.Config().hidden_size)
    load_speaker(run)
    train(chai.Config(**few | {"run_dir": str(folder / "chai"), "policy": str(folder / "policy")}))
    assert read_config(folder / "chai").task == policy.task


def test_what_speaks_does_not_act(folder):
    train(bc.Config(**settings(folder, run_dir=str(folder / "run"), num_steps=1)))
    with pytest.raises(UserError, match="load_speaker"):
        load(folder / "run")
    (folder / "run" / "vocabulary.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocabulary\.json is damaged"):
        load_speaker(folder / "run")
