"""R2D2: its loss by hand, what each start state gives, and how stale that is."""

import clock  # noqa: F401  registers tests/Clock-v0
import pytest
import torch

from seqrl.algorithms import r2d2
from seqrl.data import Replay, Rollout
from seqrl.data.replay import discrepancy
from seqrl.data.sharded_replay import ShardedReplay
from seqrl.envs import make
from seqrl.testing import check_agent
from seqrl.trajectory import tree_cat, tree_flatten, tree_map

NUM_ENVS = 3
START_STATES = ["zero", "burn_in", "stored", "stored_burn_in", "refresh"]


class Training:
    """The pieces of `r2d2.train`: agents with weights that matter, and a replay filled by the first one."""

    def __init__(self, start_state="stored", memory="gru", length=None, num_rollouts=8, capacity=3_000, **options):
        settings = {"length": 6, "overlap": 2, "burn_in": 3, "n_step": 3, "gamma": 0.9, "hidden_size": 8}
        settings |= {"num_envs": NUM_ENVS, "start_state": start_state, "memory": memory, "batch_size": 12}
        self.config = r2d2.Config(**(settings | options))
        kwargs = {} if length is None else {"length": length, "end": "truncated"}
        self.environment = make("tests/Clock-v0", NUM_ENVS, vectorization="sync", env_kwargs=kwargs)
        self.agent, self.target = self.new_agent(0), self.new_agent(1)
        burn_in = r2d2.burn_in_rows(self.config)
        self.replay = Replay(capacity, NUM_ENVS, self.config.length, self.config.overlap, burn_in, slack=10)
        rollout = Rollout(self.environment, self.agent, 0, explore=lambda policy: policy.with_epsilon(0.5))
        rows = []
        for version in range(num_rollouts):
            trajectory, _ = rollout.collect(10, self.replay.state_rows(10))
            number = (torch.arange(10)[:, None] + 10 * version) * NUM_ENVS + torch.arange(NUM_ENVS)
            self.replay.add(trajectory._replace(behaviour_log_prob=number.float()), version)
            rows.append(tree_map(lambda leaf: leaf[:-1], trajectory.inputs))
        self.history = tree_cat(rows)

    def new_agent(self, seed):
        environment, config = self.environment, r2d2.Config(**{**vars(self.config), "seed": seed})
        agent = r2d2.build(config, environment.single_observation_space, environment.single_action_space)
        for parameter in agent.heads.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.5, generator=torch.Generator().manual_seed(seed))
        return agent

    def batch(self):
        return self.replay.sample(self.config.batch_size, version=20)

    def values(self, batch, agent=None):
        """What the memory of the whole episode makes of the rows learnt from, [length + 1, N, actions]."""
        agent, config = agent or self.agent, self.config
        outputs, _ = agent.unroll(self.history, agent.initial_state(NUM_ENVS))
        first = batch.behaviour_log_prob[0].long() // NUM_ENVS + r2d2.burn_in_rows(config)
        rows = first + torch.arange(config.length + 1)[:, None]
        return outputs["policy"].values.detach()[rows, batch.behaviour_log_prob[0].long() % NUM_ENVS]

    def unrolled(self, batch, agent=None):
        config = self.config
        return r2d2.unroll(agent or self.agent, batch, config, config.length - config.overlap)[0].detach()


def squash(x):
    return (1 if x >= 0 else -1) * ((abs(x) + 1) ** 0.5 - 1) + 0.001 * x


def unsquash(x):
    """By bisection of `squash`."""
    low, high = -1e4, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if squash(middle) < x else (low, middle)
    return low


