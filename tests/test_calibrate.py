"""Which return to ask for: the grid, what is recommended and warned of, what reaches environments, and the command."""

import dataclasses
import json
import math
import re
import shutil
from typing import Any, NamedTuple

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from seqrl import calibrate as calibration
from seqrl.acting import ActingModule
from seqrl.algorithms import load, train
from seqrl.algorithms.decision_transformer import Config, build, describe
from seqrl.calibrate import Calibration, bin_bounds, by_return, calibrate, first_returns, target_grid
from seqrl.cli import main
from seqrl.cli.calibration import default_targets
from seqrl.data import Episode, EpisodeDataset, EpisodeWriter
from seqrl.envs import TorchEnvironment
from seqrl.envs.base import State, TorchVectorEnv, Transition
from seqrl.errors import UserError
from seqrl.progress import Bar

NUM_ACTIONS = 40


class Payout(TorchVectorEnv):
    """One decision: action a brings `pays[a]`, plus or minus `spread`, in turn."""

    def __init__(self, num_envs: int, pays: Tensor, spread: float = 0.0):
        super().__init__(Discrete(2), Discrete(NUM_ACTIONS), num_envs, "cpu", None)
        self.pays, self.sign = pays, spread * (1 - 2 * (torch.arange(num_envs) % 2))

    def _start(self) -> State:
        return {"at": torch.zeros(self.num_envs, dtype=torch.int64)}

    def _transition(self, state: State, action: Tensor) -> Transition:
        return state, self.pays[action] + self.sign, torch.ones(self.num_envs, dtype=torch.bool)

    def _observe(self, state: State) -> Tensor:
        return state["at"].clone()


class Always(NamedTuple):
    """A policy that takes given actions [1, B]."""

    action: Tensor

    def mode(self) -> Tensor:
        return self.action

    def to_environment(self, raw: Tensor) -> Tensor:
        return raw


class Obedient(ActingModule):
    """Takes the action of the number that it is asked for, rounded, its own in each environment."""

    def __init__(self, conditioned: bool = True):
        super().__init__(Discrete(2), Discrete(NUM_ACTIONS))
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.conditioned, self.gamma, self.target_return = conditioned, 1.0, torch.tensor(7.0)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.target_return.expand(batch_size)

    def unroll(self, inputs: Any, state: Tensor) -> tuple[dict[str, Any], Tensor]:
        return {"policy": Always(state.round().long().unsqueeze(0))}, state


def logged(folder, returns, gamma=1.0) -> EpisodeDataset:
    """Episodes of one decision each, with these returns."""
    with EpisodeWriter(folder, Discrete(2), Discrete(NUM_ACTIONS), about={}) as writer:
        for value in returns:
            writer.add(
                Episode(np.zeros(2, dtype=np.int64), np.zeros(1, dtype=np.int64), np.float32([value]), True, False)
            )
    return EpisodeDataset.open(folder, gamma)


def played(log, pays, targets, spread=0.0, num_episodes=4) -> Calibration:
    agent = Obedient()
    table = torch.zeros(NUM_ACTIONS)
    table[: len(pays)] = torch.tensor(pays)
    environment = TorchEnvironment(Payout(4 * len(targets), table, spread))
    found = calibrate(agent, environment, log, targets, num_episodes, seed=0)
    assert float(agent.target_return) == 7.0  # its own target stays
    return found


def test_the_grid(tmp_path):
    log = logged(tmp_path / "log", [0.0, 4.0, 10.0])
    assert target_grid(log, 6) == pytest.approx([0.0, 2.5, 5.0, 7.5, 10.0, 11.0])
    assert target_grid(logged(tmp_path / "same", [-3.0, -3.0]), 6) == pytest.approx([-3.0, -2.7])
    assert target_grid(logged(tmp_path / "zero", [0.0]), 6) == pytest.approx([0.0, 0.1])


# Break: `isclose` in default_targets left out: what was saved as float32 is then tried twice.
def test_the_agents_own_target_is_in_the_grid(tmp_path):
    log, agent = logged(tmp_path / "log", [0.0, 1.0]), Obedient()
    assert default_targets(agent, log, 3) == pytest.approx([0.0, 1.0, 1.1, 7.0])
    agent.target_return = torch.tensor(2 / 3)
    assert default_targets(agent, log, 5) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0, 1.1])


