"""References as policies: what they know, that they forget between trials, and that rows do not see each other."""

import itertools
from typing import Any

import pytest
import torch
from gymnasium.spaces import Discrete

from seqrl.adaptation import trial_returns
from seqrl.collect import collect, random_policy
from seqrl.envs import Environment, make
from seqrl.errors import UserError
from seqrl.references import AnnealedOracle, QLearning, bandits, references_for, tabular
from seqrl.references.base import trial_env
from seqrl.references.tabular import _best_expectation, backward_induction
from seqrl.references.tuned import nearest
from seqrl.trajectory import AgentInput, tree_map, where_rows

PROBLEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "bernoulli": ("seqrl/Bandit-v0", {"num_arms": 3, "num_episodes": 8}),
    "gaussian": ("seqrl/Bandit-v0", {"num_arms": 3, "num_episodes": 8, "kind": "gaussian"}),
    "tabular": ("seqrl/TabularMDP-v0", {"num_states": 4, "num_actions": 3, "horizon": 3, "num_episodes": 3}),
    "dark room": ("seqrl/DarkRoom-v0", {"size": 3, "episode_steps": 4, "num_episodes": 3}),
    "key to door": ("seqrl/DarkKeyToDoor-v0", {"size": 3, "episode_steps": 6, "num_episodes": 3}),
}


def problem(name: str, num_envs: int = 6) -> Environment:
    env_id, env_kwargs = PROBLEMS[name]
    return make(env_id, num_envs, env_kwargs=env_kwargs)


def played(environment: Environment, num_steps: int, seed: int = 0) -> list[AgentInput]:
    """The inputs of random play, over the end of a trial or more."""
    generator = torch.Generator().manual_seed(seed)
    step = environment.reset(seed)
    zero = torch.zeros(environment.num_envs, dtype=torch.int64)
    inputs = [AgentInput(step.observation, zero, zero.float(), step.is_first)]
    assert isinstance(environment.single_action_space, Discrete)
    for _ in range(num_steps):
        action = torch.randint(int(environment.single_action_space.n), zero.shape, generator=generator)
        step = environment.step(action)
        inputs.append(AgentInput.following(step, action))
    return inputs


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_play_and_the_same_seed_plays_the_same(name: str) -> None:
    environment = problem(name)
    references = references_for(environment)
    assert next(iter(references)) == "random"
    assert list(references)[-1] == "optimal"
    for policy in references.values():
        for sample in (True, False):
            first, second = (trial_returns(policy, environment, 8, seed=3, sample=sample) for _ in range(2))
            assert (first == second).all()
            assert first.shape == (8, PROBLEMS[name][1]["num_episodes"])


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_row_does_not_depend_on_what_stands_beside_it(name: str) -> None:
    # Breaks if `ArmReference.update` adds the reward to every row: * inputs.previous_reward.sum().
    # The chance of PSRL's draws does (`history` summed over rows), as every draw from a shared generator does.
    environment = problem(name)
    inputs = played(environment, 20)
    for reference, policy in references_for(environment).items():
        if reference == "optimal" or "PSRL" in reference:
            continue
        together, alone = policy.initial_state(6), policy.initial_state(1)
        for row in inputs:
            _, together = policy.step(row, together)
            _, alone = policy.step(tree_map(lambda leaf: leaf[2:3], row), alone)
            for key, leaf in alone.items():
                torch.testing.assert_close(together[key][2:3], leaf)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_first_row_of_a_trial_forgets_what_was(name: str) -> None:
    # Breaks if `Reference.step` returns `updated` without `where_rows`.
    environment = problem(name)
    inputs = played(environment, 60)
    assert any(bool(row.is_first.any()) for row in inputs[1:])
    for reference, policy in references_for(environment).items():
        if reference == "optimal":
            continue
        state, fresh = policy.initial_state(6), policy.initial_state(6)
        for row in inputs:
            _, state = policy.step(row, state)
            _, fresh = policy.step(row, where_rows(row.is_first, policy.initial_state(6), fresh))
        for key, leaf in fresh.items():
            assert torch.equal(state[key], leaf)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_arms_are_counted(name: str) -> None:
    inputs = played(environment := problem(name), 5)  # within a trial
    policy = bandits.UCB1(environment)
    state = policy.initial_state(6)
    for row in inputs:
        _, state = policy.step(row, state)
    for b, arm in itertools.product(range(6), range(3)):
        rewards = [float(row.previous_reward[b]) for row in inputs[1:] if row.previous_action[b] == arm]
        prior_sum, prior_number = (1, 2) if name == "bernoulli" else (0, 1)
        expected = (prior_sum + sum(rewards)) / (prior_number + len(rewards))
        assert float(policy.mean(state)[b, arm]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_draws_have_the_posterior_s_moments(name: str) -> None:
    # Breaks if `Thompson._draw` draws from Beta(successes, failures + 1).
    policy = bandits.Thompson(problem(name))
    state = {"pulls": torch.full((20_000, 3), 4.0), "total": torch.full((20_000, 3), 3.0)}
    drawn, _ = policy._draw(state, torch.Generator().manual_seed(0))
    mean, variance = (4 / 6, 4 * 2 / (36 * 7)) if name == "bernoulli" else (3 / 5, 1 / 5)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.005)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.03)