def loss_by_hand(training, batch):
    """Sequence by sequence and row by row, as the paper says it: the loss, and each sequence's priority."""
    config, total, count, priorities = training.config, 0.0, 0, []
    h, inverse = (squash, unsquash) if config.rescale_values else (float, float)
    burn_in = r2d2.burn_in_rows(config)
    for n in range(len(batch.slot)):
        q, q_target = [], []
        for agent, values in ((training.agent, q), (training.target, q_target)):
            state = tree_map(lambda leaf, n=n: leaf[n : n + 1], batch.state)
            for t in range(burn_in + config.length + 1):
                row = tree_map(lambda leaf, t=t, n=n: leaf[t, n : n + 1], batch.inputs)
                outputs, state = agent.step(row, state)
                values.append(outputs["policy"].values[0, 0].tolist())
        reward, terminated, truncated, mask = (leaf[:, n].tolist() for leaf in batch[2:6])
        errors = []
        for t in range(burn_in, burn_in + config.length):
            goal, factor, k = 0.0, 1.0, t
            for _ in range(config.n_step):
                goal += factor * reward[k]
                factor *= config.gamma * (not terminated[k])
                k += 1
                if terminated[k - 1] or truncated[k - 1] or k == burn_in + config.length:
                    break
            best = max(range(3), key=lambda a, k=k: q[k][a])
            goal = h(goal + factor * inverse(q_target[k][best]))
            if mask[t]:
                error = goal - q[t][batch.action[t, n]]
                total, count = total + float(batch.weight[n]) * error**2 / 2, count + 1
                errors.append(abs(error))
        eta = config.priority_max_weight
        priorities.append(eta * max(errors) + (1 - eta) * sum(errors) / len(errors) if errors else 0.0)
    return total / count, priorities


# Breaks if the next action is the target network's own best (`q_target.argmax`), its value is the online one's
# (`q.gather`), `trace` or `discount` leave an end out, `forward` and `backward` are swapped, the rows are one off
# (`[:-1]` for `[1:]`), the weights are left out, or the priority has max and mean the other way around.
@pytest.mark.parametrize(
    ("start_state", "options"),
    [
        ("stored", {}),
        ("stored", {"rescale_values": False, "n_step": 1}),
        ("stored_burn_in", {"n_step": 9, "priority_max_weight": 0.3}),
        ("refresh", {"memory": "lstm"}),
    ],
)
def test_the_loss_by_hand(start_state, options):
    training = Training(start_state, **options)
    batch = training.batch()
    batch = batch._replace(weight=torch.linspace(0.2, 1.0, len(batch.slot)))
    counted = batch.mask[r2d2.burn_in_rows(training.config) :]
    assert 0 < counted.float().mean() < 1
    assert (batch.truncated & ~batch.terminated & batch.mask).any()
    assert (batch.terminated & batch.mask).any()
    loss, metrics, _ = r2d2.loss(training.agent, training.target, batch, training.config)
    expected, priorities = loss_by_hand(training, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(metrics["priority"], torch.tensor(priorities), rtol=1e-4, atol=1e-5)
    assert metrics["loss"] == loss


# Breaks without `no_grad` around the burn-in. (Goals are kept out twice: by `no_grad`, and by `squared_error`.)
@pytest.mark.parametrize("start_state", START_STATES)
def test_the_gradient_reaches_the_online_agent_alone(start_state):
    training = Training(start_state)
    batch = training.batch()
    observation = batch.inputs.observation.requires_grad_()
    _, metrics, state = r2d2.loss(training.agent, training.target, batch, training.config)
    r2d2.loss(training.agent, training.target, batch, training.config)[0].backward()
    assert all(p.grad is None for p in training.target.parameters())
    assert all(p.grad is not None and p.grad.any() for p in training.agent.heads.parameters())
    assert not any(metric.requires_grad for metric in metrics.values())
    burn_in = r2d2.burn_in_rows(training.config)
    assert not observation.grad[:burn_in].any()
    assert observation.grad[burn_in].any()
    assert (start_state == "refresh") == (state != ())


# Breaks if masked rows' errors count in the loss or in the priorities.
def test_masked_rows_have_no_say():
    training = Training("stored_burn_in")
    batch = training.batch()
    expected = r2d2.loss(training.agent, training.target, batch, training.config)
    masked = ~batch.mask
    other = batch._replace(
        action=torch.where(masked, (batch.action + 1) % 3, batch.action),
        reward=torch.where(masked, 1e3, batch.reward),
        behaviour_log_prob=batch.behaviour_log_prob * 0,
    )
    found = r2d2.loss(training.agent, training.target, other, training.config)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1]["priority"], expected[1]["priority"])


# A stored state is that of the whole episode while the weights stay as they acted. Breaks if `start_state` gives "zero"
# the stored state or "refresh" none, or `unroll` starts the rows behind the burn-in with the state before it.
@pytest.mark.parametrize("memory", ["gru", "lstm", "frame_stack"])
@pytest.mark.parametrize("start_state", START_STATES)
def test_start_states_before_an_update(start_state, memory):
    training = Training(start_state, memory, length=25)
    batch = training.batch()
    off = (training.unrolled(batch) - training.values(batch)).abs().amax((0, 2))
    late = batch.inputs.observation[0, :, 1] > 3  # not at an episode's start
    late &= ~batch.inputs.is_first.any(0)
    assert late.any()
    exact = start_state not in ("zero", "burn_in") or (start_state == "burn_in" and memory == "frame_stack")
    assert (off < 1e-4).all() if exact else (off[late] > 1e-3).all()
    found = discrepancy(training.agent, training.replay, batch, start_state)
    if exact:
        assert max(found.values()) < 1e-5
    else:
        assert found["delta_q_first"] > 1e-3