# Break: `dataset.returns` in place of `first_returns`: with a discount, agents are asked for discounted returns.
def test_the_grid_is_discounted_where_targets_are(tmp_path):
    with EpisodeWriter(tmp_path / "log", Discrete(2), Discrete(NUM_ACTIONS), about={}) as writer:
        for paid in (0.0, 8.0):
            reward = np.float32([0.0, 0.0, paid])
            writer.add(Episode(np.zeros(4, dtype=np.int64), np.zeros(3, dtype=np.int64), reward, True, False))
    log = EpisodeDataset.open(tmp_path / "log", 0.5)
    assert first_returns(log).tolist() == [0.0, 2.0]
    assert target_grid(log, 3) == pytest.approx([0.0, 2.0, 2.2])


# Break: `repeat` for `repeat_interleave` in calibrate, or the reshape the other way round.
def test_each_target_reaches_its_environments_and_supports_are_counted(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0, 1.0, 3.0])
    found = played(log, [0.0, 10.0, 20.0, 30.0, 40.0], [0.0, 1.0, 2.0, 3.0, 4.0], spread=0.5)
    assert found.achieved == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert found.half_width == pytest.approx([3.182446 * math.sqrt(4 / 3) * 0.5 / 2] * 5)  # Must break: 1.96
    assert found.support == [4, 3, 1, 1, 0]
    assert (found.data_range, found.num_episodes, found.rank_correlation) == ((0.0, 3.0), 4, pytest.approx(1.0))


def test_a_transformer_is_asked_for_each_target_in_its_environments(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0])
    agent = build(Config(hidden_size=16, num_layers=1, context_length=2), log.observation_space, log.action_space)
    describe(agent, log, num_windows=256)
    asked: list[Tensor] = []
    hook = agent.return_norm.register_forward_hook(lambda module, args, out: asked.append(args[0][..., 0]))
    calibrate(agent, TorchEnvironment(Payout(6, torch.zeros(NUM_ACTIONS))), log, [-1.0, 5.0], 3, seed=0)
    hook.remove()
    assert asked[0].tolist() == [[-1.0, -1.0, -1.0, 5.0, 5.0, 5.0]]
    assert float(agent.target_return) == 1.0


