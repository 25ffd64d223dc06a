"""Recurrent SAC: its losses against a plain computation, what each of them reaches, and runs that stop and go on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Normal
from torch.nn.functional import softplus

from seqrl import recipes
from seqrl.algorithms import load, ppo, recurrent_sac, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.data import Replay, ReplayBatch, Rollout
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.learner import Learner
from seqrl.run import Run
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.testing import check_agent
from seqrl.trajectory import AgentInput, tree_flatten, tree_map

OBSERVATION = spaces.Box(-1, 1, (3,), np.float32)
ACTION = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
BURN_IN, LENGTH, N = 2, 5, 2
T = BURN_IN + LENGTH


def settings(**changes):
    defaults = {"hidden_size": 8, "length": LENGTH, "overlap": 2, "burn_in": BURN_IN, "gamma": 0.9, "batch_size": 4}
    return recurrent_sac.Config(**{**defaults, "previous_reward": True, **changes})


def networks(config):
    """Policy, temperature and target are moved off their start, where much is 0 or equal."""
    nets = recurrent_sac.build_networks(config, OBSERVATION, ACTION)
    torch.manual_seed(1)
    with torch.no_grad():
        for module in nets:
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return nets


def rows():
    """Column 0 ends by termination at row 3, so row 4 is masked; column 1 by truncation at row 4, so row 5 is."""
    torch.manual_seed(0)
    is_first, flags, mask = (torch.zeros(size, N, dtype=torch.bool) for size in (T + 1, T, T))
    is_first[5, 0] = is_first[6, 1] = True
    terminated, truncated = flags.clone(), flags.clone()
    terminated[3, 0] = truncated[4, 1] = True
    mask[BURN_IN:] = True
    mask[4, 0] = mask[5, 1] = False
    inputs = AgentInput(torch.randn(T + 1, N, 3), torch.randn(T + 1, N, 2), torch.randn(T + 1, N), is_first)
    return ReplayBatch(
        inputs,
        *(torch.randn(T, N, 2), torch.randn(T, N), terminated, truncated, mask, torch.zeros(T, N)),
        *((), torch.arange(N), torch.ones(N), torch.zeros(N)),
    )


def losses(nets, batch, config):
    return recurrent_sac.loss(nets, batch, config, torch.Generator().manual_seed(3))[0]


def plain_losses(nets, batch, config):
    """Row by row, from the equations in `recurrent_sac.loss`, with torch's own normal distribution."""
    noise = torch.empty(LENGTH + 1, N, 2).normal_(generator=torch.Generator().manual_seed(3))
    first = 0 if config.start_state == "burn_in" else BURN_IN
    alpha = nets.temperature.log.exp()
    totals, count = torch.zeros(3), 0

    def outputs(agent, head, b):
        state, found = agent.initial_state(1), {}
        for t in range(first, T + 1):
            out, state = agent.step(tree_map(lambda leaf, t=t: leaf[t, b : b + 1], batch.inputs), state)
            found[t] = out[head]
        return found

    for b in range(N):
        policies = outputs(nets.actor, "policy", b)
        features = outputs(nets.critic.agent, "features", b)
        target_features = outputs(nets.target.agent, "features", b)

        def draw(t, b=b, policies=policies):
            mean, std = policies[t].mean[0, 0], policies[t].log_std.exp()
            raw = mean + std * noise[t - BURN_IN, b]
            log_slope = 2 * (np.log(2) - raw - softplus(-2 * raw))  # log d tanh(u)/du = log(1 − tanh²(u))
            return raw.tanh(), (Normal(mean, std).log_prob(raw) - log_slope).sum()

        for t in range(BURN_IN, T):
            if not batch.mask[t, b]:
                continue
            count += 1
            goal = config.reward_scale * batch.reward[t, b]
            if not batch.terminated[t, b]:
                action, log_prob = draw(t + 1)
                q1, q2 = (value(torch.cat([target_features[t + 1][0, 0], action])) for value in nets.target.values)
                goal = goal + config.gamma * (min(q1, q2) - alpha * log_prob)
            replayed = batch.action[t, b].tanh()
            for value in nets.critic.values:
                totals[1] += 0.5 * (value(torch.cat([features[t][0, 0], replayed])) - goal).item() ** 2
            action, log_prob = draw(t)
            q1, q2 = (value(torch.cat([features[t][0, 0], action])) for value in nets.critic.values)
            totals[0] += (alpha * log_prob - min(q1, q2)).item()
            totals[2] += (-nets.temperature.log * (log_prob - 2)).item()
    return totals / count


