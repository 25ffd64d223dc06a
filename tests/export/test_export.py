"""From a run folder to a file: parity for every memory, format and algorithm, and every error that it documents."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from jaxtyping import config

import seqrl
from seqrl.algorithms import algorithm_distillation, decision_transformer, impala, ppo, r2d2, recurrent_sac
from seqrl.cli import main
from seqrl.collect import collect, random_policy
from seqrl.data import EpisodeWriter
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.export import SUFFIXES, TOLERANCE, check, export_agent, export_run
from seqrl.export.parity import random_rows
from seqrl.export.step import ExportedStep
from seqrl.exported import load
from tests.exported_agents import ALL_MEMORIES, DECISION_AGENTS, MOVES, agent, any_agent, observations

TINY = {"env": "seqrl/TMaze-v0", "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_steps": 64}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    seqrl.train(ppo.Config(**TINY, memory="gru", num_epochs=1, num_minibatches=2, run_dir=str(folder)))
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "log"
    environment = make("seqrl/KeyToDoor-v0", 4)
    spaces = environment.single_observation_space, environment.single_action_space
    with EpisodeWriter(folder, *spaces, about={"env": "seqrl/KeyToDoor-v0", "env_kwargs": []}) as writer:
        for episode in collect(random_policy(environment.single_action_space), environment, 20):
            writer.add(episode)
    return folder


@pytest.fixture
def untyped() -> Iterator[None]:
    """Without checks of types, which take a number that is still open, as of rows while tracing, for no int."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("name", [*ALL_MEMORIES, *DECISION_AGENTS])
def test_every_memory_agrees_over_a_thousand_steps_with_resets(name: str, format: str, tmp_path: Path) -> None:
    exported = export_agent(any_agent(name), tmp_path / f"agent{SUFFIXES[format]}", format)
    parity = exported.about["parity"]["random"]
    assert parity["steps"] == 1000
    assert parity["difference"] <= TOLERANCE