# Break: the best target in place of the lowest that is as good; or no interval.
def test_the_lowest_target_that_is_as_good_is_recommended(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    targets = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert played(log, [0.0, 1.0, 2.0, 3.0, 4.0], targets).recommended == 4.0
    assert played(log, [0.0, 1.0, 4.0, 4.0, 4.0], targets).recommended == 2.0
    noisy = played(log, [0.0, 1.0, 3.8, 4.0, 3.9], targets, spread=0.5)  # within the interval, ± 0.57
    assert noisy.recommended == 2.0
    assert played(log, [0.0, 1.0, 3.8, 4.0, 3.9], targets).recommended == 3.0


def test_warnings(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    targets = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert played(log, [0.0, 1.0, 2.0, 3.0, 4.0, 4.0], targets).warnings() == []
    [beyond] = played(log, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], targets).warnings()
    assert beyond.startswith("No logged episode brought 5 (the best 4)")
    [deaf] = played(log, [4.0, 3.0, 2.0, 1.0, 4.5, 0.0], targets).warnings()
    assert "does not follow the target" in deaf
    [flat] = played(log, [4.0] * 6, targets).warnings()
    assert "does not follow the target" in flat
    [short] = played(log, [0.0, 0.1, 0.2, 0.3, 2.0, 0.0], targets).warnings()
    assert short == "What is asked for is not reached: 2 in place of 4."
    few = logged(tmp_path / "few", [0.0, 1.0, 2.0, 4.0])
    [rare] = played(few, [0.0, 1.0, 2.0, 3.0, 4.0], targets[:5]).warnings()
    assert rare == "Only 1 logged episodes brought 4: log more like them."
    # Of two targets within the log nothing can be said.
    two = played(log, [4.0, 4.0], [0.0, 1.0])
    assert math.isnan(two.rank_correlation)
    assert two.warnings() == []
    assert two.as_dict()["rank_correlation"] is None


# Break: `promised` not read in `warnings`, or in `table`: what values promise was called luck of extrapolation.
def test_what_relabelled_returns_promise_is_no_extrapolation(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0])
    found = played(log, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    [words] = found.warnings(promised=5.0)
    assert words == "No logged episode brought 5 (the best 4): the values of the log promise it, of parts of several."
    [words] = found.warnings(promised=4.5)
    assert words.endswith("luck of extrapolation.")
    *_, notes = found.table(promised=6.0).columns
    assert list(notes.cells)[-2:] == ["recommended", "promised alone"]
    *_, notes = found.table(promised=5.0).columns
    assert list(notes.cells)[-2:] == ["recommended", "out of support"]


def test_cloned_behaviour_cannot_be_asked(tmp_path):
    log = logged(tmp_path / "log", [0.0, 1.0])
    with pytest.raises(UserError, match="clones behaviour"):
        calibrate(Obedient(conditioned=False), TorchEnvironment(Payout(2, torch.zeros(NUM_ACTIONS))), log, [1.0], 2, 0)


# Break: quantiles in place of ranks, which collapse where most values are the same.
def test_bins():
    """Golden: few values have bins of their own; a common one is not mixed with others; else equal shares."""
    assert bin_bounds(torch.tensor([0.0] * 99 + [1.0]), 5) == [(0.0, 0.0), (1.0, 1.0)]
    assert bin_bounds(torch.tensor([2.0]), 5) == [(2.0, 2.0)]
    mostly = torch.cat([torch.zeros(80), torch.arange(1.0, 21.0)])
    assert bin_bounds(mostly, 5) == [(0.0, 0.0), (1.0, 20.0)]
    even = bin_bounds(torch.arange(100.0), 5)
    assert even == [(0.0, 19.0), (20.0, 39.0), (40.0, 59.0), (60.0, 79.0), (80.0, 99.0)]


# Break: `windows_at` from `timestep` on, or all rows of a window counted.
@pytest.mark.parametrize("continuous", [False, True])
def test_bins_count_each_decision_once_and_as_acting_would_foresee_it(tmp_path, continuous):
    rng = np.random.default_rng(0)
    space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32) if continuous else Discrete(3)
    with EpisodeWriter(tmp_path / "log", Discrete(4), space, about={}) as writer:
        for k in range(6):
            length = 3 + k
            action = rng.uniform(-1, 1, (length, 2)).astype(np.float32) if continuous else rng.integers(3, size=length)
            reward = np.float32([0.0] * (length - 1) + [k % 2])
            writer.add(Episode(rng.integers(4, size=length + 1), action, reward, True, False))
    log = EpisodeDataset.open(tmp_path / "log")
    config = Config(hidden_size=16, num_layers=1, context_length=9)
    agent = build(config, log.observation_space, log.action_space)
    describe(agent, log, num_windows=256)
    bins = by_return(agent, log, config)
    assert [(b.low, b.high, b.decisions) for b in bins] == [(0.0, 0.0, 3 + 5 + 7), (1.0, 1.0, 4 + 6 + 8)]
    for k, b in enumerate(bins):
        total = 0.0
        for episode in range(k, 6, 2):
            length = int(log.lengths[episode])
            windows = log.windows_at(np.array([episode]), np.array([0]), length)
            agent.target_return = float(k)
            policy = agent.unroll(windows.inputs, agent.initial_state(1))[0]["policy"]
            total += policy.log_prob(policy.from_environment(windows.action)).sum().item()
        assert b.log_likelihood == pytest.approx(total / b.decisions, abs=1e-4)
    assert (bins[0].accuracy is None) == continuous
    assert (bins[0].squared_error is None) != continuous
    assert sum(b.decisions for b in by_return(agent, log, config, num_decisions=10)) == 10
    calibration.bins_table(bins, held_out=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A barely trained run, and the random episodes that it learnt from."""
    root = tmp_path_factory.mktemp("calibrate")
    flags = ["--env", "seqrl/Gamble-v0", "--episodes", "30", "--dataset-dir", str(root / "log")]
    assert main(["collect", "random", *flags]) == 0
    config = Config(dataset=str(root / "log"), run_dir=str(root / "run"), num_steps=4, hidden_size=16, num_layers=1)
    train(dataclasses.replace(config, context_length=4, batch_size=8, checkpoint_every=4, log_every=4))
    return root / "run"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_command_and_that_a_target_set_survives(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(Bar, "QUIET", 0.0)
    before = load(run)
    assert main(["calibrate", str(run), "--targets", "1,2,3", "--num-episodes", "3", "--set-target"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"calibrate run: 9 of 9, [\d,]+ steps/s", err.splitlines()[-1])  # breaks without `watch`
    found = json.loads((run / "calibration.json").read_text())
    assert found["calibration"]["targets"] == [1.0, 2.0, 3.0]
    assert f"asks for {found['calibration']['recommended']:.4g} from now on" in out
    pixels = matplotlib.image.imread(run / "calibration.png")
    assert pixels[..., :3].std() > 0.05
    after = load(run)
    assert after.target_return == found["calibration"]["recommended"]
    for (name, one), other in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert name == "target" or torch.equal(one, other)
    assert main(["calibrate", str(run), "--no-play"]) == 0
    assert json.loads((run / "calibration.json").read_text())["calibration"] is None


# Break: the grid alone in place of default_targets; `check_spaces` left out.
def test_the_command_tries_what_the_run_asks_for_in_its_own_environment(run, tmp_path, capsys, monkeypatch):
    copy, asked = tmp_path / "copy", []
    shutil.copytree(run, copy)
    calibration.set_target(copy, 77.0)

    def stop(agent, environment, dataset, targets, *rest):
        asked.append((targets, environment.num_envs))
        raise UserError("enough")

    monkeypatch.setattr(calibration, "calibrate", stop)
    assert main(["calibrate", str(copy)]) == 2
    [(targets, num_envs)] = asked
    assert len(targets) == 12
    assert targets[-1] == 77.0
    assert num_envs == 12 * 14  # thrice 14 for the 40 episodes of each
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace("seqrl/Gamble-v0", "seqrl/TMaze-v0"))
    capsys.readouterr()
    assert main(["calibrate", str(copy)]) == 2
    assert "space does not fit the agent in" in capsys.readouterr().err
    assert len(asked) == 1


# Break: `held_out_or_all` without `relabelled`: the agent was asked for what it was not trained to be asked for.
@pytest.mark.parametrize("held_out", [0.2, 0.0])
def test_an_agent_of_relabelled_returns_is_asked_for_these(run, tmp_path, capsys, monkeypatch, held_out):
    monkeypatch.setenv("COLUMNS", "160")
    config = Config(
        dataset=str(run.parent / "log"), run_dir=str(tmp_path / "qdt"), num_steps=2, hidden_size=16, num_layers=1,
        context_length=4, batch_size=8, relabel="values", value_updates=20, held_out=held_out,
    )  # fmt: skip
    train(config)
    kept = np.load(tmp_path / "qdt" / "return_to_go.npy")
    asked, told = calibration.held_out_or_all(EpisodeDataset.open(config.dataset), config)
    assert told == (held_out > 0)
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(asked.starts, asked.lengths, strict=False)])
    assert asked.num_episodes == (6 if held_out else 30)
    assert (asked.return_to_go[rows] == kept[rows]).all()
    assert (kept[rows] != EpisodeDataset.open(config.dataset).return_to_go[rows]).any()
    capsys.readouterr()
    assert main(["calibrate", str(tmp_path / "qdt"), "--num-episodes", "2"]) == 0
    assert "are foreseen, by relabelled return-to-go" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "qdt" / "calibration.json").read_text())["relabelled"]


def test_bad_input_is_one_line(run, tmp_path, capsys):
    cloned = tmp_path / "cloned"
    config = Config(dataset=str(run.parent / "log"), run_dir=str(cloned), num_steps=1, condition="none")
    train(dataclasses.replace(config, hidden_size=16, num_layers=1, context_length=2))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"type": "ppo"}))
    capsys.readouterr()
    for args, words in [
        ([], "needs a run folder"),
        ([str(tmp_path)], "is not a run folder"),
        ([str(other)], "is no Decision Transformer"),
        ([str(cloned)], "clones behaviour"),
        ([str(run), "--num-targets", "2"], "--num-targets is 2"),
        ([str(run), "--num-episodes", "1"], "--num-episodes is 1"),
        ([str(run), "--targets", "nan"], "--targets are not all finite"),
        ([str(run), "--no-play", "--set-target"], "leave out --no-play"),
        ([str(run), "--tagets", "3"], "did you mean --targets"),
    ]:
        assert main(["calibrate", *args]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
