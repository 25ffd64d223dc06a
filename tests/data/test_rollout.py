"""Rollouts of an environment that shows where it is: every row in its place, in every mode of autoreset."""

from itertools import pairwise

import pytest
import torch
from clock import Clock, GreedyRollout, counting_agent, in_sequence
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

from seqrl.agent import Agent
from seqrl.data import Rollout, insert_final_observations
from seqrl.envs import TorchVectorEnv, make
from seqrl.envs.adapters import GymnasiumEnvironment, TorchEnvironment
from seqrl.errors import UserError
from seqrl.memory import GRU
from seqrl.nets import Encoder, PolicyHead, ValueHead
from seqrl.trajectory import AgentInput, Trajectory, tree_flatten, tree_map

MODES = ["next_step", "same_step", "disabled"]
F, T = False, True

# Episode, step, is_first, mask, reward without the action's share, terminated, truncated. The last row has no reward.
BY_HAND = [
    [
        (0, 0, T, T, 1, F, F),
        (0, 1, F, T, 2, T, F),
        (0, 2, F, F, 0, F, F),
        (1, 0, T, T, 11, F, F),
        (1, 1, F, T, 12, T, F),
        (1, 2, F, F, 0, F, F),
        (2, 0, T),
    ],
    [
        (0, 0, T, T, 1, F, F),
        (0, 1, F, T, 2, F, F),
        (0, 2, F, T, 3, F, T),
        (0, 3, F, F, 0, F, F),
        (1, 0, T, T, 11, F, F),
        (1, 1, F, T, 12, F, F),
        (1, 2, F),
    ],
]


def clocks(mode=AutoresetMode.NEXT_STEP):
    envs = [lambda: Clock(2, "terminated"), lambda: Clock(3, "truncated")]
    return GymnasiumEnvironment(SyncVectorEnv(envs, autoreset_mode=mode))


def gru_agent(environment, seed=0):
    torch.manual_seed(seed)
    observation_space, action_space = environment.single_observation_space, environment.single_action_space
    heads = {"policy": PolicyHead(8, action_space), "value": ValueHead(8)}
    nn.init.normal_(heads["policy"].linear.weight)  # so that actions differ from row to row
    encoder = Encoder(observation_space, 8)
    return Agent(
        observation_space, action_space, encoder, GRU(8, 8), heads, use_previous_action=True, use_previous_reward=True
    )


# Breaks if a row is written with the mask or the inputs of the next, or `following` hides nothing.
def test_rows_by_hand():
    trajectory, episodes = Rollout(clocks(), counting_agent(), seed=0).collect(6)
    inputs, action = trajectory.inputs, trajectory.action
    share = 0.1 * action
    for b, rows in enumerate(BY_HAND):
        for t, (episode, step, is_first, *rest) in enumerate(rows):
            assert inputs.observation[t, b, :2].tolist() == [episode, step]
            assert inputs.is_first[t, b] == is_first
            assert trajectory.value[t, b] == step + 1
            if rest:
                mask, reward, terminated, truncated = rest
                assert trajectory.mask[t, b] == mask
                torch.testing.assert_close(trajectory.reward[t, b], reward + share[t, b] * mask)
                assert trajectory.terminated[t, b] == terminated
                assert trajectory.truncated[t, b] == truncated
    going_on = ~inputs.is_first
    assert not inputs.previous_action[0].any()
    assert torch.equal(inputs.previous_action[1:], action * going_on[1:])
    assert torch.equal(inputs.previous_reward[1:], trajectory.reward * going_on[1:])
    assert torch.equal(inputs.observation[1:, :, 2], (action * going_on[1:]).float())  # what the environment was told
    played = [trajectory.reward[rows, b].sum() for rows, b in ((slice(0, 2), 0), (slice(0, 3), 1), (slice(3, 5), 0))]
    assert episodes.lengths == [2, 3, 2]
    torch.testing.assert_close(torch.tensor(episodes.returns), torch.stack(played))