# Golden: `memory_format=torch.channels_last` whatever the number of channels in ImageEncoder.forward: with one, strides
# do not tell the formats apart, and torch.export writes a `view` that a batch of another size has no strides for.
@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("shape", [(12, 12, 1), (1, 40, 40)])
def test_images_of_one_channel(shape: tuple[int, int, int], format: str, tmp_path: Path) -> None:
    image = gym.spaces.Box(0, 255, shape, np.uint8)
    made = ppo.build(ppo.Config(memory="none", hidden_size=16), image, gym.spaces.Discrete(3))
    exported = export_agent(made.eval(), tmp_path / f"agent{SUFFIXES[format]}", format)
    assert exported.about["parity"]["random"]["difference"] <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        r2d2.Config(
            **TINY | {"num_steps": 128},
            memory="lstm",
            length=8,
            overlap=4,
            burn_in=4,
            replay_capacity=400,
            learning_starts=56,
        ),
        recurrent_sac.Config(
            **TINY | {"env": "seqrl/MaskedPendulum-v0", "num_steps": 128},
            memory="linear",
            length=8,
            overlap=4,
            burn_in=4,
            replay_capacity=400,
            learning_starts=56,
        ),
        impala.Config(**TINY, memory="transformer", num_actors=2, engine="sync"),
    ],
)
def test_every_online_algorithm(settings: Any, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    seqrl.train(type(settings)(**vars(settings) | {"run_dir": folder}))
    exported = export_run(folder, tmp_path / "agent.onnx", num_steps=200)
    assert exported.about["parity"]["recorded"]["steps"] == 200
    assert exported.about["about"]["algorithm"] == type(settings).__module__.rpartition(".")[2]


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_a_decision_transformer(log: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    settings = decision_transformer.Config(
        dataset=str(log), run_dir=folder, num_steps=2, warmup=1, hidden_size=8, context_length=4, num_layers=1
    )
    seqrl.train(settings)
    exported = export_run(folder, tmp_path / "agent.onnx", num_steps=100)
    exported.target_return = np.array([0.0, 1.0])
    assert exported.about["reads_reward"]
    assert exported.initial_inputs(2)["target_return"][1] == 1
    with pytest.raises(UserError, match="2 target returns for 3 environments"):
        exported.initial_inputs(3)


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("within_episode", [False, True])
def test_a_distilled_agent(within_episode: bool, tmp_path: Path) -> None:
    log, folder = str(tmp_path / "log"), str(tmp_path / "run")
    collected = ["collect", "q_learning", "--env", "seqrl/DarkRoom-v0", "--num-episodes", "4", "--dataset-dir", log]
    assert main([*collected, "--env-kwargs", "num_episodes=3", "episode_steps=5", "goals=train"]) == 0
    settings = algorithm_distillation.Config(
        dataset=log, run_dir=folder, num_steps=2, warmup=1, hidden_size=8, num_layers=1, context_length=7,
        within_episode=within_episode,
    )  # fmt: skip
    seqrl.train(settings)
    for suffix, format in ((".onnx", "onnx"), (".pt2", "torch")):
        exported = export_run(folder, tmp_path / f"agent{suffix}", format, num_steps=200)
        assert exported.about["parity"]["recorded"]["difference"] <= TOLERANCE
        assert exported.about["about"]["algorithm"] == "algorithm_distillation"


# Golden: the line of the page that keeps `next_state`, or the one that says that no further row is the first, left out.
@pytest.mark.slow
def test_the_loop_of_the_page_acts_as_the_agent(tmp_path: Path) -> None:
    space = gym.spaces.Dict({"pads": gym.spaces.MultiBinary(3), "v": gym.spaces.Box(-1, 1, (2,)), "n": MOVES})
    made = agent("gru", space)
    export_agent(made, tmp_path / "agent.onnx", num_steps=20)
    seen, page = observations(space, 40, 1), Path("docs/export.md").read_text()
    (loop,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "InferenceSession" in block]
    code = loop.replace("runs/cartpole", str(tmp_path)) + "    taken.append(action)\n"
    taken: list[Any] = []
    exec(code, {"taken": taken, "episode": [{f"observation.{key}": row[0][key] for key in row[0]} for row in seen]})
    assert taken == [made.act(row[0], reward=0.0) for row in seen]
    assert len(set(map(int, taken))) > 1


@pytest.mark.slow
def test_the_command_writes_both_formats(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run)]) == 0
    assert main(["export", str(run), "--output", str(tmp_path / "a.pt2")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"agent\.onnx: [\d,]+ bytes; differs from the agent by at most \S+ on 1,000 random steps", said)
    seen = np.zeros(3, np.float32)
    assert load(run / "agent.onnx").act(seen) == seqrl.load(run).act(seen) == load(tmp_path / "a.pt2").act(seen)


# Break: `replace` not passed on by `export_run`, or `_is_exported` True of any file.
@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("format", SUFFIXES)
def test_a_run_is_exported_again_over_its_own_file_and_no_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """As report and inspect write their pages over; a file that is named by --output is never written over."""
    monkeypatch.setattr(export_run, "__defaults__", (None, "onnx", 20))
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    path = folder / f"agent{SUFFIXES[format]}"
    words = ["export", str(folder), "--format", format]
    assert main(words) == 0
    before = path.stat().st_ino
    assert main(words) == 0
    assert path.stat().st_ino != before
    assert main([*words, "--output", str(path)]) == 2
    assert "exists already: choose another --output" in capsys.readouterr().err
    for foreign in (b"", b"mine", b"PK mine"):
        path.write_bytes(foreign)
        assert main(words) == 2
        assert "exists already, and is no agent that seqrl export wrote" in capsys.readouterr().err
        assert path.read_bytes() == foreign


def test_the_command_says_what_is_wrong(
    run: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.onnx"
    taken.touch()
    for words, message in [
        ([], "named first"),
        ([str(run), "--format", "tflite"], "unknown format 'tflite' (--format)"),
        ([str(run), "--output", str(taken)], "exists already: choose another --output"),
        ([str(run), "--output", str(tmp_path / "agent.bin")], "let its name end in .onnx, or in .pt2 for torch"),
        (
            [str(run), "--format", "torch", "--output", str(tmp_path / "a.onnx")],
            "let its name end in .pt2, or in .onnx for onnx",
        ),
        ([str(run), "--output", str(tmp_path / "no" / "agent.onnx")], "is no folder"),
        ([str(run), "--to-minari", "a/b-v0"], "--to-minari is for datasets"),
        ([str(log), "--format", "onnx"], "is not a run folder"),
        ([str(log)], "--to-minari NAME-v0"),
        ([str(tmp_path)], "--to-minari NAME-v0"),
    ]:
        assert main(["export", *words]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_onnx_that_is_not_installed_is_said_to_be(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxruntime", "onnxscript", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'needs {package}: pip install "seqrl\[export\]"'):
            export_run(run, tmp_path / "agent.onnx")


def test_a_run_that_speaks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"type": "bc", "dialogues": "talks.jsonl"}')
    with pytest.raises(UserError, match="speaks and has no actions"):
        export_run(tmp_path, tmp_path / "agent.onnx")


def test_a_file_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parity of one agent with another's file, in place of an exporter that errs."""
    from tests.export.test_step import eager

    made, other = agent("none"), agent("none")
    other.heads["value"].linear.bias.data.add_(1e-3)
    step, exported = eager(other)
    monkeypatch.setattr("seqrl.export.from_bytes", lambda _: exported)
    with pytest.raises(UserError, match=r"differs from the agent by 0\.001 on random inputs \(value at step \d"):
        check(made, b"", {"random": random_rows(step, 5, 2, seed=0)})
    assert check(other, b"", {"random": random_rows(ExportedStep(other), 5, 2, seed=0)})["random"].difference < 1e-5