# Each of these breaks it: `replayed` for its tanh; `amax` for an `amin`; no `- alpha * log_prob`
# in the target; no `~terminated`; `[:-1]` for `[1:]`; `critic` for `target`; `mean(0)` for `sum(0)`; no reward scale;
# `mask | True` for `mask`; `- action.shape[-1]` in the temperature's loss; a burn-in with --start-state zero.
@pytest.mark.parametrize("start_state", ["zero", "burn_in"])
def test_the_losses_are_those_of_the_equations(start_state):
    config, batch = settings(start_state=start_state, reward_scale=0.5), rows()
    if start_state == "zero":  # its sequences have no burn-in rows
        inputs = tree_map(lambda leaf: leaf[BURN_IN:], batch.inputs)
        short = ReplayBatch(inputs, *(leaf[BURN_IN:] for leaf in batch[1:7]), *batch[7:])
    else:
        short = batch
    nets = networks(config)
    found = torch.stack(losses(nets, short, config))
    torch.testing.assert_close(found, plain_losses(nets, batch, config), rtol=1e-5, atol=1e-5)


# Breaks without `requires_grad_(False)` of the critic's values in the actor's loss or `requires_grad_(True)` after it,
# without `detach` of the features there, of alpha, or of the log-probability in the temperature's loss.
@pytest.mark.parametrize("name", ["actor", "critic", "temperature"])
def test_each_loss_reaches_its_own_network(name):
    config = settings()
    nets = networks(config)
    getattr(losses(nets, rows(), config), name).backward()
    for network in nets._fields:
        gradients = [p.grad for p in getattr(nets, network).parameters()]
        if network == name:
            assert all(gradient is not None and gradient.any() for gradient in gradients)
        else:
            assert all(gradient is None for gradient in gradients)
    assert all(p.requires_grad for p in nets.critic.parameters())


# Breaks without `no_grad` around the burn-in, or if its state is not handed on.
def test_the_burn_in_warms_up_without_a_gradient():
    config, batch = settings(), rows()
    nets = networks(config)
    observation = batch.inputs.observation.requires_grad_()
    before = losses(nets, batch, config)
    (before.actor + before.critic).backward()
    assert not observation.grad[:BURN_IN].any()
    assert observation.grad[BURN_IN:-1].any()
    changed = observation.detach().clone()
    changed[0] += 1
    after = losses(nets, batch._replace(inputs=batch.inputs._replace(observation=changed)), config)
    assert all(x != y for x, y in zip(before, after, strict=True))


# Breaks if `tau` weighs the old weights, or the target takes its step twice.
def test_an_update_moves_the_target_towards_the_critic():
    config = settings(env="seqrl/MaskedPendulum-v0", tau=0.25, num_envs=4)
    environment = make(config.env, 4)
    spaces_of = environment.single_observation_space, environment.single_action_space
    nets = recurrent_sac.build_networks(config, *spaces_of)
    replay = Replay(100, 4, LENGTH, 2, BURN_IN, stores_states=False, priority_exponent=0.0)
    replay.add(Rollout(environment, nets.actor, 0).collect(20, ())[0])
    learners = {name: Learner(getattr(nets, name), 0.01, 1.0) for name in recurrent_sac.Losses._fields}
    old = [p.clone() for p in nets.critic.parameters()]
    recurrent_sac.learn(nets, learners, replay, 0, config)
    for slow, start, quick in zip(nets.target.parameters(), old, nets.critic.parameters(), strict=True):
        assert not torch.equal(start, quick)
        torch.testing.assert_close(slow, 0.75 * start + 0.25 * quick)


@pytest.mark.parametrize("memory", ["none", "gru", "linear"])
def test_the_agent_acts_as_it_learns(memory):
    check_agent(recurrent_sac.build(settings(memory=memory), OBSERVATION, ACTION))


