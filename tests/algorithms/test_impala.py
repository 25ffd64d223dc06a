"""IMPALA: its loss by hand, what each correction does, what the learner learns from, and what it refuses."""

import math
from dataclasses import replace

import clock  # noqa: F401  registers tests/Clock-v0
import pytest
import torch

from seqrl import recipes
from seqrl.algorithms import impala, load, ppo, resume, train
from seqrl.checkpoint import load_checkpoint
from seqrl.cli import main
from seqrl.data import TrajectoryReplay
from seqrl.errors import UserError
from seqrl.learner import Learner
from seqrl.nets import RewardScale
from seqrl.run_folder import CHECKPOINT, read_metrics
from seqrl.testing import check_agent
from seqrl.trajectory import tree_cat, tree_map

MEMORIES = ["none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer"]
CORRECTIONS = ["vtrace", "one_step", "epsilon", "none"]
NUM_ENVS, NUM_ACTORS, ROLLOUT_LENGTH = 3, 2, 8


def settings(**changes):
    defaults = {"env": "tests/Clock-v0", "num_envs": NUM_ENVS, "num_actors": NUM_ACTORS, "hidden_size": 8}
    defaults |= {"rollout_length": ROLLOUT_LENGTH, "previous_action": True, "previous_reward": True, "gamma": 0.9}
    return impala.Config(**{**defaults, **changes})


class Training:
    """The pieces of `impala.train`, one update at a time."""

    def __init__(self, learning_rate=0.01, **changes):
        self.config = settings(**changes)
        self.engine = impala.make_engine(self.config)
        environment = self.engine.actors[0].rollout.environment
        self.agent = impala.build(self.config, environment.single_observation_space, environment.single_action_space)
        torch.nn.init.normal_(self.agent.heads["policy"].linear.weight, generator=torch.Generator().manual_seed(0))
        self.learner = Learner(self.agent, learning_rate, 0.5)
        self.scale = RewardScale(NUM_ACTORS * NUM_ENVS, self.config.gamma)
        self.replay = TrajectoryReplay(self.config.replay_capacity, 0)
        self.version = 0
        self.publish()

    def publish(self):
        self.engine.publish(self.agent.state_dict(), self.version)

    def collect(self):
        return [self.engine.receive() for _ in range(self.config.batch_size - impala.num_replayed(self.config))]

    def update(self, fresh=None):
        fresh = fresh or self.collect()
        metrics = impala.learn(self.agent, self.learner, self.scale, self.replay, fresh, self.version, self.config)
        self.version += 1
        self.publish()
        return metrics

    def batch(self):
        return tree_cat([shipment.trajectory for shipment in self.collect()], dim=1)


# Breaks if the unroll starts from a zero state, or the actors act with other statistics than they are sent.
@pytest.mark.parametrize("memory", MEMORIES)
def test_on_policy_the_ratio_is_one(memory):
    training = Training(memory=memory, env="CartPole-v1", hide=(1, 3))
    for _ in range(3):
        batch = training.batch()
        state = tree_map(lambda leaf: leaf[0], batch.states)
        outputs, _ = training.agent.unroll(tree_map(lambda leaf: leaf[:-1], batch.inputs), state)
        difference = outputs["policy"].log_prob(batch.action) - batch.behaviour_log_prob
        assert difference.abs().max() < 1e-5
        metrics = training.update()
        assert metrics["clipped_rho"] == metrics["clipped_c"] == metrics["policy_lag_max"] == 0.0


def test_the_agent_acts_as_it_learns():
    check_agent(Training(memory="gru").agent, num_steps=8, batch_size=2)


