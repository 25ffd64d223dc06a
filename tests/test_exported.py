"""Acting from an exported file is acting with the agent, without PyTorch: batches, rewards, draws, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqrl.errors import UserError
from seqrl.export import describe, export_agent
from seqrl.export.step import ExportedStep
from seqrl.exported import Exported, draw, load
from tests.exported_agents import NUMBERS, agent, batch, observations

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["gymnasium"] = None
import seqrl.exported
import numpy as np
agent = seqrl.exported.load(sys.argv[1])
seen = json.loads(sys.argv[2])
print(json.dumps([int(agent.act({"v": np.float32(o["v"]), "n": o["n"]}, reward=0.5)) for o in seen]))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "agent.onnx"
    exported = export_agent(agent(), path, num_steps=30)
    assert exported.about["parity"]["random"]["difference"] <= 1e-5
    return path


@pytest.fixture
def exported(file: Path) -> Exported:
    return load(file)


# Golden: with the state left out of `self._session`, or `previous_action` taken from the row before last, they part.
def test_acts_as_the_agent_for_a_batch_that_resets_on_the_way(exported: Exported) -> None:
    made, draws = agent(), np.random.default_rng(0)
    for rows in observations(NUMBERS, 60, 3):
        given = {"reward": draws.standard_normal(3).astype(np.float32), "is_first": draws.random(3) < 0.1}
        np.testing.assert_array_equal(made.act(batch(rows), **given), exported.act(batch(rows), **given))
    assert exported.outputs.keys() == {"policy.log_probs", "value"}


def test_acts_alone_without_torch_as_the_agent(file: Path, exported: Exported) -> None:
    made, seen = agent(), [rows[0] for rows in observations(NUMBERS, 6, 1)]
    expected = [int(made.act(o, reward=0.5)) for o in seen]
    assert expected == [int(exported.act(o, reward=0.5)) for o in seen]
    exported.reset()
    assert int(exported.act(seen[0])) == expected[0]
    words = json.dumps([{"v": o["v"].tolist(), "n": int(o["n"])} for o in seen])
    command = [sys.executable, "-c", WITHOUT_TORCH, str(file), words]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == expected


def test_draws_follow_the_probabilities(exported: Exported) -> None:
    about = {"action_space": {"start": [1, 0]}, "policy": {"type": "MultiCategorical", "sizes": [2, 3]}}
    probs = np.array([0.2, 0.8, 0.1, 0.3, 0.6])
    outputs = {"policy.log_probs": np.log(np.tile(probs, (20_000, 1))), "action": np.zeros((20_000, 2), np.int64)}
    drawn = draw(outputs, about, np.random.default_rng(0))
    np.testing.assert_allclose([(drawn[:, 0] == 1).mean(), (drawn[:, 1] == 2).mean()], [0.2, 0.6], atol=0.02)
    exported.seed(0)
    first = [int(exported.act(o[0], reward=0, sample=True)) for o in observations(NUMBERS, 20, 1)]
    assert set(first) <= {1, 2, 3}
    assert len(set(first)) > 1


def test_acts_as_was_chosen_in_training(file: Path, exported: Exported) -> None:
    made = agent()
    made.draws = True
    assert not exported.about["draws"]
    assert describe(ExportedStep(made), made)["draws"]  # breaks where a file does not tell how its agent acts
    exported.seed(0)
    seen = observations(NUMBERS, 1, 100)[0]
    alike = {key: np.repeat(leaf[:1], 100, 0) for key, leaf in batch(seen).items()}

    def actions(**given: bool) -> set[int]:
        exported.reset()
        return set(exported.act(alike, **given).tolist())

    assert len(actions()) == 1
    exported.about["draws"] = True
    assert len(actions()) > 1  # breaks where `act` looks at `sample` alone
    assert len(actions(sample=False)) == 1
    del exported.about["draws"]  # a file that was written before
    assert len(actions()) == 1


def test_draws_of_gaussians_stay_in_their_box() -> None:
    policy = {"type": "Gaussian", "bound": "squash", "low": [-1.0, 0.0], "high": [1.0, 4.0]}
    outputs = {"policy.mean": np.zeros((5000, 2), np.float32), "policy.log_std": np.zeros((5000, 2), np.float32)}
    outputs["action"] = np.zeros((5000, 2), np.float32)
    drawn = draw(outputs, {"action_space": {}, "policy": policy}, np.random.default_rng(0))
    assert drawn[:, 0].min() >= -1
    assert drawn[:, 1].max() <= 4
    # u ~ N(0, 1): E tanh² u = 0.394, so the action's deviation is √0.394 times half the box's width.
    np.testing.assert_allclose(drawn.std(0), [0.628, 1.256], rtol=0.05)
    about = {"action_space": {"low": "-inf", "high": ["inf", 0.0]}, "policy": {"type": "Gaussian", "bound": "none"}}
    plain = draw(outputs, about, np.random.default_rng(0))
    np.testing.assert_allclose(plain[:, 0].std(), 1, rtol=0.05)
    assert plain[:, 1].max() == 0


GOOD = {"v": np.zeros(3), "n": 2}


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(3), "not a dict with the keys"),
        ({"v": np.zeros(4), "n": 2}, "observation.v of shape (4,) does not fit Box of shape (3,)"),
        ({"v": np.full(3, np.nan), "n": 2}, "NaN or infinity"),
        ({"v": np.zeros(3), "n": 1}, "observation.n lies outside"),
        ({"v": np.zeros(3), "n": 2.0}, "whole numbers"),
        ({"v": np.array(["a"] * 3), "n": 2}, "give numbers"),
        ({"v": np.zeros((2, 3)), "n": np.array([2, 2, 2])}, "a batch axis of another size"),
    ],
)
def test_says_what_is_wrong_with_an_observation(exported: Exported, observation: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        exported.act(observation)
    assert message in str(error.value)


def test_says_what_is_wrong_with_the_rest(exported: Exported) -> None:
    exported.act(GOOD)
    for given, message in [
        ({}, "reads the previous reward"),
        ({"reward": np.zeros(2)}, "reward has the shape (2,)"),
        ({"reward": np.inf}, "reward is NaN or infinite"),
        ({"reward": 0, "is_first": np.zeros(2, bool)}, "is_first has the shape"),
    ]:
        with pytest.raises(UserError) as error:
            exported.act(GOOD, **given)
        assert message in str(error.value)
    with pytest.raises(UserError, match=r"a batch of 2 follows one of 1: call reset\(\)"):
        exported.act({"v": np.zeros((2, 3)), "n": np.array([2, 2])}, reward=0)


def test_refuses_files_that_are_not_its_own(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / "missing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises(UserError, match="damaged or no ONNX file"):
        load(tmp_path / "noise.onnx")
    (tmp_path / "noise.pt2").write_bytes(b"PK noise")
    with pytest.raises(UserError, match="damaged or no exported agent"):
        load(tmp_path / "noise.pt2")