def test_the_optimal_arm_is_the_best_one() -> None:
    environment = problem("bernoulli", 2000)
    optimal = trial_returns(references_for(environment)["optimal"], environment, 2000).mean()
    assert optimal == pytest.approx(3 / 4, abs=0.01)  # E[max of three uniform means]


def test_gittins_is_at_least_as_good_as_others() -> None:
    environment = make("seqrl/Bandit-v0", 3000, env_kwargs={"num_arms": 5, "num_episodes": 10})
    references = references_for(environment)
    means = {name: trial_returns(policy, environment, 3000).sum(1).mean() for name, policy in references.items()}
    assert means["Gittins"] > means["Thompson"] + 0.5
    assert means["Gittins"] > means["greedy"]
    assert all(means["Gittins"] > mean - 0.03 for name, mean in means.items() if name != "optimal")


def test_transitions_are_counted_but_for_the_hidden_last_one() -> None:
    # Breaks if `Planner.update` adds 1 instead of `going_on` to the visits.
    environment = problem("tabular")
    inputs = played(environment, 7)  # 2 inner episodes of 3 decisions, and 1
    policy = tabular.PSRL(environment)
    state = policy.initial_state(6)
    for row in inputs:
        _, state = policy.step(row, state)
    assert (state["tries"].sum((1, 2)) == 7).all()
    assert (state["visits"].sum((1, 2, 3)) == 5).all()
    total = torch.stack([row.previous_reward for row in inputs]).sum(0)
    torch.testing.assert_close(state["total"].sum((1, 2)), total)
    assert (state["decision"] == 1).all()


def test_planning_is_as_good_as_trying_all_plans() -> None:
    # Breaks if `backward_induction` begins with values of 0 and has one decision less: range(horizon - 2).
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(2, 2, generator=generator)
    transition = torch.rand(2, 2, 2, generator=generator)
    transition /= transition.sum(-1, keepdim=True)
    values = backward_induction(reward, transition, 3)
    best = torch.full((2,), -torch.inf)
    for plan in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
        ahead = torch.zeros(2)
        for choices in reversed(plan):
            action = torch.tensor(choices)
            state = torch.arange(2)
            ahead = reward[state, action] + transition[state, action] @ ahead
        best = torch.maximum(best, ahead)
    torch.testing.assert_close(values[0].amax(-1), best)


def test_planning_agrees_with_the_environment_s_oracle() -> None:
    environment = problem("tabular")
    environment.reset(0)
    trials = trial_env(environment)
    assert trials is not None
    cumulative = trials.state["cumulative"]
    transition = cumulative.diff(dim=-1, prepend=torch.zeros_like(cumulative[..., :1]))
    best = backward_induction(trials.state["mean"], transition, 3)[0].argmax(-1)[:, 0]
    assert torch.equal(best, trials.optimal_action())