# Breaks without `manual_seed(config.seed)`, or if the seed is a constant.
def test_weights_depend_on_the_seed_alone():
    config = settings()
    one, other = (recurrent_sac.build(config, OBSERVATION, ACTION).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    different = recurrent_sac.build(replace(config, seed=1), OBSERVATION, ACTION).state_dict()
    assert not torch.equal(one["heads.policy.linear.weight"], different["heads.policy.linear.weight"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_state": "stored"}, r"--start-state stored: the critics never act.*choose zero or burn_in"),
        ({"start_state": "refresh"}, r"--start-state refresh: .*choose zero or burn_in"),
        ({"burn_in": 0}, r"--burn-in 0: give it rows to burn in, or take --start-state zero"),
        ({"tau": 0.0}, r"--tau is 0.0: it must be above 0 and at most 1"),
        ({"reward_scale": 0.0}, r"--reward-scale is 0.0: it must be above 0"),
        ({"num_steps": 60}, r"--learning-starts .* of --num-steps 60: nothing would be learnt"),
        ({"batch_size": 0}, r"--batch-size is 0: it must be at least 1"),
        ({"overlap": LENGTH}, r"--overlap 5 of sequences of --length 5: choose from 0 to 4"),
        ({"learning_starts": 10}, r"--learning-starts 10: the first whole sequences exist after 64 steps"),
        ({"replay_capacity": 10}, r"--replay-capacity 10 holds no sequence of each of 8 environments"),
        ({"replay_storage": "tape"}, r"--replay-storage 'tape': choose memory or disk"),
        ({"autoreset_mode": "same_step"}, r"--autoreset-mode same_step: .*use next_step"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        train(settings(env="seqrl/MaskedPendulum-v0", **changes))


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,), np.float32)])
def test_other_actions_are_refused(space):
    with pytest.raises(UserError, match=r"needs bounded continuous actions, not .*: use ppo"):
        recurrent_sac.build(settings(), OBSERVATION, space)


def test_a_discrete_environment_is_refused_in_one_line(tmp_path, capsys):
    flags = ["--env", "seqrl/TMaze-v0", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "recurrent_sac", *flags]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "needs bounded continuous actions, not Discrete(4)" in message
    assert not (tmp_path / "run").exists()


# Breaks if `settings_for` does not ask whether a recipe is PPO's.
def test_comparisons_do_not_start_from_its_recipe(monkeypatch):
    recipe = recipes.masked_pendulum_sac
    monkeypatch.setattr(recipes, "RECIPES", {recipe.__name__: recipe})
    assert recipes.settings_for(recipe().env) == ppo.Config(env=recipe().env)


class Crash(BaseException):
    """The end of the process, as far as the code under test can tell."""


# Breaks if `critic`, `target`, `temperature`, a learner or the replay is left out of the TrainingState; if the draws of
# an update come from torch's global generator; if `version` starts from 0.
@pytest.mark.parametrize("env", ["seqrl/MaskedPendulum-v0", "Pendulum-v1"])
def test_a_run_that_crashed_goes_on_bit_for_bit(tmp_path, monkeypatch, env):
    config = settings(
        env=env, num_envs=2, num_steps=160, rollout_length=10, learning_starts=40, replay_ratio=2.0, checkpoint_every=3,
        env_kwargs=("max_episode_steps=17",), learning_rate=0.01, replay_capacity=100,
    )  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(replace(config, run_dir=str(whole)))
    log = Run.log

    def crashing(self, step, values):
        log(self, step, values)
        if step == 100:
            raise Crash

    monkeypatch.setattr(Run, "log", crashing)
    with pytest.raises(Crash):
        train(replace(config, run_dir=str(broken)))
    monkeypatch.undo()
    agent = resume(broken)
    (tree, counters), (expected, expected_counters) = (load_checkpoint(run / CHECKPOINT) for run in (broken, whole))
    assert counters == expected_counters
    leaves, expected_leaves = tree_flatten(tree), tree_flatten(expected)
    assert leaves.keys() == expected_leaves.keys()
    assert not [name for name in leaves if not torch.equal(leaves[name], expected_leaves[name])]
    logged, expected_log = (
        [{k: v for k, v in line.items() if k != "steps_per_second"} for line in read_metrics(run)]
        for run in (broken, whole)
    )
    assert logged == expected_log
    assert logged[-1]["critic_loss"] > 0
    loaded = load(broken).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in agent.state_dict().items())
