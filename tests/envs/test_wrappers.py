"""What the wrappers take away from observations that are known."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from seqrl.envs.adapters import Environment, TorchEnvironment
from seqrl.envs.bandit import Bandit
from seqrl.envs.hide import Hide
from seqrl.envs.masked_cartpole import MaskedCartPole
from seqrl.envs.tabular_mdp import TabularMDP
from seqrl.envs.wrappers import Flicker, Noise
from seqrl.errors import UserError
from seqrl.trajectory import TimeStep, tree_flatten, tree_leaves, tree_map

NUM_ENVS = 4


class Still(Environment):
    """Observes [1, 2, 3] in every row; row 0 ends at every step, and is started anew within it."""

    num_envs, device = NUM_ENVS, torch.device("cpu")
    single_observation_space: spaces.Space = spaces.Box(1, 9, (3,))
    single_action_space = spaces.Discrete(2)

    def observe(self):
        return torch.tensor([1.0, 2, 3]).repeat(NUM_ENVS, 1)

    def reset(self, seed=None):
        zeros = torch.zeros(NUM_ENVS)
        return TimeStep(self.observe(), zeros, zeros.bool(), zeros.bool(), ~zeros.bool(), ~zeros.bool())

    def step(self, action):
        ended = torch.arange(NUM_ENVS) == 0
        return self.reset()._replace(terminated=ended, is_first=ended, final_observation=self.observe())

    def close(self):
        self.closed = True

    def state_dict(self):
        return None

    def load_state_dict(self, state):
        raise UserError("no state")


class Mixed(Still):
    """The same beside a category and an action mask."""

    single_observation_space = spaces.Dict(
        x=spaces.Box(1, 9, (3,)), kind=spaces.Tuple([spaces.Discrete(3)]), action_mask=spaces.MultiBinary(2)
    )

    def observe(self):
        ones = torch.ones(NUM_ENVS, dtype=torch.int64)
        mask = torch.tensor([True, False]).expand(NUM_ENVS, 2)
        return {"x": super().observe(), "kind": (ones,), "action_mask": mask}


class Deep(Mixed):
    """And a Dict, with a Dict in it, and a key that has a dot itself."""

    single_observation_space = spaces.Dict(
        Mixed.single_observation_space.spaces
        | {"robot": spaces.Dict({"arm": spaces.Dict(on=spaces.Discrete(2)), "a.b": spaces.Box(0, 9, (2,))})}
    )

    def observe(self):
        robot = {"arm": {"on": torch.ones(NUM_ENVS, dtype=torch.int64)}, "a.b": torch.tensor([[4.0, 5]] * NUM_ENVS)}
        return super().observe() | {"robot": robot}


class Bits(Still):
    single_observation_space = spaces.MultiBinary(3)


def run(env, num_steps, seed=0):
    action = torch.zeros(env.num_envs, dtype=torch.int64)
    return [env.reset(seed)] + [env.step(action) for _ in range(num_steps)]


def observations(steps):
    return torch.cat([leaf.flatten().float() for step in steps for leaf in tree_leaves(step.observation)])


# Must break: in Hide.__init__, `index not in indices` turned to `index in indices`.
def test_hide():
    env = Hide(Still(), [1])
    step = run(env, 1)[-1]
    assert step.observation.tolist() == step.final_observation.tolist() == [[1, 3]] * NUM_ENVS
    assert env.single_observation_space == spaces.Box(1, 9, (2,))
    env.close()
    assert env.env.closed


@pytest.mark.parametrize(
    ("env", "indices", "message"),
    [
        (Still(), [3], "3 is not an entry of the observation, use 0 to 2"),
        (Still(), [-1], "-1 is not an entry"),
        (Still(), [0, 1, 2], "hides all 3 entries"),
        (Still(), ["1"], "'1' is not an entry"),
        (Still(), "1", r"hide='1': give a tuple of what to hide, such as \('1',\)"),
        (
            Deep(),
            [0],
            r"the observation has no '0' \(--hide\): known: kind, robot, robot.a.b, robot.arm, robot.arm.on, x",
        ),
        (Deep(), ["y"], "known: kind, robot"),
        (Deep(), ["robot.arn"], r"has no 'robot.arn' \(--hide\): did you mean 'robot.arm'\? \(known: kind, robot, "),
        (Deep(), ["x.3"], "'x.3' .*: its entries are 0 to 2"),
        (Deep(), ["robot.arm.3"], "'robot.arm' is no vector"),
        (Deep(), ["x", "kind", "robot"], r"hides all of the observation: leave at least one"),
        (Mixed(), ["action_mask"], "'action_mask' says what may be done, and is not seen"),
        (Mixed(), ["action_mask.0"], "'action_mask' says what may be done"),
        (Bits(), [0], "hide needs a one-dimensional Box or a Dict to observe, but"),
        (TorchEnvironment(TabularMDP(2, reveal=True)), ["regret"], "'regret' is shown to the learner alone"),
        (TorchEnvironment(Bandit(2, reveal=True)), ["optimal_action"], "'optimal_action' is shown to the learner"),
        (TorchEnvironment(Bandit(2)), ["episode_start"], "'episode_start' says where an inner episode begins"),
    ],
)
def test_hide_refuses(env, indices, message):
    with pytest.raises(UserError, match=message):
        Hide(env, indices)


# Must break: in _find, the recursion into a Dict left out; in Hide.observe, the observation given as it is.
@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        (["x"], {"kind", "robot.a.b", "robot.arm.on", "action_mask"}),
        (["x.0", "x.1", "x.2"], {"kind", "robot.a.b", "robot.arm.on", "action_mask"}),
        (["robot", "kind"], {"x", "action_mask"}),
        (["robot.arm.on", "robot.a.b"], {"kind", "x", "action_mask"}),
        (["robot.arm"], {"kind", "x", "robot.a.b", "action_mask"}),
    ],
)
def test_hide_by_keys(hidden, seen):
    env = Hide(Deep(), hidden)
    assert {path.removesuffix(".0") for path in tree_flatten(run(env, 1)[-1].observation)} == seen
    check_inside(env)


# Must break: in _kept, `not in gone` turned to `in gone`.
def test_hide_entries_under_keys():
    env = Hide(Deep(), ["x.1", "robot.a.b.0"])
    step = run(env, 1)[-1]
    assert step.observation["x"].tolist() == step.final_observation["x"].tolist() == [[1, 3]] * NUM_ENVS
    assert step.observation["robot"]["a.b"].tolist() == [[5]] * NUM_ENVS
    assert env.single_observation_space["x"] == spaces.Box(1, 9, (2,))
    check_inside(env)


def check_inside(env):
    for row in range(NUM_ENVS):
        one = tree_map(lambda leaf, row=row: leaf[row].numpy()[()], env.reset().observation)
        assert env.single_observation_space.contains(one)


# Must break: in _place_of, `EPISODE_START in space.spaces` left out.
def test_keys_of_trials_are_ones_own_elsewhere():
    class Own(Still):
        single_observation_space = spaces.Dict(regret=spaces.Box(1, 9, (3,)), x=spaces.Box(1, 9, (3,)))

        def observe(self):
            return {"regret": super().observe(), "x": super().observe()}

    assert list(run(Hide(Own(), ["regret"]), 1)[-1].observation) == ["x"]


def test_flicker_hides_whole_rows_as_often_as_asked():
    steps = run(Flicker(Mixed(), 0.3), 500)
    x = torch.stack([step.observation["x"] for step in steps])
    hidden = (x == 0).all(-1)
    assert torch.equal(hidden, (x == 0).any(-1))
    # 2004 draws: the standard deviation of the share is 0.01.
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=0.05)
    kind = torch.stack([step.observation["kind"][0] for step in steps])
    assert torch.equal(kind == 0, hidden)
    assert all(step.observation["action_mask"][:, 0].all() for step in steps)


# Must break: in _show, `torch.where(shown, leaf, 0.0)` given as `leaf * shown`: an infinite entry would become NaN.
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32])
def test_flicker_leaves_what_it_shows_as_it_is(dtype):
    leaf = torch.tensor([[0, 1, 255], [9, 0, 7]]).to(dtype).repeat(NUM_ENVS // 2, 1)
    if dtype.is_floating_point:
        leaf[:, 1] = -float("inf")
    env = Flicker(Still(), 0.5)
    for _ in range(20):
        seen = env.observe(leaf)
        assert seen.dtype == dtype
        shown = (seen != 0).any(-1)
        assert torch.equal(seen[shown], leaf[shown])
        assert not seen[~shown].any()


# Must break: in ObservationWrapper._seen, `self.observe(step.final_observation)` given without `where_rows`.
def test_rows_that_go_on_show_one_observation():
    steps = run(Flicker(Still(), 0.5), 50)[1:]
    assert all(torch.equal(step.observation[1:], step.final_observation[1:]) for step in steps)
    assert any((step.observation[0] != step.final_observation[0]).any() for step in steps)


def test_noise_has_its_scale_and_leaves_the_rest():
    clean, noisy = run(Mixed(), 500), run(Noise(Mixed(), 2.0), 500)
    noise = torch.stack([b.observation["x"] - a.observation["x"] for a, b in zip(clean, noisy, strict=True)])
    # 6012 draws: the standard deviations of the mean and of the deviation are 0.026 and 0.018.
    assert noise.mean().item() == pytest.approx(0, abs=0.13)
    assert noise.std().item() == pytest.approx(2, abs=0.1)
    assert torch.equal(noisy[0].observation["kind"][0], clean[0].observation["kind"][0])
    assert torch.equal(noisy[0].observation["action_mask"], clean[0].observation["action_mask"])


def test_spaces_hold_what_is_seen():
    assert Flicker(Still(), 0.5).single_observation_space == spaces.Box(0, 9, (3,))
    space = Noise(Mixed(), 1.0).single_observation_space
    assert space["x"] == spaces.Box(-np.inf, np.inf, (3,))
    assert space["kind"] == Mixed.single_observation_space["kind"]


@pytest.mark.parametrize("wrap", [lambda env: Flicker(env, 0.5, seed=1), lambda env: Noise(env, 1.0, seed=1)])
def test_seed_reproduces_and_state_goes_on(wrap):
    env = wrap(TorchEnvironment(MaskedCartPole(NUM_ENVS)))
    first = observations(run(env, 30, seed=5))
    assert torch.equal(observations(run(env, 30, seed=5)), first)
    assert not torch.equal(observations(run(env, 30, seed=6)), first)
    state, action = env.state_dict(), torch.zeros(NUM_ENVS, dtype=torch.int64)
    expected = [env.step(action) for _ in range(20)]
    restored = wrap(TorchEnvironment(MaskedCartPole(NUM_ENVS)))
    restored.load_state_dict(state)
    assert torch.equal(observations([restored.step(action) for _ in range(20)]), observations(expected))


def test_wrappers_of_one_environment_draw_apart():
    def draws(seed):
        return observations(run(Noise(Still(), 1.0, seed), 5))

    assert not torch.equal(draws(1), draws(2))


def test_an_environment_without_state_stays_without():
    env = Flicker(Still(), 0.5)
    assert env.state_dict() is None
    with pytest.raises(UserError, match="no state"):
        env.load_state_dict({"generator": env.generator.get_state()})


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_flicker_refuses(probability):
    with pytest.raises(UserError, match="is not a probability: give a number from 0 to 1"):
        Flicker(Still(), probability)


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_noise_refuses(scale):
    with pytest.raises(UserError, match="is not a standard deviation"):
        Noise(Still(), scale)


def test_noise_needs_floats():
    env = Still()
    env.single_observation_space = spaces.Discrete(3)
    with pytest.raises(UserError, match=r"noise needs a Box of floats, but the environment gives Discrete\(3\)"):
        Noise(env, 1.0)


# Breaks if the spaces with and without noise are compared: that of most MuJoCo problems is unbounded from the start.
def test_noise_of_what_was_unbounded_before():
    env = Still()
    env.single_observation_space = spaces.Box(-np.inf, np.inf, env.single_observation_space.shape)
    assert Noise(env, 1.0).single_observation_space == env.single_observation_space
    env.single_observation_space = spaces.Dict(x=spaces.Discrete(2), action_mask=spaces.Box(0.0, 1.0, (2,)))
    with pytest.raises(UserError, match="noise needs a Box of floats"):
        Noise(env, 1.0)
