"""An agent against its references on the same tasks, its weights at rest: the figures, the digest, and the command."""

import io
import json
import math
import shutil

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import t as student

from seqrl import adaptation
from seqrl.adaptation import AGENT, OPTIMAL, Adaptation, adapt, running_mean, trial_returns, weights_digest
from seqrl.algorithms import ppo
from seqrl.cli import main
from seqrl.cli.adaptation import Adapt, problem
from seqrl.collect import Scripted, random_policy
from seqrl.envs import make
from seqrl.envs.trial_wrapper import Trials
from seqrl.errors import UserError
from seqrl.figures import png
from seqrl.reports import adaptation as report


def tiny_agent(environment):
    config = ppo.Config(env="seqrl/Bandit-v0", hidden_size=8, previous_action=True, previous_reward=True)
    return ppo.build(config, environment.single_observation_space, environment.single_action_space).eval()


def oracle(environment):
    """Plays what the environment says is best for who knows the task."""
    return Scripted(environment.single_action_space, lambda inputs, generator: environment._env.optimal_action())


# Break: `manual_seed(seed)` in trial_returns: the first random pull is then of the best arm, since the numbers that
# choose it are those that the arms' means are made of (0.82).
def test_the_first_actions_are_drawn_by_other_numbers_than_the_tasks():
    environment = make("seqrl/Bandit-v0", 2000)
    returns = trial_returns(random_policy(environment.single_action_space), environment, 2000, seed=3)
    assert returns[:, 0].mean() == pytest.approx(0.5, abs=0.05)


# Break: `reset(seed)` without a seed, or references with a seed of their own.
def test_all_policies_play_the_same_tasks_in_rounds():
    """A room's optimal return is 21 less the goal's distance, so that equal returns show equal tasks."""
    environment = make("seqrl/DarkRoom-v0", 6, env_kwargs={"num_episodes": 2, "goals": "held_out"})
    agent = tiny_agent(environment)
    references = {OPTIMAL: oracle(environment), "the same": oracle(environment)}
    found = adapt(agent, environment, 15, references=references)
    assert found.returns[OPTIMAL].shape == (15, 2)
    assert np.array_equal(found.returns[OPTIMAL], found.returns["the same"])
    assert (found.returns[OPTIMAL][:, 0] == found.returns[OPTIMAL][:, 1]).all()
    rounds = found.returns[OPTIMAL][:12, 0].reshape(2, 6)
    assert not np.array_equal(rounds[0], rounds[1])  # the second round has other tasks
    again = adapt(agent, environment, 15)
    assert np.array_equal(again.returns[AGENT], found.returns[AGENT])
    assert again.digest == found.digest
    assert not np.array_equal(adapt(agent, environment, 15, seed=1).returns[AGENT], found.returns[AGENT])


# Must break: a comparison with NaN, by which what has no interval "stays, up to chance, where it is".
def test_one_trial_says_nothing_of_chance():
    words = report.sentence(Adaptation(returns={AGENT: np.array([[0.0, 0.5, 1.0]])}, digest=""))
    assert words == (
        "From the first to the last inner episode the agent's return changes by 1, in one trial: give --num-trials."
    )


# Break: an unpaired interval, ddof=0 or 1.96 for Student's quantile.
def test_figures_against_those_by_hand():
    agent = np.array([[0.0, 2.0, 4.0], [1.0, 2.0, 6.0], [2.0, 5.0, 5.0]])
    best = np.array([[5.0, 5.0, 5.0], [6.0, 6.0, 6.0], [4.0, 4.0, 4.0]])
    found = Adaptation(returns={AGENT: agent, OPTIMAL: best}, digest="")
    quantile = student.ppf(0.975, 2)
    assert found.total(AGENT).tolist() == [6.0, 9.0, 12.0]
    assert found.regret(AGENT) == pytest.approx((6.0, quantile * math.sqrt((9 + 9 + 36) / 2) / math.sqrt(3)))
    assert found.difference(AGENT, OPTIMAL)[0] == -6.0
    assert found.share_of_optimal(AGENT) == pytest.approx(27 / 45)
    assert found.gain() == pytest.approx((4.0, quantile * 1 / math.sqrt(3)))
    mean, half_width = found.curve(AGENT)
    assert mean.tolist() == [1.0, 3.0, 5.0]
    assert half_width == pytest.approx([quantile * 1 / math.sqrt(3), quantile, quantile * 1 / math.sqrt(3)])
    alone = Adaptation(returns={AGENT: agent[:1]}, digest="")
    assert alone.regret(AGENT) is None
    assert alone.share_of_optimal(AGENT) is None
    assert math.isnan(alone.gain()[1])