# Breaks if the rows are one off, the norm is over the sequences, or the maximum is over all of them.
@pytest.mark.parametrize("start_state", START_STATES)
def test_discrepancy_by_hand(start_state):
    """Against the whole episode, recomputed with weights that have changed since."""
    training = Training(start_state, length=25)
    training.agent.load_state_dict(training.new_agent(5).state_dict())
    batch = training.batch()
    found = discrepancy(training.agent, training.replay, batch, start_state)
    stale, fresh = training.unrolled(batch)[:-1], training.values(batch)[:-1]
    for name, t in (("delta_q_first", 0), ("delta_q_last", -1)):
        expected = [
            float((stale[t, n] - fresh[t, n]).norm() / stale[:, n].abs().max())
            for n in range(len(batch.slot))
            if batch.mask[r2d2.burn_in_rows(training.config) :][t, n]
        ]
        assert found[name].item() == pytest.approx(sum(expected) / len(expected), rel=1e-3)
        assert found[name] > 1e-4 or start_state.endswith("burn_in")


def test_no_discrepancy_where_no_episode_is_whole():
    training = Training(length=200, capacity=90)  # of the 80 rows of an episode, the last 30 are stored
    assert discrepancy(training.agent, training.replay, training.batch(), "stored") == {}


# Breaks if `unroll` returns the state after `length` rows, or of the target network; or `write_back` the wrong slot.
@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_refreshed_states_are_todays(memory):
    training = Training("refresh", memory, length=25)
    agent, replay, stride = training.agent, training.replay, training.config.length - training.config.overlap
    agent.load_state_dict(training.new_agent(5).state_dict())
    batch = replay.sample(40, version=20)
    _, _, state = r2d2.loss(agent, training.target, batch, training.config)
    head = tree_map(lambda leaf: leaf[:stride], batch.inputs)
    _, expected = agent.unroll(head, batch.state)
    for name, leaf in tree_flatten(expected).items():
        torch.testing.assert_close(tree_flatten(state)[name], leaf)
    replay.write_back(batch.slot, state, version=20)
    number = (batch.behaviour_log_prob[0].long() + stride * NUM_ENVS).tolist()  # of the next sequences
    after, seen = replay.sample(200, version=21), 0
    for n, key in enumerate(after.behaviour_log_prob[0].long().tolist()):
        assert (after.age[n] == 1) == (key in number)
        if key in number:
            for name, leaf in tree_flatten(after.state).items():
                assert torch.equal(leaf[n], tree_flatten(state)[name][number.index(key)].detach())
            seen += 1
    assert seen > 20


# Breaks if `learn` leaves out `write_back`, `set_priority` or the copy to the target network.
def test_one_update():
    training = Training("refresh", length=25, target_every=2)
    config, learner = training.config, r2d2.Learner(training.agent, 1e-2, 10.0)
    leaves, states = training.replay.tree.leaves.clone(), training.replay.states.clone()
    before = [p.clone() for p in training.target.parameters()]
    metrics = r2d2.learn(training.agent, training.target, learner, training.replay, 20, config)
    assert not torch.equal(training.replay.tree.leaves, leaves)
    assert not torch.equal(training.replay.states, states)
    assert all(map(torch.equal, before, training.target.parameters()))
    assert {"loss", "grad_norm", "state_age", "state_age_max"} <= metrics.keys()
    assert "priority" not in metrics
    assert 13 <= metrics["state_age"] <= metrics["state_age_max"] <= 20
    r2d2.learn(training.agent, training.target, learner, training.replay, 21, config)
    assert all(map(torch.equal, training.agent.parameters(), training.target.parameters()))