def test_the_most_hopeful_transition_is_found() -> None:
    # Breaks if the width is not halved.
    transition = torch.tensor([0.2, 0.5, 0.3]).expand(1, 1, 1, 3)
    value = torch.tensor([[1.0, 3.0, 2.0]])
    for width, expected in ((0.0, 2.3), (0.2, 2.5), (0.6, 2.8), (9.0, 3.0)):
        assert float(_best_expectation(transition, torch.full((1, 1, 1), width), value)) == pytest.approx(expected)


def test_q_learning_goes_to_the_goal_in_the_end() -> None:
    environment = make("seqrl/DarkRoom-v0", 100, env_kwargs={"size": 3, "episode_steps": 8, "num_episodes": 40})
    returns = trial_returns(QLearning(environment), environment, 100)
    optimal = trial_returns(references_for(environment)["optimal"], environment, 100).mean()
    assert returns[:, :3].mean() < 0.35 * optimal
    assert returns[:, -5:].mean() > 0.85 * optimal


@pytest.mark.parametrize("name", ["bernoulli", "tabular", "dark room", "key to door"])
def test_the_annealed_oracle_gets_better_until_it_is_optimal(name: str) -> None:
    # Breaks if the skill counts from the last inner episode: num_episodes - 1 - episode.
    environment = problem(name, 500)
    returns = trial_returns(AnnealedOracle(environment), environment, 500).mean(0)
    random = trial_returns(references_for(environment)["random"], environment, 500).mean(0)
    optimal = trial_returns(references_for(environment)["optimal"], environment, 500).mean(0)
    assert returns[-1] == pytest.approx(optimal[-1], rel=0.15)
    assert returns[0] == pytest.approx(random[0], rel=0.25, abs=0.05)


def test_learners_histories_can_be_logged() -> None:
    environment = problem("dark room")
    (episode, *_) = collect(QLearning(environment), environment, 6)
    assert len(episode.reward) == 12


def test_where_nothing_is_known_there_are_no_references() -> None:
    assert references_for(make("seqrl/TMaze-v0", 2)) == {}
    with pytest.raises(UserError, match="q_learning"):
        QLearning(make("seqrl/TMaze-v0", 2))
    with pytest.raises(UserError, match="annealed_oracle"):
        AnnealedOracle(make("seqrl/TMaze-v0", 2))


def test_the_nearest_setting_is_nearest_in_ratio() -> None:
    table = {(10, 5): 1.0, (100, 5): 2.0, (100, 50): 3.0}
    assert [nearest(table, *s) for s in ((20, 5), (50, 5), (500, 40))] == [1.0, 2.0, 3.0]


def test_random_reference_is_uniform() -> None:
    environment = problem("dark room", 4000)
    step = environment.reset(0)
    inputs = random_policy(environment.single_action_space).initial_input(step.observation)
    policy = references_for(environment)["random"]
    outputs, _ = policy.step(inputs, policy.initial_state(4000))
    counts = outputs["policy"].sample(torch.Generator().manual_seed(0))[0].bincount()
    assert (counts - 800).abs().max() < 100


def test_a_draw_from_the_posterior_does_not_repeat_the_draw_of_the_arms() -> None:
    # Environment and policy are given one seed. Breaks if `Drawn.sample` draws from `generator` itself.
    environment = problem("gaussian", 1000)
    policy, trials = references_for(environment)["Thompson"], trial_env(environment)
    assert trials is not None
    inputs = policy.initial_input(environment.reset(0).observation)
    outputs, _ = policy.step(inputs, policy.initial_state(1000))
    arm = outputs["policy"].sample(torch.Generator().manual_seed(0))[0]
    assert float(trials.state["mean"].gather(1, arm[:, None]).mean()) == pytest.approx(0.0, abs=0.15)


@pytest.mark.parametrize("reference", ["PSRL", "OPSRL"])
def test_a_draw_from_the_posterior_does_not_repeat_the_draw_of_the_mdp(reference: str) -> None:
    # Breaks if `_OFFSET` is 0: PSRL's first rewards are then the task's.
    environment = problem("tabular", 1000)
    returns = trial_returns(references_for(environment)[reference], environment, 1000, seed=0)[:, 0]
    assert returns.mean() == pytest.approx(3.0, abs=0.25)  # what three decisions pay at random