# Breaks if: `cumsum` is left out; NaN behind a trial's end is not taken for 0.
def test_regret_comes_together_by_inner_episode():
    agent = np.array([[0.0, 2.0, 4.0], [1.0, 2.0, np.nan]])
    best = np.array([[5.0, 5.0, 5.0, 5.0], [6.0, 6.0, np.nan, np.nan]])
    found = Adaptation(returns={AGENT: agent, OPTIMAL: best}, digest="")
    mean, half_width = found.regret_curve(AGENT)
    assert mean.tolist() == [5.0, 8.5, 9.0, 11.5]
    assert (mean[-1], half_width[-1]) == found.regret(AGENT)
    assert Adaptation(returns={AGENT: agent}, digest="").regret_curve(AGENT) is None


# Breaks if: the panel is drawn of one inner episode, or where nobody knows the task; or random actions are in it.
@pytest.mark.parametrize(
    ("names", "episodes", "panels"),
    [((AGENT, "random", "greedy", OPTIMAL), 4, 2), ((AGENT, "random"), 4, 1), ((AGENT, OPTIMAL), 1, 1)],
)
def test_regret_has_a_panel_where_it_is_known(monkeypatch, names, episodes, panels):
    drawn = []

    def read(figure):
        drawn.extend(len(axes.lines) for axes in figure.axes)
        return png(figure)

    monkeypatch.setattr("seqrl.reports.adaptation.png", read)
    rows = np.random.default_rng(0).random((9, episodes))
    report.plot(Adaptation(returns=dict.fromkeys(names, rows), digest="ab"), "t")
    assert len(drawn) == panels
    assert drawn[1:] == [3] * (panels - 1)  # the agent, greedy, and who knows the task, at 0


def test_the_table_fits_a_terminal():
    """Breaks if: all columns are kept, of which rich then cuts words and cells."""
    rows = np.random.default_rng(0).random((9, 12))
    found = Adaptation(returns=dict.fromkeys((AGENT, "Thompson above the mean", OPTIMAL), rows), digest="")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report.table(found, "t", 80))
    shown = console.export_text()
    assert "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert sum("±" in line for line in shown.splitlines()) == 3
    assert "of optimal" not in shown
    assert all(word in shown for word in ("policy", "trial", "last", "− it"))
    console.print(report.table(found, "t", 120))
    wide = console.export_text()
    assert all(word in wide for word in ("regret", "100.0 %"))


def test_trials_of_unequal_length_end_where_they_end():
    rows = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 1.0, 1.0, 5.0]])
    found = Adaptation(returns={AGENT: rows}, digest="")
    assert found.total(AGENT).tolist() == [6.0, 8.0]
    assert found.last(AGENT).tolist() == [3.0, 5.0]
    assert found.curve(AGENT)[0].tolist() == [1.0, 1.5, 2.0, 5.0]
    twenty = Adaptation(returns={AGENT: np.arange(20.0)[None]}, digest="")
    assert (twenty.num_last, twenty.last(AGENT).tolist()) == (2, [18.5])


# Break: a window that begins one later; or edges that are padded.
def test_running_means():
    rows = np.array([[0.0, 3.0, 6.0, 0.0, np.nan]])
    expected = np.array([[1.5, 3.0, 3.0, 3.0, np.nan]])
    assert np.array_equal(running_mean(rows, 3), expected, equal_nan=True)
    assert np.array_equal(running_mean(rows, 1), rows, equal_nan=True)