def test_the_ladder():
    """Golden: 0.4, 0.4^(1 + 7/3), … 0.4^8; one environment has the first ε."""
    found = r2d2.ladder(r2d2.Config(num_envs=4), torch.device("cpu"))
    torch.testing.assert_close(found, torch.tensor([0.4, 0.4 ** (10 / 3), 0.4 ** (17 / 3), 0.4**8]))
    torch.testing.assert_close(r2d2.ladder(r2d2.Config(num_envs=1), torch.device("cpu")), torch.tensor([0.4]))
    assert torch.equal(r2d2.ladder(r2d2.Config(num_envs=2, num_actors=2), torch.device("cpu")), found)


# Breaks if an actor takes the first part of the ladder, whatever its index.
def test_each_actor_has_its_part_of_the_ladder():
    config = r2d2.Config(env="tests/Clock-v0", num_envs=2, num_actors=3, hidden_size=8)
    parts = [r2d2.make_actor(config, index, 0).rollout.explore.epsilon for index in range(3)]
    assert torch.equal(torch.cat(parts), r2d2.ladder(config, torch.device("cpu")))


# Breaks if an actor's rows are one off (`rows.best[:-1]`), the burn-in's rows or masked ones count, `best` is the value
# of the action, or a sequence that spans trajectories misses some of its rows.
@pytest.mark.parametrize("rollout_length", [2, 5, 40])
@pytest.mark.parametrize(
    "options", [{"start_state": "stored"}, {"start_state": "stored_burn_in", "rescale_values": False, "n_step": 4}]
)
def test_first_priorities_are_those_of_the_loss(rollout_length, options):
    """An actor's priority is that of the loss with the actor's weights in both networks, from the state it had."""
    settings = {"length": 6, "overlap": 2, "burn_in": 3, "n_step": 3, "gamma": 0.9, "hidden_size": 8}
    settings |= {"env": "tests/Clock-v0", "num_envs": NUM_ENVS, "num_actors": 2, "rollout_length": rollout_length}
    settings |= {"priority_exponent": 1.0, "checkpoint_every": 100, "run_dir": "unused", "replay_capacity": 100_000}
    config = r2d2.Config(**(settings | options))
    actor = r2d2.make_actor(config, 1, 0)
    agent = actor.rollout.agent
    for parameter in agent.heads.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.5, generator=torch.Generator().manual_seed(3))
    weights = {name: leaf.clone() for name, leaf in agent.state_dict().items()}
    burn_in = r2d2.burn_in_rows(config)
    replay = ShardedReplay([Replay(100_000, NUM_ENVS, 6, 2, burn_in, priority_exponent=1.0, slack=100)])
    for _ in range(160 // rollout_length):
        sent = actor.collect(weights, 0)
        replay.add(sent.trajectory, 0, 0, sent.first_row, sent.priority)
    batch = replay.sample(200)
    assert (batch.truncated & ~batch.terminated & batch.mask).any()
    assert (batch.terminated & batch.mask).any()
    _, metrics, _ = r2d2.loss(agent, agent, batch, config)
    found = replay.shards[0].tree.leaves[batch.slot].float()
    counted = batch.mask.any(0)
    torch.testing.assert_close(found[counted], metrics["priority"][counted], rtol=1e-3, atol=1e-4)
    assert len(found.unique()) > 50


def test_who_gives_first_priorities():
    one, two = r2d2.Config(), r2d2.Config(num_actors=2)
    assert [r2d2.keeps_first_priorities(config) for config in (one, two)] == [False, True]
    assert not r2d2.keeps_first_priorities(r2d2.Config(num_actors=2, first_priority="largest"))
    assert not r2d2.keeps_first_priorities(r2d2.Config(num_actors=2, priority_exponent=0.0))  # nobody looks at them
    config = r2d2.Config(env="tests/Clock-v0", num_envs=2, rollout_length=81, first_priority="acted")
    actor = r2d2.make_actor(config, 0, 0)
    assert actor.collect(actor.rollout.agent.state_dict(), 0).priority.shape == (2, 2)


def test_updates_due():
    """Golden: one update learns from 32 · 40 rows, so at a ratio of 4 one is due every 320 steps."""
    config = r2d2.Config(batch_size=32, length=40, replay_ratio=4.0, learning_starts=5_000)
    assert [r2d2.updates_due(step, config) for step in (0, 5_000, 5_319, 5_320, 8_200)] == [0, 0, 0, 1, 10]


@pytest.mark.parametrize("memory", ["gru", "lstm", "transformer", "frame_stack"])
def test_the_agent_acts_as_it_learns(memory):
    check_agent(Training("burn_in", memory, num_rollouts=1).agent, num_steps=8, batch_size=2)
