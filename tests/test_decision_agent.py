"""The agent that acts on a wish: what it asks for, what it reads, and that acting is training."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.decision_agent import DecisionAgent
from seqrl.errors import UserError
from seqrl.memory import Transformer
from seqrl.testing import check_agent

BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
DISCRETE = gym.spaces.Discrete(4)


def agent(observation=BOX, action=DISCRETE, **options) -> DecisionAgent:
    torch.manual_seed(0)
    made = DecisionAgent(observation, action, **{"hidden_size": 16, "num_layers": 2, "context_length": 4} | options)
    made.target_return = 2.0
    return made


@pytest.mark.parametrize("context", ["reencode", "cache"])
@pytest.mark.parametrize("timestep", ["sinusoidal", "none"])
@pytest.mark.parametrize("conditioned", [True, False])
def test_acts_as_it_learns(context: str, timestep: str, conditioned: bool) -> None:
    check_agent(agent(context=context, timestep=timestep, conditioned=conditioned))


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (gym.spaces.Dict({"a": BOX, "b": gym.spaces.Discrete(3)}), gym.spaces.MultiDiscrete([2, 3])),
        (gym.spaces.Box(0, 255, (3, 12, 12), np.uint8), gym.spaces.Box(-2.0, 2.0, (2,), np.float32)),
        (gym.spaces.Dict({"o": BOX, "action_mask": gym.spaces.MultiBinary(4)}), DISCRETE),
    ],
)
def test_acts_as_it_learns_in_other_spaces(observation: gym.Space, action: gym.Space) -> None:
    check_agent(agent(observation, action))


# Break: `(return_to_go - reward)` to `return_to_go` in unroll, or the division by γ left out.
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_asks_for_what_is_left_of_the_wish(gamma: float) -> None:
    made = agent(gamma=gamma)
    made.target_return = torch.tensor([5.0, -1.0])
    asked = []
    made.return_to_go.register_forward_hook(lambda module, args, out: asked.append(args[0][..., 0]))
    state = made.initial_state(2)
    inputs = made.initial_input(torch.zeros(2, 3))
    rewards = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.5, 0.0], [9.0, 9.0], [1.0, 1.0]])
    for t, reward in enumerate(rewards):
        is_first = torch.tensor([t in (0, 3)] * 2)
        _, state = made.step(inputs._replace(previous_reward=reward * ~is_first, is_first=is_first), state)
    wish = torch.tensor([5.0, -1.0])
    left = [wish, (wish - rewards[1]) / gamma]
    left += [(left[1] - rewards[2]) / gamma, wish, (wish - rewards[4]) / gamma]
    torch.testing.assert_close(torch.stack([a[0] for a in asked]), torch.stack(left))


def test_a_target_for_each_environment_must_fit() -> None:
    made = agent()
    made.target_return = torch.zeros(3)
    with pytest.raises(UserError, match="3 target returns for 2 environments"):
        made.initial_state(2)


# Break: clamp the timestep to the table's length, as peers do.
def test_learned_timesteps_end() -> None:
    made = agent(timestep="learned", max_timestep=2)
    state, inputs = made.initial_state(1), made.initial_input(torch.zeros(1, 3))
    for t in range(3):
        _, state = made.step(inputs._replace(is_first=torch.tensor([t == 0])), state)
    with pytest.raises(UserError, match=r"has lasted 3 steps, and learned timesteps end at 2.*--timestep sinusoidal"):
        made.step(inputs._replace(is_first=torch.tensor([False])), state)


def test_sinusoidal_timesteps_go_on_and_differ() -> None:
    made = agent()
    times = made.timestep(torch.tensor([0, 1, 2, 500, 10_000]))
    assert torch.cdist(times, times).add(torch.eye(5)).min() > 0.1


# Break: an odd width, where sine and cosine come in pairs.
def test_any_width() -> None:
    assert agent(hidden_size=6).timestep(torch.tensor([3])).shape == (1, 6)


def test_the_last_layer_computes_observation_tokens_alone() -> None:
    made = agent(context="cache")
    widths = []
    assert isinstance(made.memory, Transformer)
    for layer in made.memory.layers:
        layer.mlp.register_forward_hook(lambda module, args, out: widths.append(args[0].shape[1]))
    made.unroll(
        made.initial_input(torch.zeros(2, 3))._replace(
            observation=torch.zeros(4, 2, 3),
            previous_action=torch.zeros(4, 2, dtype=torch.int64),
            previous_reward=torch.zeros(4, 2),
            is_first=torch.arange(4)[:, None].eq(0).expand(4, 2),
        ),
        made.initial_state(2),
    )
    assert widths == [12, 4]


def test_people_act_with_it() -> None:
    made = agent()
    first = made.act(np.zeros(3, np.float32))
    assert DISCRETE.contains(first)
    with pytest.raises(UserError, match="reads the previous reward"):
        made.act(np.zeros(3, np.float32))
    assert DISCRETE.contains(made.act(np.zeros(3, np.float32), reward=1.0))
    agent(conditioned=False).act(np.zeros((2, 3), np.float32))