# Breaks if `collect` resets the environments, or the memory, or loses the last row's mask.
def test_a_rollout_goes_on_where_the_last_one_stopped():
    whole, _ = Rollout(clocks(), counting_agent(), seed=0).collect(12)
    rollout = Rollout(clocks(), counting_agent(), seed=0)
    parts = [rollout.collect(n, state_rows=(0,))[0] for n in (5, 1, 6)]
    for a, b in pairwise(parts):
        assert torch.equal(a.inputs.observation[-1], b.inputs.observation[0])
        assert torch.equal(a.value[-1], b.value[0])
    for name in ("terminated", "truncated", "mask"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    positions = torch.cat([part.inputs.observation[:-1, :, :2] for part in parts])
    assert torch.equal(positions, whole.inputs.observation[:-1, :, :2])
    assert parts[1].states.tolist() == [[2, 1]]  # before row 5 of BY_HAND, whose episodes show 2 rows and 1 row so far


# Breaks if a final observation's row is read with the memory's state from before its last action.
@pytest.mark.parametrize("mode", MODES)
def test_a_counting_memory_through_the_rollout(mode):
    environment = make("tests/Clock-v0", 5, vectorization="sync", autoreset_mode=mode)
    rollout = Rollout(environment, counting_agent(), seed=0)
    ends = 0
    for _ in range(4):
        trajectory, _ = rollout.collect(7, state_rows=(0, 3))
        rows = in_sequence(trajectory, 7)
        count = trajectory.inputs.observation[..., 1] + 1
        assert torch.equal(trajectory.value[:-1][rows], count[:-1][rows])
        assert torch.equal(trajectory.value[-1], count[-1])
        unrolled, _ = rollout.agent.unroll(trajectory.inputs, trajectory.states[0])
        assert torch.equal(unrolled["value"][:-1][rows], count[:-1][rows])
        going_on = ~trajectory.inputs.is_first[0]
        assert torch.equal(trajectory.states[0][going_on], count[0][going_on].long() - 1)
        ends += int((trajectory.terminated | trajectory.truncated).sum())
        assert torch.equal(trajectory.mask.sum(0) if mode != "next_step" else rows.sum(0), torch.full((5,), 7))
    assert ends > 20


def collect_columns(env_id, mode, num_collects, num_steps):
    """For each environment, its rows as one sequence."""
    environment = make(env_id, 4, vectorization="sync", autoreset_mode=mode)
    rollout = GreedyRollout(environment, gru_agent(environment), seed=0)
    columns = [[] for _ in range(4)]
    for _ in range(num_collects):
        trajectory, _ = rollout.collect(num_steps)
        rows, mask = in_sequence(trajectory, num_steps), trajectory.mask
        tree = {
            "inputs": tree_map(lambda leaf: leaf[:-1], trajectory.inputs)._asdict(),
            "action": trajectory.action * mask,  # of rows without a decision nothing is said
            "log_prob": trajectory.behaviour_log_prob * mask,
            "value": trajectory.value[:-1],
            **{name: getattr(trajectory, name) for name in ("reward", "terminated", "truncated", "mask")},
        }
        for b in range(4):
            columns[b].append({name: leaf[rows[:, b], b] for name, leaf in tree_flatten(tree).items()})
    environment.close()
    return [{name: torch.cat([part[name] for part in parts]) for name in parts[0]} for parts in columns]


# Breaks if the final row, its value or its previous action are those of another row in one of the modes.
@pytest.mark.parametrize("env_id", ["tests/Clock-v0", "CartPole-v1"])
def test_the_same_policy_gives_the_same_rows_in_every_mode(env_id):
    reference, *others = (collect_columns(env_id, mode, num_collects=6, num_steps=11) for mode in MODES)
    assert all(column["terminated"].sum() >= 2 for column in reference)
    for other in others:
        for expected, found in zip(reference, other, strict=True):
            num_rows = len(expected["mask"])
            assert len(found["mask"]) > num_rows
            for name, leaf in expected.items():
                assert torch.equal(found[name][:num_rows], leaf), name


def laid_out_by_hand(trajectory, final, final_value):
    """`insert_final_observations`, column by column, with lists."""
    num_steps, num_envs = trajectory.reward.shape
    ended = trajectory.terminated | trajectory.truncated
    columns = []
    for b in range(num_envs):
        rows = []
        for t in range(num_steps):
            rows.append(("played", t))
            if ended[t, b]:
                rows.append(("final", t))
        columns.append([*rows, ("bootstrap", num_steps)])
    length = max(len(rows) for rows in columns)
    for rows in columns:
        rows += [("fill", num_steps)] * (length - len(rows))

    def gather(leaf, last=None, rows=length):
        def pick(kind, t, b):
            if kind == "final":
                return torch.zeros_like(leaf[0, b]) if last is None else last[t, b]
            return torch.zeros_like(leaf[0, b]) if t == len(leaf) else leaf[t, b]

        return torch.stack([torch.stack([pick(*columns[b][i], b) for b in range(num_envs)]) for i in range(rows)])

    inputs = tree_map(gather, trajectory.inputs, final)
    fill = torch.tensor([[columns[b][i][0] == "fill" for b in range(num_envs)] for i in range(length)])
    return Trajectory(
        inputs._replace(is_first=inputs.is_first | fill),
        *(gather(leaf, rows=length - 1) for leaf in trajectory[1:7]),
        gather(trajectory.value, final_value),
        trajectory.states,
    )


# Breaks if `before` counts the row's own end, or the rows that fill up a column are not `is_first`.
@pytest.mark.parametrize("seed", range(6))
def test_final_observations_by_hand(seed):
    generator = torch.Generator().manual_seed(seed)
    num_steps, num_envs = 6, 5

    def rand(rows, *shape):
        return torch.randn(rows, num_envs, *shape, generator=generator)

    def inputs(rows):
        return AgentInput({"x": rand(rows, 2), "y": (rand(rows),)}, rand(rows), rand(rows), rand(rows) > 1)

    terminated, truncated = rand(num_steps) > 0.5, rand(num_steps) > 0.8
    terminated[-1, 0] = True  # an end at the last row
    terminated[:, 1] = True  # nothing but ends
    terminated[:, 2] = truncated[:, 2] = False  # none
    if seed == 0:
        terminated[:], truncated[:] = False, False
    everyone = torch.ones(num_steps, num_envs, dtype=torch.bool)
    trajectory = Trajectory(
        inputs(num_steps + 1),
        rand(num_steps, 2),
        rand(num_steps),
        terminated,
        truncated,
        everyone,
        rand(num_steps),
        rand(num_steps + 1),
        rand(1),
    )
    final, final_value = inputs(num_steps), rand(num_steps)
    found = tree_flatten(insert_final_observations(trajectory, final, final_value))
    expected = tree_flatten(laid_out_by_hand(trajectory, final, final_value))
    for name, leaf in expected.items():
        assert torch.equal(found[name], leaf), name


# Breaks if the trajectory keeps the environment's action in place of the raw draw.
def test_raw_actions_are_kept_and_the_previous_action_is_the_environments():
    environment = make("seqrl/MaskedPendulum-v0", 3)
    agent = gru_agent(environment)
    trajectory, _ = Rollout(environment, agent, seed=0).collect(9)
    with torch.no_grad():
        outputs, _ = agent.unroll(tree_map(lambda leaf: leaf[:-1], trajectory.inputs), trajectory.states[0])
    policy = outputs["policy"]
    assert (trajectory.action.abs() > 1).any()  # drawn from beyond the box, and clipped on the way
    torch.testing.assert_close(policy.log_prob(trajectory.action), trajectory.behaviour_log_prob)
    assert torch.equal(trajectory.inputs.previous_action[1:], policy.to_environment(trajectory.action))


# Breaks without the square root of 1 − ρ², or if the noise is not kept from step to step.
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_noise_is_standard_normal_and_correlated_as_asked(rho):
    environment = make("seqrl/MaskedPendulum-v0", 500)
    agent = gru_agent(environment)
    rollout = Rollout(environment, agent, seed=0, noise_correlation=rho)
    noise = []
    for _ in range(2):
        trajectory, _ = rollout.collect(4)
        with torch.no_grad():
            outputs, _ = agent.unroll(tree_map(lambda leaf: leaf[:-1], trajectory.inputs), trajectory.states[0])
        policy = outputs["policy"]
        noise.append((trajectory.action - policy.mean) / policy.log_std.exp())
    noise = torch.cat(noise).squeeze(-1)
    torch.testing.assert_close(noise.std(1), torch.ones(8), atol=0.15, rtol=0)
    correlation = torch.stack([torch.corrcoef(noise[t : t + 2])[0, 1] for t in range(7)])
    torch.testing.assert_close(correlation, torch.full((7,), rho), atol=0.15, rtol=0)


def test_the_seed_decides_the_rollout():
    def collect(seed):
        environment = make("tests/Clock-v0", 3, vectorization="sync")
        return Rollout(environment, gru_agent(environment), seed).collect(20)[0]

    a, b, c = (tree_flatten(collect(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


class Noise(TorchVectorEnv):
    """Rewards are N(0, 1), whatever is done."""

    def __init__(self, num_envs=1, device="cpu", max_episode_steps=None):
        super().__init__(Box(-1, 1, (1,)), Box(-1, 1, (1,)), num_envs, device, max_episode_steps)

    def _start(self):
        return {"seen": torch.zeros(self.num_envs, 1)}

    def _transition(self, state, action):
        return state, torch.randn(self.num_envs, generator=self.generator), torch.zeros(self.num_envs).bool()

    def _observe(self, state):
        return state["seen"].clone()


# Must break: in Rollout, `manual_seed(seed)`. Rewards are then the actions' own noise, number for number, and PPO moves
# the mean action ever further.
def test_actions_are_drawn_by_other_numbers_than_the_environments():
    environment = TorchEnvironment(Noise(num_envs=16))
    trajectory, _ = Rollout(environment, gru_agent(environment), seed=0).collect(100)
    drawn = torch.stack([trajectory.action.flatten(), trajectory.reward.flatten()])
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.1


# Must break: in ObservationWrapper, `derived_seed(self._seed, seed)`. With the seed 2 the noise that `--noise` adds to
# an observation was then that of the action taken on it.
@pytest.mark.parametrize("seed", range(4))
def test_actions_are_drawn_by_other_numbers_than_what_hides_observations(seed):
    environment = make("seqrl/MaskedMountainCarContinuous-v0", 16, noise=10.0)
    agent = gru_agent(environment)
    nn.init.zeros_(agent.heads["policy"].linear.weight)  # it does not answer to what it sees
    trajectory, _ = Rollout(environment, agent, seed).collect(100)
    drawn = torch.stack([trajectory.action.flatten(), trajectory.inputs.observation[:-1].flatten()])
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.1


# Breaks if the sums are not looked into, or step and environment are swapped in the message.
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "step", "message"),
    [
        ("observation", 4, "environment 2 returned an observation that is NaN or infinite, at step 4 of the rollout"),
        ("observation", 6, "environment 2 returned an observation that is NaN or infinite, at step 6 of the rollout"),
        ("reward", 4, "environment 2 returned a reward that is NaN or infinite, at step 3 of the rollout"),
    ],
)
def test_nan_is_refused(name, step, message, bad):
    environment = make("seqrl/TMaze-v0", 3)
    inner, num_steps = environment.step, 0

    def poisoned(action):
        nonlocal num_steps
        num_steps += 1
        result = inner(action)
        if num_steps == step:
            getattr(result, name)[2] = bad
        return result

    environment.step = poisoned
    with pytest.raises(UserError, match=f"{message}: mend the environment"):
        Rollout(environment, gru_agent(environment), seed=0).collect(6)