# Break: leave out the tensors' bytes in weights_digest, or the check in adapt.
def test_the_digest_tells_of_changed_weights():
    environment = make("seqrl/Bandit-v0", 4)
    agent = tiny_agent(environment)
    before = weights_digest(agent)
    assert before == weights_digest(tiny_agent(environment))
    weight = next(agent.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1e-6
    assert weights_digest(agent) != before
    plain = torch.nn.ParameterList([torch.zeros(2, 3)])
    turned = torch.nn.ParameterList([torch.zeros(3, 2)])
    half = torch.nn.ParameterList([torch.zeros(2, 3, dtype=torch.bfloat16)])
    assert len({weights_digest(module) for module in (plain, turned, half)}) == 3

    def learn(*_):
        weight.data.add_(0.01)

    unroll = agent.unroll
    agent.unroll = lambda inputs, state: (learn(), unroll(inputs, state))[1]
    with pytest.raises(UserError, match="weights changed while it played"):
        adapt(agent, environment, 4)


SMALL = ["--num-envs", "4", "--hidden-size", "8", "--num-steps", "80", "--rollout-length", "20"]
TINY = [*SMALL, "--num-epochs", "1", "--num-minibatches", "2", "--previous-action", "--previous-reward"]
ROOM = ["--env", "seqrl/DarkRoom-v0", "--env-kwargs", "goals=train,size=3,episode_steps=5,num_episodes=4"]


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt") / "bandit"
    assert main(["train", "ppo", "--env", "seqrl/Bandit-v0", *TINY, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt") / "room"
    assert main(["train", "ppo", *ROOM, *TINY, "--run-dir", str(folder)]) == 0
    return folder


# Break: held-out arguments under the run's own; or --env-kwargs in place of all arguments, not over them.
def test_tasks_are_held_out_unless_asked_otherwise(room):
    for words, goals, size in [((), "held_out", 3), (("goals=all",), "all", 3), (("size=5",), "held_out", 5)]:
        config = problem(room, Adapt(env_kwargs=words))
        arguments = dict(pair.split("=") for pair in config.env_kwargs)
        assert arguments == {"goals": goals, "size": str(size), "episode_steps": "5", "num_episodes": "4"}
    elsewhere = problem(room, Adapt(env="seqrl/DarkRoom-v0", env_kwargs=("num_episodes=9",)))
    assert elsewhere.env_kwargs == ("goals=held_out", "num_episodes=9")


# Break: keep `reveal` of a log for an agent that was not trained to be shown the best action.
def test_the_best_action_is_not_shown_to_who_was_not_trained_with_it(room, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(room, run)
    config = json.loads((run / "config.json").read_text())
    config["env_kwargs"].append("reveal=true")
    (run / "config.json").write_text(json.dumps(config))
    assert main(["adapt", str(run), "--num-trials", "2", "--no-references"]) == 0
    assert "reveal" not in json.loads((run / "adaptation.json").read_text())["env_kwargs"]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_command_from_one_end_to_the_other(room, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["adapt", str(room), "--num-trials", "12", "--num-envs", "5", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    written = json.loads((room / "adaptation.json").read_text())
    assert written["command"] == f"seqrl adapt {room} --num-trials 12 --num-envs 5 --seed 3"
    assert (written["env_kwargs"]["goals"], written["num_trials"], written["num_episodes"]) == ("held_out", 12, 4)
    assert written["seed"] == 3
    assert f"sha256 {written['digest']}… before and after" in out
    policies = written["policies"]
    assert next(iter(policies)) == AGENT
    assert {"random", OPTIMAL} <= set(policies)
    best = policies[OPTIMAL]
    assert best["share_of_optimal"] == 1.0
    assert best["curve"]["mean"] == [best["first"]] * 4  # an oracle has nothing to learn
    assert 4.0 <= best["first"] <= 5.0  # of five decisions, the goal is one or two away
    for name, figures in policies.items():
        assert figures["regret_curve"]["mean"][-1] == pytest.approx(figures["regret"]["mean"]), name
        assert figures["total"]["mean"] == pytest.approx(np.mean(figures["totals"]))
        assert figures["total"]["mean"] == pytest.approx(sum(figures["curve"]["mean"]))
        difference = np.subtract(policies[AGENT]["totals"], figures["totals"])
        assert figures["agent_minus_this"]["mean"] == pytest.approx(difference.mean())
        half_width = student.ppf(0.975, 11) * difference.std(ddof=1) / math.sqrt(12)
        assert figures["agent_minus_this"]["half_width"] == pytest.approx(half_width)
    assert matplotlib.image.imread(room / "adaptation.png")[..., :3].std() > 0.05


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("trials", "episodes", "words"),
    [(1, 1, "cannot show learning"), (1, 3, "in one trial: give --num-trials"), (3, 70, "the last 7 inner episodes")],
)
def test_one_trial_one_episode_or_many(bandit, capsys, trials, episodes, words):
    flags = ["--num-trials", str(trials), "--env-kwargs", f"num_episodes={episodes}", "--no-references"]
    assert main(["adapt", str(bandit), *flags, "--no-sample"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
    written = json.loads((bandit / "adaptation.json").read_text())
    assert len(written["policies"][AGENT]["curve"]["mean"]) == episodes
    assert (written["policies"][AGENT]["total"]["half_width"] is None) == (trials == 1)
    assert list(written["policies"]) == [AGENT]


def test_smoothing_begins_above_sixty_inner_episodes():
    widths = [report.smoothing_width(number) for number in (1, 60, 61, 100, 500)]
    assert widths == [1, 1, 3, 5, 25]


def test_many_references_have_styles_of_their_own():
    assert len({tuple(style.values()) for style in report.STYLES}) >= 10


def test_another_algorithm_adapts_too(tmp_path):
    log, run = tmp_path / "log", tmp_path / "run"
    flags = ["--env", "seqrl/Bandit-v0", "--num-episodes", "8", "--dataset-dir", str(log)]
    assert main(["collect", "random", *flags]) == 0
    small = ["--num-steps", "2", "--hidden-size", "16", "--num-layers", "1", "--context-length", "4"]
    assert main(["train", "decision_transformer", "--dataset", str(log), *small, "--run-dir", str(run)]) == 0
    assert main(["adapt", str(run), "--num-trials", "3"]) == 0
    assert (run / "adaptation.png").exists()


def test_ctrl_c_keeps_the_files_of_before(bandit, capsys, monkeypatch):
    names = {"adaptation.json": b"old figures", "adaptation.png": b"old picture"}
    for name, content in names.items():
        (bandit / name).write_bytes(content)
    whole, calls = adaptation.trial_returns, []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:  # the first reference
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(adaptation, "trial_returns", interrupted)
        assert main(["adapt", str(bandit), "--num-trials", "2"]) == 130
    assert "nothing was written" in capsys.readouterr().err

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # while it draws
        patch.setattr("matplotlib.figure.Figure.savefig", stopped)
        assert main(["adapt", str(bandit), "--num-trials", "2"]) == 130
    assert {name: (bandit / name).read_bytes() for name in names} == names
    assert not [path for path in bandit.iterdir() if path.name.startswith(".")]


def test_bad_input_is_one_line(bandit, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(bandit, unfinished)
    (unfinished / "checkpoint.safetensors").unlink()
    capsys.readouterr()
    for args, words in [
        ([], "needs a run folder"),
        ([str(tmp_path)], "is not a run folder"),
        ([str(tmp_path / "missing")], "is not a run folder"),
        ([str(unfinished)], "no checkpoint at"),
        ([str(bandit), "--env", "seqrl/TMaze-v0"], "seqrl/TMaze-v0 has no trials of many inner episodes"),
        ([str(bandit), "--env", "CartPole-v1"], "CartPole-v1 has no trials of many inner episodes"),
        ([str(bandit), "--env", "seqrl/Bandits-v0"], "did you mean"),
        ([str(bandit), "--env", "seqrl/DarkRoom-v0"], "the observation space does not fit"),
        ([str(bandit), "--env-kwargs", "num_arms=7"], "the action space does not fit"),
        ([str(bandit), "--env-kwargs", "num_episodes=0"], "num_episodes=0: give at least 1"),
        ([str(bandit), "--env-kwargs", "num_episodes"], "is not KEY=VALUE"),
        ([str(bandit), "--num-trials", "0"], "--num-trials is 0"),
        ([str(bandit), "--num-envs", "0"], "--num-envs is 0"),
        ([str(bandit), "--seed", "-1"], "--seed is -1"),
        ([str(bandit), "--num-trails", "3"], "did you mean --num-trials"),
    ]:
        assert main(["adapt", *args]) == 2, args
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_trials_of_any_gymnasium_environment(tmp_path):
    if "AdaptTrials-v0" not in gym.registry:
        gym.register("AdaptTrials-v0", lambda: Trials(gym.make("CartPole-v1", max_episode_steps=5), 3))
    run = tmp_path / "run"
    assert main(["train", "ppo", "--env", "AdaptTrials-v0", *TINY, "--run-dir", str(run)]) == 0
    assert main(["adapt", str(run), "--num-trials", "3", "--num-envs", "2"]) == 0
    written = json.loads((run / "adaptation.json").read_text())
    assert written["policies"][AGENT]["curve"]["mean"] == [5.0, 5.0, 5.0]
    assert list(written["policies"]) == [AGENT]  # no reference is known
