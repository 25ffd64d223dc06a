"""The agent acts as it learns, with every memory; `check_agent` finds each way to break that; and `act`."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from seqrl.acting import _as_batch
from seqrl.agent import Agent
from seqrl.data import Rollout
from seqrl.envs import make
from seqrl.errors import UserError
from seqrl.memory import make_memory
from seqrl.nets import Encoder, PolicyHead, ValueHead
from seqrl.testing import check_agent
from seqrl.trajectory import tree_leaves, tree_map

MEMORIES = ["none", "frame_stack", "gru", "lstm", "linear", "linear_attention", "transformer"]
BOX = spaces.Box(-1, 1, (3,), np.float32)
MASKED = spaces.Dict(x=BOX, action_mask=spaces.MultiBinary(4))


def build(observation_space=BOX, action_space=None, memory="gru", kind=Agent, seed=0, **options):
    torch.manual_seed(seed)
    action_space = action_space or spaces.Discrete(4)
    heads = {"policy": PolicyHead(8, action_space), "value": ValueHead(8)}
    nn.init.normal_(heads["policy"].linear.weight)  # so that actions differ from row to row
    return kind(
        observation_space, action_space, Encoder(observation_space, 8), make_memory(memory, 8, 8), heads, **options
    )


# Breaks if `step` hands the memory an `is_first` of zeros.
@pytest.mark.parametrize("memory", MEMORIES)
def test_agents_act_as_they_learn(memory):
    check_agent(build(memory=memory, use_previous_action=True, use_previous_reward=True), num_steps=9)


# Breaks if the autocast holds the heads too (another type), or is not on (the same values).
@pytest.mark.parametrize("memory", ["gru", "lstm", "linear", "linear_attention", "transformer"])
def test_autocast_is_the_memory_s_alone(memory):
    exact, agent = build(memory=memory), build(memory=memory, autocast=torch.bfloat16)
    inputs = tree_map(lambda leaf: leaf.expand(9, *leaf.shape), agent.initial_input(torch.rand(5, 3)))
    outputs, state = agent.unroll(inputs, agent.initial_state(5))
    expected, expected_state = exact.unroll(inputs, exact.initial_state(5))
    assert outputs["value"].dtype == torch.float32
    assert not torch.equal(outputs["value"], expected["value"])
    torch.testing.assert_close(outputs["value"], expected["value"], rtol=0, atol=0.05)
    assert [leaf.dtype for leaf in tree_leaves(state)] == [leaf.dtype for leaf in tree_leaves(expected_state)]
    outputs["value"].sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in agent.parameters())


@pytest.mark.parametrize("memory", MEMORIES)
def test_agents_with_an_action_mask_act_as_they_learn(memory):
    agent = build(MASKED, memory=memory)
    check_agent(agent, num_steps=5, batch_size=2)
    observation = {"x": torch.rand(6, 50, 3), "action_mask": torch.rand(6, 50, 4) < 0.5}
    observation["action_mask"][..., 0] |= ~observation["action_mask"].any(-1)
    inputs = tree_map(lambda leaf: leaf, agent.initial_input(tree_map(lambda leaf: leaf[0], observation)))
    inputs = tree_map(lambda leaf: leaf.expand(6, *leaf.shape), inputs)._replace(observation=observation)
    outputs, _ = agent.unroll(inputs, agent.initial_state(50))
    for action in (outputs["policy"].sample(), outputs["policy"].mode()):
        assert observation["action_mask"].gather(-1, action[..., None]).all()


@pytest.mark.parametrize(
    "action_space",
    [
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3], start=[1, 5]),
        spaces.MultiBinary(2),
        spaces.Box(-1, 1, (2,), np.float32),
        spaces.Box(-2, 2, (), np.float32),
    ],
)
def test_agents_with_other_spaces_act_as_they_learn(action_space):
    nested = spaces.Dict(
        image=spaces.Box(0, 255, (4, 4, 3), np.uint8), t=spaces.Tuple([spaces.Discrete(3, start=1), BOX])
    )
    agent = build(nested, action_space, use_previous_action=True, use_previous_reward=True)
    check_agent(agent, num_steps=5, batch_size=2)


def test_check_agent_takes_observations_and_leaves_everything_as_it_was():
    agent = build(use_previous_action=True)
    observation = torch.rand(4, 2, 3)
    agent.act(np.zeros(3, np.float32))
    before, state = copy.deepcopy(agent.state_dict()), torch.get_rng_state()
    check_agent(agent, observation)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in agent.state_dict().items())
    assert agent._session is not None
    assert agent.training


class Faulty(Agent):
    fault = ""

    def unroll(self, inputs, state):
        if self.fault == "first rows" and self.previous_action is not None:
            x = self.encoder.project(inputs.observation) + self.previous_action.project(inputs.previous_action)
            y, state = self.memory.unroll(torch.tanh(x), state, inputs.is_first)
            return {name: head(y) for name, head in self.heads.items()}, state
        if self.fault == "independence":
            mixed = inputs.observation + inputs.observation.mean(1, keepdim=True)
            return super().unroll(inputs._replace(observation=mixed), state)
        if self.fault == "reset":
            return super().unroll(inputs._replace(is_first=torch.zeros_like(inputs.is_first)), state)
        if self.fault == "acting" and len(inputs.is_first) > 1:
            return super().unroll(inputs._replace(is_first=inputs.is_first.roll(1, 0)), state)
        return super().unroll(inputs, state)


@pytest.mark.parametrize("fault", ["first rows", "independence", "reset", "acting"])
def test_check_agent_finds_the_fault(fault):
    agent = build(kind=Faulty, use_previous_action=True)
    check_agent(agent, num_steps=5)
    agent.fault = fault
    with pytest.raises(AssertionError, match=f"^{fault}: .* is .*, but .*"):
        check_agent(agent, num_steps=5)


# Breaks if one switch turns both inputs on.
@pytest.mark.parametrize("action", [False, True])
@pytest.mark.parametrize("reward", [False, True])
def test_previous_action_and_reward_are_two_switches(action, reward):
    agent = build(use_previous_action=action, use_previous_reward=reward)
    inputs = agent.initial_input(torch.zeros(2, 3))._replace(is_first=torch.zeros(2, dtype=torch.bool))

    def value(**changes):
        return agent.step(inputs._replace(**changes), agent.initial_state(2))[0]["value"]

    plain = value()
    assert torch.equal(value(previous_action=torch.tensor([1, 2])), plain) != action
    assert torch.equal(value(previous_reward=torch.tensor([1.0, 2.0])), plain) != reward


def greedy(agent, observations, is_first, actions=None, rewards=None):
    """The greedy actions of one `unroll` [T, B]; the previous actions are its own, found row by row."""
    state = agent.initial_state(is_first.shape[1])
    inputs, chosen = agent.initial_input(observations[0]), []
    for t in range(len(is_first)):
        if t:
            inputs = inputs._replace(
                observation=observations[t],
                is_first=is_first[t],
                previous_action=chosen[-1],
                previous_reward=rewards[t],
            )
        outputs, state = agent.step(inputs, state)
        chosen.append(outputs["policy"].mode()[0])
    return torch.stack(chosen)


@pytest.mark.parametrize("memory", MEMORIES)
def test_act_keeps_the_memory(memory):
    agent = build(memory=memory, use_previous_action=True, use_previous_reward=True)
    observations, rewards = torch.rand(8, 2, 3) * 2 - 1, torch.randn(8, 2)
    is_first = torch.zeros(8, 2, dtype=torch.bool)
    is_first[0], is_first[3, 0], is_first[5, 1] = True, True, True
    with torch.no_grad():
        expected = greedy(agent, observations, is_first, rewards=rewards)
    for _ in range(2):  # `reset` forgets everything
        acted = [
            agent.act(observations[t].numpy(), reward=rewards[t].numpy(), is_first=is_first[t].numpy())
            for t in range(8)
        ]
        np.testing.assert_array_equal(acted, expected)
        agent.reset()
    with torch.no_grad():
        alone = greedy(agent, observations[:, :1], torch.zeros(8, 1, dtype=torch.bool), rewards=rewards[:, :1])
    for t in range(8):  # one environment, without a batch axis
        action = agent.act(observations[t, 0].numpy(), reward=rewards[t, 0].item())
        assert np.shape(action) == ()
        assert action == alone[t, 0]


# Breaks if `act` does not hand `is_first` on, or `reset` keeps the state.
def test_act_begins_episodes_anew():
    agent = build()
    x, y = np.array([[0.5, -0.5, 1.0]], np.float32), np.array([[-1.0, 1.0, 0.0]], np.float32)

    def state():
        return agent._session.state.clone()

    agent.act(x)
    first = state()
    agent.act(y)
    agent.act(x)
    assert not torch.equal(state(), first)
    agent.act(x, is_first=True)
    assert torch.equal(state(), first)
    agent.act(y)
    agent.reset()
    agent.act(x)
    assert torch.equal(state(), first)


# Breaks if `act` gives a discrete action without its start, or reads an observation with it.
def test_spaces_that_do_not_count_from_zero():
    from_one = build(spaces.Discrete(3, start=1), spaces.Discrete(4, start=1), use_previous_action=True)
    from_zero = build(spaces.Discrete(3), spaces.Discrete(4), use_previous_action=True)
    several = build(spaces.MultiDiscrete([3, 2], start=[1, 7]), spaces.MultiDiscrete([4, 2], start=[5, 6]))
    plain = build(spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([4, 2]))
    for n in (0, 2, 1, 1, 0):
        assert from_one.act(np.int64(n + 1)) == from_zero.act(n) + 1
        assert from_one.action_space.contains(from_one.act(n + 1))
        from_zero.act(n)
        pair = several.act(np.array([n + 1, 7]))
        assert several.action_space.contains(pair)
        assert (pair - plain.act(np.array([n, 0])) == [5, 6]).all()


def test_act_samples_where_asked_to():
    agent = build()
    x = np.zeros((200, 3), np.float32)
    torch.manual_seed(0)
    assert len(np.unique(agent.act(x))) == 1
    agent.reset()
    assert len(np.unique(agent.act(x, sample=True))) > 1


# Breaks if the mask of a Gymnasium environment (int8) is not turned to bool.
@pytest.mark.parametrize("dtype", [np.int8, bool])
def test_act_keeps_to_the_mask(dtype):
    agent = build(MASKED)
    for allowed in range(4):
        mask = (np.arange(4) == allowed).astype(dtype)
        assert agent.act({"x": np.zeros(3), "action_mask": mask}) == allowed


def test_act_takes_and_gives_what_the_spaces_say():
    images = spaces.Tuple([spaces.Box(0, 255, (4, 4, 3), np.uint8), BOX])
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 1], np.float32))
    agent = build(images, action_space, use_previous_action=True)
    single = (np.zeros((4, 4, 3), np.uint8), np.zeros(3, np.float64))
    for sample in (False, True, True):
        assert action_space.contains(agent.act(single, sample=sample))
    agent.reset()
    assert agent.act(tree_map(lambda leaf: np.stack([leaf] * 5), single)).shape == (5, 2)


@pytest.mark.parametrize(
    ("options", "calls", "message"),
    [
        ({}, [{"observation": np.zeros(4)}], r"shape \(4,\) does not fit Box.*nor a batch"),
        ({}, [{"observation": np.zeros((2, 2, 3))}], r"shape \(2, 2, 3\) does not fit"),
        ({}, [{"observation": [0, np.nan, 0]}], "observation holds NaN or infinity"),
        ({}, [{"observation": [0, np.inf, 0]}], "observation holds NaN or infinity"),
        ({}, [{"observation": np.zeros(3)}, {"observation": np.zeros((2, 3))}], "a batch of 2 follows one of 1"),
        ({}, [{"observation": np.zeros(3)}, {"observation": np.zeros(3), "is_first": [1, 0]}], "is_first has the"),
        (
            {"use_previous_reward": True},
            [{"observation": np.zeros(3)}, {"observation": np.zeros(3)}],
            "reads the previous reward: pass reward",
        ),
        (
            {"use_previous_reward": True},
            [{"observation": np.zeros(3)}, {"observation": np.zeros(3), "reward": np.nan}],
            "reward is NaN or infinite",
        ),
        ({"observation_space": MASKED}, [{"observation": np.zeros(3)}], r"keys .*, give what .*action_masks"),
        (
            {"observation_space": MASKED},
            [{"observation": {"x": np.zeros((2, 3)), "action_mask": np.ones(4)}}],
            "batch axis of another size",
        ),
        ({"observation_space": spaces.Tuple([BOX, BOX])}, [{"observation": (np.zeros(3),)}], "not a tuple of 2"),
        (
            {"observation_space": spaces.Discrete(3, start=1)},
            [{"observation": 0}],
            r"lies outside Discrete\(3, start=1\)",
        ),
        (
            {"observation_space": spaces.MultiDiscrete([3, 2])},
            [{"observation": [1, 2]}],
            r"lies outside MultiDiscrete\(\[3 2\]\)",
        ),
        ({}, [{"observation": (np.zeros(3), {})}], r"this is what reset\(\) returns"),
        ({}, [{"observation": None}], "a NoneType such as this is no observation of Box"),
        ({}, [{"observation": 1j * np.ones(3)}], "give an array"),
        ({"observation_space": spaces.Discrete(3)}, [{"observation": 1.0}], "give integers"),
        (
            {"use_previous_reward": True},
            [{"observation": np.zeros(3)}, {"observation": np.zeros(3), "reward": "much"}],
            "reward is 'much': give a number",
        ),
    ],
)
def test_bad_input_is_refused(options, calls, message):
    agent = build(**options)
    *before, last = calls
    for call in before:
        agent.act(**call)
    with pytest.raises(UserError, match=f"^act: .*{message}"):
        agent.act(**last)


# Breaks if the rollout feeds the agent something that `act` does not, or the other way around.
@pytest.mark.parametrize("memory", MEMORIES)
def test_act_equals_the_greedy_rollout(memory, monkeypatch):
    monkeypatch.setattr(Rollout, "_sample", lambda self, distribution: distribution.mode())
    environment = make("seqrl/TMaze-v0", 3, env_kwargs={"length": 3})
    agent = build(
        environment.single_observation_space,
        environment.single_action_space,
        memory,
        use_previous_action=True,
        use_previous_reward=True,
    )
    trajectory, _ = Rollout(environment, agent, seed=0).collect(20)
    assert trajectory.terminated.any()
    inputs = trajectory.inputs
    for t in range(20):
        action = agent.act(
            inputs.observation[t].numpy(), reward=inputs.previous_reward[t].numpy(), is_first=inputs.is_first[t].numpy()
        )
        np.testing.assert_array_equal(action, trajectory.action[t])


# Breaks if bytes are not widened before `start` is taken off: 100 + 200 is 44 in eight bits; bools have no minus.
def test_categories_of_any_type_of_number():
    categories = spaces.Discrete(400, start=-200)
    as_bytes, _ = _as_batch(np.array([100, 3], dtype=np.uint8), categories, torch.device("cpu"))
    assert as_bytes.tolist() == [300, 203]
    assert _as_batch(True, spaces.Discrete(2), torch.device("cpu"))[0].tolist() == [1]


# Breaks if every LinearHead shares the product: what a subclass does in `forward`, or a hook, would be left out.
def test_a_head_that_does_more_is_called():
    class Louder(PolicyHead):
        def forward(self, features, allowed=None):
            return super().forward(100 * features, allowed)

    agent = build()
    x = torch.rand(3, 8)
    plain = agent._outputs(x, None)["policy"].log_probs
    hooked = agent.heads["value"].register_forward_hook(lambda module, args, out: out + 1000)
    assert (agent._outputs(x, None)["value"] > 500).all()
    hooked.remove()
    agent.heads["policy"].__class__ = Louder
    assert not torch.allclose(agent._outputs(x, None)["policy"].log_probs, plain)
