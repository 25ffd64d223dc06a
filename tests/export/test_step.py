"""The exported step is the agent's own, as a function of arrays: for every memory, in every kind of space."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.acting import ActingModule
from seqrl.algorithms.algorithm_distillation import WithinEpisode
from seqrl.envs.trials import EPISODE_START
from seqrl.export import describe
from seqrl.export.parity import compare, random_rows, with_target
from seqrl.export.step import ExportedStep, observation_leaves
from seqrl.exported import Exported
from seqrl.trajectory import tree_leaves
from tests.exported_agents import ALL_MEMORIES, DECISION_AGENTS, MOVES, agent, any_agent, decision_agent

BOX = gym.spaces.Box(-1.0, 1.0, (3,))
SPACES = [
    (gym.spaces.Tuple((BOX, gym.spaces.MultiBinary(3))), gym.spaces.MultiDiscrete([2, 3], start=[1, -1])),
    (gym.spaces.Box(0, 255, (12, 12, 3), np.uint8), gym.spaces.Box(-2.0, 2.0, (2,))),
    (gym.spaces.MultiDiscrete(np.full((5, 5, 2), 3)), gym.spaces.MultiBinary(2)),
    (gym.spaces.Dict({"o": BOX, "action_mask": gym.spaces.MultiBinary(3)}), MOVES),
    (gym.spaces.Box(-5, 5, (2, 2), np.int32), gym.spaces.Box(-np.inf, np.inf, (2, 1))),
]


def eager(made: ActingModule) -> tuple[ExportedStep, Exported]:
    """What acts from the step as it is, without a file."""
    step = ExportedStep(made)

    @torch.no_grad()
    def function(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = tuple(torch.from_numpy(np.array(inputs[leaf.name])) for leaf in step.inputs)
        return {name: leaf.numpy() for name, leaf in step.named(given).items()}

    exported = Exported(function, json.loads(json.dumps(describe(step, made))))
    with_target(made, exported)
    return step, exported


# Golden: with `where(going_on, previous_action, 0)` left out of ExportedStep.named, Discrete actions that start at 1
# index before the table; with `self.agent.step` fed `state` before the reset law holds for it, differences show.
@pytest.mark.parametrize("name", [*ALL_MEMORIES, *DECISION_AGENTS])
def test_says_what_the_agent_says_for_every_memory(name: str) -> None:
    made = any_agent(name)
    step, exported = eager(made)
    assert compare(made, exported, random_rows(step, 40, 3, seed=0)).difference < 1e-5


@pytest.mark.parametrize(("observation", "action"), SPACES)
def test_says_what_the_agent_says_in_every_space(observation: gym.Space, action: gym.Space) -> None:
    made = agent("none", observation, action)
    step, exported = eager(made)
    assert compare(made, exported, random_rows(step, 10, 3, seed=0)).difference < 1e-5
    assert [tuple(leaf.shape[1:]) for leaf in tree_leaves(observation_leaves(observation, 2))] == [
        leaf.shape for leaf in step.inputs if leaf.name.startswith("observation")
    ]


@pytest.mark.parametrize("options", [{"greedy": True}, {"squash": True}])
def test_says_what_the_agent_says_for_every_policy(options: dict[str, bool]) -> None:
    made = agent("none", action=gym.spaces.Box(-2.0, 1.0, (2,)) if "squash" in options else MOVES, **options)
    step, exported = eager(made)
    assert compare(made, exported, random_rows(step, 10, 3, seed=0)).difference < 1e-5


# Golden: `| (inputs.observation[EPISODE_START] == 1)` left out of WithinEpisode.unroll: the state then matters in both.
def test_says_what_an_agent_says_that_forgets_at_each_inner_episode() -> None:
    made = WithinEpisode(agent("gru", gym.spaces.Dict({"o": BOX, EPISODE_START: gym.spaces.Discrete(2)})))
    step, exported = eager(made)
    assert compare(made, exported, random_rows(step, 40, 3, seed=0)).difference < 1e-5
    given = dict(zip(step.input_names(), step.example(3), strict=True))
    given |= {"is_first": torch.zeros(3, dtype=torch.bool), "previous_action": torch.ones(3, dtype=torch.int64)}
    for begins in (0, 1):
        given[f"observation.{EPISODE_START}"] = torch.full((3,), begins)
        said = [
            step.named(tuple((given | {"state": state}).values())) for state in (given["state"], given["state"] + 1)
        ]
        assert torch.equal(said[0]["value"], said[1]["value"]) == bool(begins)


def test_names_what_goes_in_and_comes_out() -> None:
    step = ExportedStep(agent("lstm"))
    assert [leaf.name for leaf in step.inputs] == [
        "observation.n", "observation.v", "previous_action", "previous_reward", "is_first", "state.0", "state.1",
    ]  # fmt: skip
    assert [leaf.name for leaf in step.outputs] == [
        "action", "policy.log_probs", "value", "next_state.0", "next_state.1",
    ]  # fmt: skip
    assert step.inputs[1] == ("observation.v", "float32", (3,))
    assert "target_return" in [leaf.name for leaf in ExportedStep(decision_agent("decide-cache")).inputs]


# Golden: a state that is not handed on (`exported_state |= …` left out of `compare`) is found out.
def test_a_step_that_forgets_differs() -> None:
    made = agent("gru")
    step, exported = eager(made)
    function = exported.step
    exported.step = lambda inputs: function(inputs | {"state": np.zeros_like(inputs["state"])})
    found = compare(made, exported, random_rows(step, 40, 3, seed=0))
    assert found.difference > 1e-3
    assert "at step" in found.where


# Golden: without `_of_actions`' score, a tie that falls the other way would count as 1.
def test_an_action_as_good_as_the_best_is_no_difference() -> None:
    made = agent("none", greedy=True)
    with torch.no_grad():
        for weight in made.heads["policy"].advantage.parameters():
            weight.zero_()
    step, exported = eager(made)
    function = exported.step
    exported.step = lambda inputs: (outputs := function(inputs)) | {"action": np.full_like(outputs["action"], 3)}
    assert compare(made, exported, random_rows(step, 5, 3, seed=0)).difference < 1e-5