def loss_by_hand(training, batch):
    """Column by column and row by row, as the paper says it."""
    config, policy_loss, value_loss, entropy, count = training.config, 0.0, 0.0, 0.0, 0
    for b in range(batch.reward.shape[1]):
        log_probs, values = [], []
        state = tree_map(lambda leaf, b=b: leaf[0, b : b + 1], batch.states)
        for t in range(ROLLOUT_LENGTH + 1):
            row = tree_map(lambda leaf, t=t, b=b: leaf[t, b : b + 1], batch.inputs)
            outputs, state = training.agent.step(row, state)
            log_probs.append(outputs["policy"].log_probs[0, 0].tolist())
            values.append(outputs["value"].item())
        action, reward, terminated, truncated, mask, behaviour = (leaf[:, b].tolist() for leaf in batch[1:7])
        log_prob = [log_probs[t][a] for t, a in enumerate(action)]
        ratio = [math.exp(x - y) for x, y in zip(log_prob, behaviour, strict=True)]
        corrects = config.correction == "vtrace"
        rho = [min(config.clip_rho, x) if corrects else 1.0 for x in ratio]
        c = [config.vtrace_lambda * (min(config.clip_c, x) if corrects else 1.0) for x in ratio]
        target = [0.0] * ROLLOUT_LENGTH + [values[-1]]
        for t in reversed(range(ROLLOUT_LENGTH)):
            if not mask[t]:
                continue  # an end: rows before it do not ask for it
            discount = 0.0 if terminated[t] else config.gamma
            delta = rho[t] * (reward[t] + discount * values[t + 1] - values[t])
            cut = terminated[t] or truncated[t]
            following = values[t + 1] if cut else target[t + 1]
            target[t] = values[t] + delta + discount * c[t] * (following - values[t + 1])
            mixed = (1 - config.vtrace_lambda) * values[t + 1] + config.vtrace_lambda * following
            advantage = (ratio[t] if config.correction == "one_step" else 1.0) if not corrects else rho[t]
            if config.correction == "one_step":
                advantage = min(config.clip_rho, advantage)
            advantage *= reward[t] + discount * mixed - values[t]
            score = math.log(math.exp(log_prob[t]) + 1e-6) if config.correction == "epsilon" else log_prob[t]
            policy_loss -= advantage * score
            value_loss += (target[t] - values[t]) ** 2 / 2
            entropy -= sum(math.exp(x) * x for x in log_probs[t])
            count += 1
    return (policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy) / count


# Breaks if a correction is taken for another; if the trace is not cut in front of a masked row; if the last row
# bootstraps from the row before it.
@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("lambda_", [1.0, 0.8])
def test_the_loss_by_hand(correction, lambda_):
    training = Training(correction=correction, vtrace_lambda=lambda_, clip_rho=1.2, clip_c=0.9, forced_lag=2)
    for _ in range(4):
        training.update()
    batch = training.batch()
    assert batch.terminated.any()
    assert (batch.truncated & ~batch.terminated).any()
    expected = loss_by_hand(training, batch)
    found, metrics = impala.loss(training.agent, batch, training.config)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert metrics["clipped_rho"] > 0
    assert metrics["clipped_c"] >= metrics["clipped_rho"]


def test_corrections_agree_on_policy_and_differ_off_it():
    """Breaks if `none` weighs anything, or the weights of the others do not reach the loss."""
    for lag in (0, 3):
        training = Training(forced_lag=lag)
        for _ in range(5):
            training.update()
        batch = training.batch()
        losses = [impala.loss(training.agent, batch, replace(training.config, correction=c))[0] for c in CORRECTIONS]
        vtrace, one_step, epsilon, none = (float(loss.detach()) for loss in losses)
        assert epsilon == pytest.approx(none, rel=1e-4)
        if lag == 0:
            assert vtrace == pytest.approx(none, rel=1e-4)
            assert one_step == pytest.approx(none, rel=1e-4)
        else:
            assert len({round(x, 4) for x in (vtrace, one_step, none)}) == 3


def test_epsilon_lets_go_of_actions_that_are_all_but_impossible():
    """Breaks if ε is left out: by log π(a) the gradient is 1 − π(a), however small π(a) is; by log(π + ε) it is not."""
    training = Training(entropy_weight=0.0, value_weight=0.0)
    batch = training.batch()
    batch = batch._replace(action=torch.full_like(batch.action, 2))
    bias = training.agent.heads["policy"].linear.bias
    bias.data = torch.tensor([0.0, 0.0, -30.0])
    gradients = {}
    for correction in ("epsilon", "none"):
        bias.grad = None
        impala.loss(training.agent, batch, replace(training.config, correction=correction))[0].backward()
        gradients[correction] = bias.grad.abs().max()
    assert gradients["none"] > 0.1
    assert gradients["epsilon"] < 1e-3 * gradients["none"]


