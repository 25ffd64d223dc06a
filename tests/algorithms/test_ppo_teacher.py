"""A teacher that knows the task: in PPO's loss alone, fading out, and never in what the agent reads."""

from dataclasses import replace

import pytest
import torch

from seqrl.algorithms import load, ppo, resume, train
from seqrl.cli import main
from seqrl.data import Batch
from seqrl.envs import make
from seqrl.envs.trials import unrevealed_space
from seqrl.run_folder import read_spaces
from seqrl.trajectory import AgentInput


def config(**changes):
    return ppo.Config(
        **{
            "env": "seqrl/Bandit-v0", "env_kwargs": ("num_arms=3", "num_episodes=4"), "num_envs": 8,
            "rollout_length": 5, "hidden_size": 8, "previous_action": True, "previous_reward": True,
            "teacher_weight": 0.5, **changes,
        }
    )  # fmt: skip


def batch_of(environment, agent, generator):
    """Five rows of played bandits, the last of them masked, with random advantages."""
    step = environment.reset(0)
    inputs = [agent.initial_input(step.observation)]
    for _ in range(4):
        action = torch.randint(3, (8,), generator=generator)
        inputs.append(AgentInput.following(environment.step(action), action))
    stacked = AgentInput(
        {name: torch.stack([row.observation[name] for row in inputs]) for name in inputs[0].observation},
        *(torch.stack([getattr(row, name) for row in inputs]) for name in AgentInput._fields[1:]),
    )
    mask = torch.ones(5, 8, dtype=torch.bool)
    mask[4] = False
    draws = [torch.randn(5, 8, generator=generator) for _ in range(3)]
    action = torch.randint(3, (5, 8), generator=generator)
    return Batch(stacked, action, *draws, mask, state=agent.initial_state(8))


@pytest.fixture
def played():
    environment = make("seqrl/Bandit-v0", 8, env_kwargs={"num_arms": 3, "num_episodes": 4, "reveal": True})
    space = unrevealed_space(environment.single_observation_space)
    agent = ppo.build(config(), space, environment.single_action_space)
    return agent, batch_of(environment, agent, torch.Generator().manual_seed(0))


def test_the_loss_is_the_cross_entropy_to_the_best_action(played):
    """Breaks with `action` in place of the revealed action in `ppo.loss`, or without its mask."""
    agent, batch = played
    with_teacher, _ = ppo.loss(agent, batch, config())
    without, _ = ppo.loss(agent, batch, config(teacher_weight=0.0))
    outputs, _ = agent.unroll(batch.inputs, batch.state)
    best = batch.inputs.observation["optimal_action"]
    expected = -outputs["policy"].log_probs.gather(-1, best[..., None])[:4].mean()
    torch.testing.assert_close(with_teacher - without, 0.5 * expected)


def test_the_agent_does_not_read_what_is_revealed(played):
    agent, batch = played
    observation = batch.inputs.observation | {"optimal_action": 2 - batch.inputs.observation["optimal_action"]}
    other = batch.inputs._replace(observation=observation)
    outputs = [agent.unroll(inputs, batch.state)[0]["policy"].log_probs for inputs in (batch.inputs, other)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, [0.5, 0.375, 0.25, 0.125, 0, 0, 0, 0]), ({"teacher_share": 0.25}, [0.5, 0.25, 0, 0, 0, 0, 0, 0])],
)
def test_it_fades_out_over_its_share_of_the_steps(tmp_path, monkeypatch, changes, expected):
    """By default half of them. Breaks without `teacher_share` in `ppo._train`."""
    weights, loss = [], ppo.loss
    monkeypatch.setattr(ppo, "loss", lambda a, b, c: (weights.append(c.teacher_weight), loss(a, b, c))[1])
    run = str(tmp_path / "run")
    train(config(num_steps=8 * 5 * 8, num_epochs=1, num_minibatches=1, run_dir=run, **changes))
    assert weights == pytest.approx(expected)


def test_the_trained_agent_plays_without_it(tmp_path, capsys):
    run = tmp_path / "run"
    train(config(num_steps=80, run_dir=str(run)))
    assert "optimal_action" not in read_spaces(run)[0].spaces
    assert load(run).observation_space == make("seqrl/Bandit-v0", 1).single_observation_space
    assert main(["evaluate", str(run), "--num-episodes", "4"]) == 0
    assert main(["adapt", str(run), "--num-trials", "4", "--no-references"]) == 0


def test_resuming_is_bit_for_bit(tmp_path):
    whole = config(num_steps=400, checkpoint_every=5, learn_from_regret=True, run_dir=str(tmp_path / "whole"))
    agent = train(whole)
    parts = replace(whole, run_dir=str(tmp_path / "parts"))
    with pytest.MonkeyPatch.context() as patch:
        learn, calls = ppo.learn, []

        def stopping(*args):
            calls.append(None)
            if len(calls) == 7:
                raise RuntimeError("killed")
            return learn(*args)

        patch.setattr(ppo, "learn", stopping)
        with pytest.raises(RuntimeError, match="killed"):
            train(parts)
    resumed = resume(tmp_path / "parts")
    for mine, theirs in zip(agent.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_learns_from_the_regret_of_what_was_played(tmp_path, monkeypatch):
    """Breaks with `trajectory.reward` in `ppo.rewards`."""
    seen, learn = [], ppo.learn

    def watching(agent, learner, sequences, trajectory, reward, config):
        seen.append((trajectory, reward))
        return learn(agent, learner, sequences, trajectory, reward, config)

    monkeypatch.setattr(ppo, "learn", watching)
    changes = {"learn_from_regret": True, "teacher_weight": 0.0, "normalize_rewards": False}
    agent = train(config(num_steps=80, run_dir=str(tmp_path / "run"), **changes))
    assert len(seen) == 2
    for trajectory, reward in seen:
        regret = trajectory.inputs.observation["regret"]
        for row in range(4):  # the fifth is masked
            for column in range(8):
                assert reward[row, column] == -regret[row, column, trajectory.action[row, column]]
        assert set(trajectory.reward.unique().tolist()) <= {0.0, 1.0}  # what the agent reads is what was paid
    assert set(agent.observation_space.spaces) == {"observation", "episode_start"}


def test_only_where_it_is_told(tmp_path, capsys):
    flags = ["train", "ppo", "--env", "seqrl/DarkRoom-v0", "--learn-from-regret", "--run-dir", str(tmp_path / "run")]
    assert main(flags) == 2
    assert capsys.readouterr().err == (
        "seqrl: --learn-from-regret for 'seqrl/DarkRoom-v0': only trials of seqrl/Bandit-v0 and seqrl/TabularMDP-v0 "
        "tell it\n"
    )


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_share_of_the_steps_lies_above_0_to_1(tmp_path, capsys, share):
    flags = ["train", "ppo", "--env", "seqrl/Bandit-v0", "--teacher-share", share, "--run-dir", str(tmp_path / "run")]
    assert main(flags) == 2
    assert capsys.readouterr().err == (
        f"seqrl: --teacher-share is {float(share)}: it is a share of the steps, choose above 0 to 1\n"
    )
    assert not (tmp_path / "run").exists()


def test_only_trials_have_a_teacher(tmp_path, capsys):
    flags = ["train", "ppo", "--env", "seqrl/TMaze-v0", "--teacher-weight", "1", "--run-dir", str(tmp_path / "run")]
    assert main(flags) == 2
    assert capsys.readouterr().err == (
        "seqrl: --teacher-weight for 'seqrl/TMaze-v0': only trials, such as seqrl/Bandit-v0, know their best action\n"
    )
