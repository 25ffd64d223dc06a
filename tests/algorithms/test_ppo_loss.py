"""PPO's loss: what it is before the first update, which rows have a say in it, and what bootstraps."""

import pytest
import torch
from clock import Clock, counting_agent
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from seqrl.algorithms import ppo
from seqrl.data import Batch, Rollout, Sequences
from seqrl.envs import make
from seqrl.envs.adapters import GymnasiumEnvironment
from seqrl.learner import Learner
from seqrl.trajectory import tree_map

MEMORIES = ["none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer"]
NUM_ENVS, ROLLOUT_LENGTH = 4, 6


class Training:
    """The pieces of `ppo.train`, one update at a time."""

    def __init__(self, memory="gru", length=ROLLOUT_LENGTH, burn_in=0, mode="next_step", learning_rate=0.01, **options):
        settings = {
            "memory": memory,
            "bptt_length": length,
            "burn_in": burn_in,
            "rollout_length": ROLLOUT_LENGTH,
            "num_envs": NUM_ENVS,
            "hidden_size": 16,
            "num_epochs": 1,
            "num_minibatches": 1,
            "previous_action": True,
            "previous_reward": True,
            "normalize_observations": True,
        }
        self.config = ppo.Config(**(settings | options))
        environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync", autoreset_mode=mode)
        self.agent = ppo.build(self.config, environment.single_observation_space, environment.single_action_space)
        self.rollout = Rollout(environment, self.agent, seed=0)
        self.sequences = Sequences(ROLLOUT_LENGTH, length, burn_in, seed=0)
        self.learner = Learner(self.agent, learning_rate, 0.5)

    def collect(self):
        trajectory, _ = self.rollout.collect(ROLLOUT_LENGTH, self.sequences.state_rows)
        return trajectory, trajectory.reward / 10

    def update(self):
        trajectory, reward = self.collect()
        metrics = ppo.learn(self.agent, self.learner, self.sequences, trajectory, reward, self.config)
        self.agent.update_statistics(trajectory)
        return metrics

    def batch(self):
        """The sequences of a fresh rollout, as `ppo.learn` cuts them."""
        trajectory, reward = self.collect()
        target, advantage = ppo.advantages(trajectory, reward, self.config)
        inputs = tree_map(lambda leaf: leaf[:-1], trajectory.inputs)
        log_prob = trajectory.behaviour_log_prob
        rows = Batch(inputs, trajectory.action, log_prob, advantage, target, trajectory.mask, trajectory.states)
        return self.sequences.cut(rows)


@pytest.fixture
def ratios(monkeypatch):
    """Each call of the surrogate: |log ratio| [T, N] of the rows that count."""
    seen = []
    surrogate = ppo.clipped_surrogate

    def recorded(log_prob, behaviour_log_prob, advantage, clip):
        log_ratio = (log_prob - behaviour_log_prob).detach().abs()
        seen.append(log_ratio.masked_fill(advantage == 0, 0.0))  # standardised advantages are 0 under the mask
        return surrogate(log_prob, behaviour_log_prob, advantage, clip)

    monkeypatch.setattr(ppo, "clipped_surrogate", recorded)
    return seen


def check_before_an_update(metrics):
    assert metrics["kl"] < 1e-10
    assert metrics["clipped_fraction"] == 0.0
    assert abs(metrics["policy_loss"]) < 1e-5  # minus the mean of standardised advantages


# Breaks if sequences start from a zero state, or `is_first` is not handed on.
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_the_ratio_is_one_before_each_update(memory, mode, ratios):
    training = Training(memory, mode=mode)
    for _ in range(3):
        check_before_an_update(training.update())
    assert all(ratio.max() < 1e-5 for ratio in ratios)
    assert len(ratios) == 3


# Breaks if `state_rows` are one row early or late. (With a burn-in, weights stay as they are: see the next test.)
@pytest.mark.parametrize("memory", ["frame_stack", "gru", "lstm", "linear", "linear_attention"])
@pytest.mark.parametrize(("length", "burn_in"), [(3, 0), (2, 0), (6, 2), (2, 1), (2, 3), (3, 6)])
def test_the_ratio_is_one_in_sequences_with_a_burn_in(memory, length, burn_in, ratios):
    training = Training(
        memory, length, burn_in, learning_rate=0.0 if burn_in else 0.01, normalize_observations=not burn_in
    )
    for _ in range(3):
        check_before_an_update(training.update())
    assert all(ratio.max() < 1e-5 for ratio in ratios)