# Breaks if a mean of the loss is taken over all rows.
def test_masked_rows_have_no_say():
    training = Training()
    training.update()
    batch = training.batch()
    masked = ~batch.mask
    assert masked.any()
    # A final observation's row has a value, which counts; what was done there does not.
    other = batch._replace(
        action=torch.where(masked, (batch.action + 1) % 3, batch.action),
        behaviour_log_prob=torch.where(masked, torch.tensor(-7.0), batch.behaviour_log_prob),
        reward=torch.where(masked, torch.tensor(50.0), batch.reward),
    )
    expected, found = (impala.loss(training.agent, b, training.config)[0] for b in (batch, other))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("lag", [0, 2, 5])
def test_the_lag_is_logged(lag):
    """Breaks if the version of a trajectory is not the one that acted it."""
    training = Training(forced_lag=lag)
    lags = [training.update()["policy_lag"] for _ in range(8)]
    assert lags == [min(lag, version) for version in range(8)]


def test_a_share_comes_from_the_replay():
    """Breaks if replayed trajectories are added again, or under the learner's version, or none is drawn."""
    training = Training(batch_size=4, replay_share=0.5, replay_capacity=6, forced_lag=1)
    sizes, oldest = [], []
    sample = training.replay.sample
    training.replay.sample = lambda number, device: sizes.append(number) or sample(number, device)
    for _ in range(8):
        metrics = training.update()
        oldest.append(metrics["policy_lag_max"])
    assert sizes == [2] * 8
    assert len(training.replay) == 6
    assert oldest[0] == 0
    assert max(oldest) == 4  # six trajectories, two an update, drawn before the fresh ones come in
    assert {version for _, version in training.replay.rows} == {4, 5, 6}
    assert 0 < metrics["policy_lag"] < metrics["policy_lag_max"]


def test_rewards_are_scaled_where_they_are_learnt_from():
    """Breaks if the batch keeps the clock's own rewards, which are in the tens, or the replay takes in scaled ones."""
    losses = {}
    for normalize in (True, False):
        training = Training(batch_size=4, replay_share=0.5, normalize_rewards=normalize)
        losses[normalize] = [training.update()["value_loss"] for _ in range(4)]
        assert torch.cat([trajectory.reward for trajectory, _ in training.replay.rows]).max() > 10
    assert max(losses[True]) < 20
    assert min(losses[False]) > 100


def test_scales_follow_each_actor():
    """Breaks if actors share the columns of the running return."""
    training = Training()
    separate = [RewardScale(NUM_ENVS, training.config.gamma) for _ in range(NUM_ACTORS)]
    for _ in range(3):
        shipments = training.collect()
        training.update(shipments)
        for shipment in shipments:
            rows = shipment.trajectory
            separate[shipment.actor].update(rows.reward, rows.inputs.is_first[:-1], rows.mask)
    assert torch.equal(training.scale.carry, torch.cat([scale.carry for scale in separate]))


def test_every_memory_and_action_space_trains(tmp_path):
    for memory in MEMORIES:
        config = settings(env="seqrl/MaskedPendulum-v0", memory=memory, num_steps=96, run_dir=str(tmp_path / memory))
        train(config)
        assert [line["step"] for line in read_metrics(tmp_path / memory)] == [48, 96]


def tiny(env, *flags):
    args = ["train", "impala", "--env", env, "--num-envs", "2", "--hidden-size", "8", "--rollout-length", "8"]
    return [*args, "--num-steps", "96", "--checkpoint-every", "2", *flags]


@pytest.mark.usefixtures("forked_actors")
def test_asynchronous_training_ends_and_goes_on(tmp_path, capsys):
    """Breaks if the number of updates starts from 0 again, or the actors outlive the run."""
    folder = tmp_path / "run"
    flags = ["--engine", "async", "--replay-share", "0.5", "--run-dir", str(folder)]
    assert main(tiny("seqrl/TMaze-v0", *flags)) == 0
    before = list(read_metrics(folder))
    assert [line["step"] for line in before] == [16 * (k + 1) for k in range(6)]
    assert main(["train", "--resume", str(folder), "--num-steps", "160"]) == 0
    lines = list(read_metrics(folder))
    assert lines[:6] == before
    assert lines[-1]["step"] == 160
    tree, counters = load_checkpoint(folder / CHECKPOINT)
    assert counters == {"step": 160, "updates": 10}
    assert len(tree["trajectories"]["trajectories"]) == 10
    for name in ("policy_lag", "policy_lag_max", "queue_depth", "actor_utilisation", "learner_utilisation"):
        assert lines[-1][name] >= 0
    assert load(folder).state_dict().keys() == tree["agent"].keys()
    assert capsys.readouterr().err == ""


