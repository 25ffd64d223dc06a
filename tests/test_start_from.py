"""A run that begins as another run's trained agent."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqrl.algorithms import impala, load, ppo, r2d2, recurrent_sac, resume, train
from seqrl.checkpoint import load_checkpoint, save_checkpoint
from seqrl.cli import main

SMALL: dict[str, Any] = {"hidden_size": 16, "num_envs": 2, "memory": "gru", "num_evaluations": 1}
CONFIGS = {
    "ppo": ppo.Config(env="seqrl/MaskedCartPole-v0", rollout_length=8, **SMALL),
    "impala": impala.Config(env="seqrl/MaskedCartPole-v0", rollout_length=8, batch_size=1, **SMALL),
    "r2d2": r2d2.Config(env="seqrl/MaskedCartPole-v0", learning_starts=130, replay_capacity=2_000, **SMALL),
    "sac": recurrent_sac.Config(env="seqrl/MaskedPendulum-v0", learning_starts=130, replay_capacity=2_000, **SMALL),
}
STILL = 1e-12
"""A learning rate at which weights stay what they were, to float32's last bit."""


def networks(folder: Path) -> dict[str, torch.Tensor]:
    tree, _ = load_checkpoint(folder / "checkpoint.safetensors")
    parts = {name: tree[name] for name in ("agent", "critic", "target", "temperature") if name in tree}
    return {
        f"{name}.{key}": leaf
        for name, part in parts.items()
        for key, leaf in part.items()
        # Running statistics of observations go on, and SAC's target follows its critic.
        if leaf.is_floating_point() and "norm" not in key and not (name == "target" and "critic" in tree)
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    for name, config in CONFIGS.items():
        train(replace(config, num_steps=320, learning_rate=0.01, seed=1, run_dir=str(folder / name)))
    return {name: folder / name for name in CONFIGS}


# Break: NETWORKS without "critic", or `take_over` that is not called.
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_begins_as_the_agent_of_another(trained, tmp_path, name):
    config = replace(CONFIGS[name], num_steps=240, learning_rate=STILL, seed=2)
    train(replace(config, start_from=str(trained[name]), run_dir=str(tmp_path / "run")))
    train(replace(config, run_dir=str(tmp_path / "fresh")))
    earlier, begun, fresh = (networks(folder) for folder in (trained[name], tmp_path / "run", tmp_path / "fresh"))
    assert earlier.keys() == begun.keys()
    for key, leaf in earlier.items():
        torch.testing.assert_close(begun[key], leaf, rtol=0, atol=1e-6, msg=key)
    assert any(not torch.allclose(fresh[key], leaf, atol=1e-3) for key, leaf in earlier.items())
    assert json.loads((tmp_path / "run/config.json").read_text())["start_from"] == str(trained[name])


# Break: `take_over` of new runs only, or again where a checkpoint is there.
def test_resuming_starts_from_it_only_before_the_first_checkpoint(trained, tmp_path):
    config = replace(CONFIGS["ppo"], num_steps=32, learning_rate=STILL, start_from=str(trained["ppo"]))
    train(replace(config, run_dir=str(tmp_path / "run")))
    begun = networks(tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").unlink()  # as if killed before it
    resume(tmp_path / "run")
    assert all(torch.equal(leaf, begun[key]) for key, leaf in networks(tmp_path / "run").items())
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "run", moved)
    settings = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(settings | {"start_from": str(tmp_path / "gone")}))
    load(moved)
    resume(moved, num_steps=64)


# Break: `start_from` left as it was by `Run.restore`: "ppo takes over no agent".
def test_a_run_that_was_stopped_before_its_first_update_goes_on(trained, tmp_path):
    config = replace(CONFIGS["ppo"], num_steps=32, learning_rate=STILL, start_from=str(trained["ppo"]))
    train(replace(config, run_dir=str(tmp_path / "run")))
    path = tmp_path / "run/checkpoint.safetensors"
    tree, counters = load_checkpoint(path)
    save_checkpoint(path, tree, counters | {"step": 0, "updates": 0})
    resume(tmp_path / "run")
    for key, leaf in networks(trained["ppo"]).items():
        torch.testing.assert_close(networks(tmp_path / "run")[key], leaf, rtol=0, atol=1e-6, msg=key)


# Break: no word in `check`: each memory but one would fail once its runs begin.
def test_a_comparison_starts_from_nothing(trained, tmp_path, capsys):
    args = ["compare", "seqrl/MaskedCartPole-v0", "--start-from", str(trained["ppo"]), "--run-dir", str(tmp_path / "c")]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert "what is compared learns from the start" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--memory", "lstm"), "has --memory gru, not lstm: give the same"),
        (("--hidden-size", "32"), "has --hidden-size 16, not 32: give the same"),
        (("--previous-action",), "has --previous-action False, not True: give the same"),
        (("--separate-critic",), "has --separate-critic False, not True: give the same"),
        (("--env", "CartPole-v1"), "was trained on another space: observation is Box("),
        (
            ("--env", "Acrobot-v1", "--hide", "0,1,2,3"),
            "was trained on another space: action is Discrete(3), not Discrete(2)",
        ),
        (("--start-from", "nowhere"), "nowhere is not a run folder"),
        (("--start-from", "other"), "is of r2d2: a run of ppo starts from one of its own kind"),
        (("--start-from", "begun"), "has no checkpoint yet: train it first, or start from another"),
    ],
)
def test_what_cannot_be_started_from_is_refused(trained, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained["r2d2"], "other")
    shutil.copytree(trained["ppo"], "begun")
    Path("begun/checkpoint.safetensors").unlink()
    given = {"--env": "seqrl/MaskedCartPole-v0", "--hidden-size": "16", "--start-from": str(trained["ppo"])}
    given |= dict(zip(flags[::2], flags[1::2], strict=False))
    rest = [flag for flag in flags if flag not in given and flag not in given.values()]
    args = ["train", "ppo", "--num-steps", "32", "--run-dir", "new", *(word for pair in given.items() for word in pair)]
    assert main([*args, *rest]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("new").exists()


# Break: no check in `Run.begin`: an algorithm that never takes over what it was to start from would learn from nothing.
def test_an_algorithm_that_does_not_take_over_says_so(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("seqrl.training_state.TrainingState.restore", lambda self, run: 0)
    args = ["--env", "seqrl/MaskedCartPole-v0", "--hidden-size", "16", "--run-dir", str(tmp_path / "new")]
    assert main(["train", "ppo", *args, "--start-from", str(trained["ppo"])]) == 2
    assert "ppo takes over no agent, leave it out" in capsys.readouterr().err