# Once weights have changed, burn-in rows of the rollout before give the state that today's weights make of them; rows
# of this rollout still give the one that acted.
def test_only_a_burn_in_from_before_the_update_moves_the_ratio(ratios):
    training = Training(length=2, burn_in=2, learning_rate=0.05)
    for _ in range(3):
        training.update()
    off = ratios[2].amax(0) > 1e-5
    assert ratios[0].max() < 1e-5
    assert 1 <= off.sum() <= NUM_ENVS  # the first sequence of each column, at most


def loss_and_gradients(agent, batch, config):
    agent.zero_grad()
    loss, metrics = ppo.loss(agent, batch, config)
    loss.backward()
    return {
        "loss": loss.detach(),
        **metrics,
        **{name: p.grad for name, p in agent.named_parameters() if p.grad is not None},
    }


# Breaks if a mean of the loss is taken over all rows, or advantages are standardised over all rows.
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("length", "burn_in"), [(6, 0), (3, 2)])
def test_masked_rows_have_no_say(length, burn_in, normalize):
    training = Training(length=length, burn_in=burn_in, normalize_advantages=normalize)
    training.update()
    batch = training.batch()
    generator = torch.Generator().manual_seed(0)
    masked = ~batch.mask
    assert masked[burn_in:].any()

    def garbage(leaf):
        noise = 5 * torch.randn(leaf.shape, generator=generator)
        return torch.where(masked, noise, leaf) if leaf.ndim == 2 else torch.where(masked[..., None], noise, leaf)

    observation = garbage(batch.inputs.observation)
    observation[:burn_in] = batch.inputs.observation[:burn_in]  # these are read: they warm the memory up
    other = batch._replace(
        inputs=batch.inputs._replace(observation=observation),
        action=torch.where(masked, (batch.action + 1) % 3, batch.action),
        behaviour_log_prob=garbage(batch.behaviour_log_prob),
        advantage=garbage(batch.advantage),
        target=garbage(batch.target),
    )
    expected = loss_and_gradients(training.agent, batch, training.config)
    found = loss_and_gradients(training.agent, other, training.config)
    assert expected["loss"] != 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


# Breaks without `torch.no_grad()` around the burn-in.
def test_burn_in_rows_get_no_gradient():
    training = Training(length=3, burn_in=2)
    batch = training.batch()
    observation = batch.inputs.observation.requires_grad_()
    state = batch.state.requires_grad_()
    ppo.loss(training.agent, batch, training.config)[0].backward()
    assert not observation.grad[:2].any()
    assert observation.grad[2:].any()
    assert state.grad is None


# Breaks if the state from before the burn-in is handed on to the rows behind it.
def test_burn_in_rows_warm_the_memory_up():
    training = Training(length=3, burn_in=2)
    training.update()
    batch = training.batch()
    observation = batch.inputs.observation.clone()
    observation[:2] += 1
    changed = batch._replace(inputs=batch.inputs._replace(observation=observation))
    expected, found = (ppo.loss(training.agent, b, training.config)[0] for b in (batch, changed))
    assert found != expected


# Values are 1, 2, 3 … from an episode's start (the counter), rewards 1 and 2; γ = λ = ½:
#   δ_1 = 2 + ½ · 3 − 2 = 1.5, or 2 − 2 = 0 after a termination;  δ_0 = 1 + ½ · 2 − 1 = 1;  A_0 = δ_0 + ¼ δ_1.
# Breaks if a truncation is a termination, "both" is a truncation, the trace is not cut, or the bootstrap is the value
# of the next episode's first row (which is 1).
ENDS = [("terminated", [1.0, 0.0]), ("truncated", [1.375, 1.5]), ("both", [1.0, 0.0])]


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(
    ("end", "num_steps", "advantage"),
    [(end, n, a) for end, a in ENDS for n in (2, 3, 7)] + [("the rollout's", 2, [1.375, 1.5])],
)
def test_bootstrapping(mode, end, num_steps, advantage):
    ends = end in ("terminated", "truncated", "both")
    environment = GymnasiumEnvironment(
        SyncVectorEnv(
            [lambda: Clock(2, end) if ends else Clock(5, "terminated"), lambda: Clock(5, "terminated")],
            autoreset_mode=mode,
        )
    )
    agent = counting_agent()
    nn.init.zeros_(agent.heads["policy"].linear.weight)
    agent.heads["policy"].linear.bias.data = torch.tensor([100.0, 0.0, 0.0])  # always action 0
    trajectory, _ = Rollout(environment, agent, seed=0).collect(num_steps)
    config = ppo.Config(gamma=0.5, gae_lambda=0.5)
    target, found = ppo.advantages(trajectory, trajectory.reward, config)
    torch.testing.assert_close(found[:2, 0], torch.tensor(advantage))
    torch.testing.assert_close(target[:2, 0], torch.tensor(advantage) + torch.tensor([1.0, 2.0]))
    assert trajectory.mask[:2, 0].all()