def test_a_run_of_actors_resumes(tmp_path):
    config = settings(env="CartPole-v1", num_steps=96, checkpoint_every=1, run_dir=str(tmp_path / "run"))
    train(config)
    assert len(list(read_metrics(tmp_path / "run"))) == 2
    resume(tmp_path / "run", 192)
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [48, 96, 144, 192]


BAD = [
    ({"correction": "hope"}, r"--correction 'hope': choose one of vtrace, one_step, epsilon, none"),
    ({"engine": "steam"}, r"--engine 'steam': choose one of sync, async, ray"),
    *(({name: 0}, rf"--{name.replace('_', '-')} is 0: it must be at least 1") for name in (
        "hidden_size", "num_envs", "num_actors", "queue_size", "rollout_length", "batch_size", "replay_capacity",
        "num_steps", "checkpoint_every")),
    *(({name: 0.0}, rf"--{name.replace('_', '-')} is 0.0: it must be above 0") for name in (
        "clip_rho", "clip_c", "learning_rate", "gamma", "max_grad_norm")),
    *(({name: -1}, rf"--{name.replace('_', '-')} is -1: it must not be negative") for name in (
        "forced_lag", "value_weight", "entropy_weight")),
    ({"gamma": 1.2}, r"--gamma is 1.2: it must be at most 1"),
    ({"vtrace_lambda": 1.5}, r"--vtrace-lambda is 1.5: it must be from 0 to 1"),
    ({"replay_share": 1.0}, r"--replay-share 1.0 of --batch-size 2 leaves nothing fresh"),
    ({"replay_share": 0.8}, r"--replay-share 0.8 of --batch-size 2 leaves nothing fresh"),
    ({"replay_share": 0.1}, r"--replay-share 0.1 of --batch-size 2 is less than one trajectory"),
    ({"replay_share": -0.1}, r"--replay-share -0.1"),
    ({"address": "auto"}, r"--address 'auto' with --engine sync: only engine ray"),
    ({"actor_timeout": 0.0}, r"--actor-timeout is 0"),
    ({"engine": "async", "forced_lag": 3}, r"--forced-lag 3 with --engine async: only engine sync"),
    ({"learning_rate_schedule": "square"}, r"--learning-rate-schedule 'square': choose linear or constant"),
    ({"autoreset_mode": "same_step"}, r"--autoreset-mode same_step: .*use next_step"),
    ({"noise_correlation": 1.0}, r"--noise-correlation is 1.0: choose 0 to below 1"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_bad_settings_are_refused(changes, message):
    impala.check(impala.Config(env="CartPole-v1"))
    with pytest.raises(UserError, match=message):
        impala.check(impala.Config(env="CartPole-v1", **changes))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["seqrl/TMaze-v0", "--memory", "transformer", "--replay-share", "0.5"], ["--replay-share 0.5", "transformer"]),
        (["seqrl/TMaz-v0"], ["did you mean 'seqrl/TMaze-v0'?"]),
        (["seqrl/TMaze-v0", "--correction", "vtrase"], ["--correction"]),
        (["seqrl/TMaze-v0", "--engine", "async", "--forced-lag", "3"], ["--forced-lag 3"]),
        (["seqrl/TMaze-v0", "--num-actors", "0"], ["--num-actors is 0"]),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, args, words):
    assert main(tiny(*args, "--run-dir", str(tmp_path / "run"))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "run").exists()


# Breaks if `settings_for` does not ask whether a recipe is PPO's.
def test_comparisons_do_not_start_from_its_recipe(monkeypatch):
    recipe = recipes.masked_cartpole_impala
    monkeypatch.setattr(recipes, "RECIPES", {recipe.__name__: recipe})
    assert recipes.settings_for(recipe().env) == ppo.Config(env=recipe().env)
