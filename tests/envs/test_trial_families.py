"""Bandits, random MDPs and dark rooms: what they draw, and what random and omniscient players get."""

from itertools import product

import numpy as np
import pytest
import torch

from seqrl.envs import Bandit, DarkKeyToDoor, DarkRoom, TabularMDP, TrialVectorEnv


def first_trial_returns(env: TrialVectorEnv, optimal: bool, seed: int = 0) -> torch.Tensor:
    """What each row's first trial brings to a random player, or to one who knows the task, [B]."""
    generator = torch.Generator().manual_seed(seed + 1)
    env.reset(seed=seed)
    going, total = torch.ones(env.num_envs, dtype=torch.bool), torch.zeros(env.num_envs)
    while going.any():
        random = torch.randint(env.single_action_space.n, (env.num_envs,), generator=generator)
        _, reward, terminated, *_ = env.step(env.optimal_action() if optimal else random)
        total += reward * going
        going &= ~terminated
    return total


def near(values: torch.Tensor, expected: float) -> bool:
    """Whether the mean is within four standard errors."""
    return abs(values.mean().item() - expected) < 4 * values.std().item() / len(values) ** 0.5


# ------------------------------------------------------------------------------------------------------- bandits


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_arms_pay_what_they_should(kind):
    env = Bandit(20_000, num_arms=3, num_episodes=9, kind=kind)
    env.reset(seed=0)
    mean = env.state["mean"]
    moments = (0.5, 1 / 12) if kind == "bernoulli" else (0.0, 1.0)
    assert near(mean[:, 0], moments[0])
    assert near((mean[:, 0] - moments[0]).square(), moments[1])
    for arm in range(3):
        reward = env.step(torch.full((20_000,), arm))[1]
        assert near(reward - mean[:, arm], 0)
        noise = mean[:, arm] * (1 - mean[:, arm]) if kind == "bernoulli" else torch.ones(20_000)
        assert near((reward - mean[:, arm]).square() - noise, 0)
        assert kind == "gaussian" or set(reward.tolist()) == {0.0, 1.0}


def test_bandit_returns():
    """Duan et al. 2016, table 1: a random player gets 5.0 of 10 pulls of 5 arms. The best arm's mean is 5/6."""
    assert near(first_trial_returns(Bandit(20_000), optimal=False), 5.0)
    assert near(first_trial_returns(Bandit(20_000), optimal=True), 10 * 5 / 6)


# --------------------------------------------------------------------------------------------------- random MDPs


def test_random_mdps_are_drawn_as_they_should_be():
    env = TabularMDP(4_000)
    env.reset(seed=0)
    mean, cumulative = env.state["mean"], env.state["cumulative"]
    assert near(mean.flatten(), 1.0)
    assert near((mean.flatten() - 1).square(), 1.0)
    probability = cumulative.diff(dim=-1, prepend=torch.zeros_like(cumulative[..., :1]))[:, 0, 0]
    assert near(probability[:, 3], 0.1)
    # A flat Dirichlet over n has second moments 2 / (n (n + 1)).
    assert near(probability[:, 3].square(), 2 / 110)
    assert near(probability[:, 3] * probability[:, 7], 1 / 110)


def test_an_mdp_goes_where_and_pays_what_it_should():
    """Broken by `<` and a shifted count: a place too early or too late."""
    env = TabularMDP(40_000, num_states=4, num_actions=2, horizon=9)
    env.reset(seed=0)
    for name in ("mean", "cumulative"):  # one MDP in all rows
        env.state[name] = env.state[name][:1].expand_as(env.state[name]).clone()
    env.state["place"] = torch.full((40_000,), 2)
    observation, reward, *_ = env.step(torch.ones(40_000, dtype=torch.int64))
    cumulative = env.state["cumulative"][0, 2, 1]
    probability = cumulative.diff(prepend=torch.zeros(1))
    for place in range(4):
        assert near((observation["observation"] == place).float(), probability[place].item())
    assert near(reward, env.state["mean"][0, 2, 1].item())
    assert near((reward - env.state["mean"][0, 2, 1]).square(), 1.0)


def test_a_random_player_of_mdps_gets_one_a_decision():
    """Duan et al. 2016, table 2: 100.1 for n = 10, of 1,000 MDPs; the expectation is 100."""
    assert near(first_trial_returns(TabularMDP(4_000), optimal=False), 100.0)


def brute_force(mean: np.ndarray, probability: np.ndarray, horizon: int, place: int) -> tuple[float, int]:
    """The best value, and its first action, over all policies (a table of actions for each time left)."""
    num_states, num_actions = mean.shape
    best = (-np.inf, -1)
    for policy in product(range(num_actions), repeat=horizon * num_states):
        table = np.array(policy).reshape(horizon, num_states)
        at, value = np.eye(num_states)[place], 0.0
        for actions in table:
            value += at @ mean[np.arange(num_states), actions]
            at = at @ probability[np.arange(num_states), actions]
        best = max(best, (value, int(table[0, place])))
    return best


def test_backward_induction_is_as_good_as_any_policy():
    """Broken by leaving out the value of the next state, or by reading the actions of another time left."""
    env = TabularMDP(12, num_states=2, num_actions=3, horizon=3, num_episodes=1)
    env.reset(seed=1)
    cumulative = env.state["cumulative"]
    probability = cumulative.diff(dim=-1, prepend=torch.zeros_like(cumulative[..., :1])).double().numpy()
    mean = env.state["mean"].double().numpy()
    values = [brute_force(mean[b], probability[b], 3, 0) for b in range(12)]
    assert env.optimal_action().tolist() == [action for _, action in values]
    env.state["place"] = torch.ones(12, dtype=torch.int64)
    env.state["inner_steps"] = torch.full((12,), 2)
    assert env.optimal_action().tolist() == mean[:, 1].argmax(1).tolist()
    env.state["inner_steps"] = torch.full((12,), 1)
    assert env.optimal_action().tolist() == [brute_force(mean[b], probability[b], 2, 1)[1] for b in range(12)]


# ---------------------------------------------------------------------------------------------------- dark rooms


@pytest.mark.parametrize(("size", "average"), [(5, 18.5), (9, 16.5)])
def test_dark_room_optimum_is_21_less_the_distance(size, average):
    """Broken by paying for where the agent was, not is: 20 less the distance."""
    env = DarkRoom(size * size, size=size, num_episodes=2)
    env.reset(seed=0)
    cells = torch.arange(size * size)
    env.state["goal"] = torch.stack([cells // size, cells % size], 1)
    distance = (env.state["goal"] - size // 2).abs().sum(1)
    total = torch.zeros(size * size)
    for _ in range(40):
        total += env.step(env.optimal_action())[1]
    away = distance > 0
    assert torch.equal(total[away] / 2, 21.0 - distance[away])
    assert (total[away] / 2).mean().item() == pytest.approx(average)


def occupancy(size: int, num_steps: int) -> float:
    """Expected decisions of a random walk from the centre that leave it there."""
    place = torch.zeros(size, size, dtype=torch.float64)
    place[size // 2, size // 2] = 1
    total = 0.0
    for _ in range(num_steps):
        wide = torch.nn.functional.pad(place[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
        place = (place + wide[2:, 1:-1] + wide[:-2, 1:-1] + wide[1:-1, 2:] + wide[1:-1, :-2]) / 5
        total += place[size // 2, size // 2].item()
    return total


@pytest.mark.parametrize(("size", "published"), [(5, 0.78), (9, 0.24)])
def test_dark_room_random_player(size, published):
    """Each decision leaves the walk on some cell, of which the goals are all but the centre, alike."""
    exact = (20 - occupancy(size, 20)) / (size * size - 1)
    assert round(exact, 2) == published
    assert near(first_trial_returns(DarkRoom(20_000, size=size, num_episodes=1), optimal=False), exact)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_goals_are_split_into_train_and_held_out(size):
    rooms = {goals: DarkRoom(size=size, goals=goals).goals.tolist() for goals in ("all", "train", "held_out")}
    assert sorted(rooms["train"] + rooms["held_out"]) == rooms["all"]
    assert len(set(rooms["all"])) == size * size - 1
    assert size * size // 2 not in rooms["all"]
    assert len(rooms["held_out"]) == round(0.2 * (size * size - 1))
    drawn = DarkRoom(2_000, size=size, **DarkRoom.held_out)
    drawn.reset(seed=0)
    goal = drawn.state["goal"]
    assert set((goal[:, 0] * size + goal[:, 1]).tolist()) == set(rooms["held_out"])


def test_held_out_goals_stay_the_same():
    """Whoever changes the split makes results from before incomparable. Broken by another seed of the shuffle."""
    assert DarkRoom(size=5, goals="held_out").goals.tolist() == [11, 10, 23, 15, 21]
    assert DarkKeyToDoor(size=3, goals="held_out").pairs[:3].tolist() == [[2, 4], [3, 0], [6, 7]]


# ---------------------------------------------------------------------------------------------- dark key to door


@pytest.mark.parametrize("size", [3, 5, 9])
def test_pairs_are_split_into_train_and_held_out(size):
    parts = {goals: DarkKeyToDoor(size=size, goals=goals).pairs.tolist() for goals in ("all", "train", "held_out")}
    assert sorted(parts["train"] + parts["held_out"]) == parts["all"]
    assert len({tuple(pair) for pair in parts["all"]}) == size**4
    assert len(parts["held_out"]) == round(0.2 * size**4)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("size", [5, 9])
def test_who_knows_key_and_door_gets_both_each_time(size, random_start):
    env = DarkKeyToDoor(4_000, size=size, episode_steps=4 * (size - 1), num_episodes=3, random_start=random_start)
    assert (first_trial_returns(env, optimal=True) == 6).all()


def test_key_and_door_by_hand():
    """Broken by opening the door with the key that this decision takes: the pair in one cell then pays once."""
    env = DarkKeyToDoor(3, size=3, episode_steps=4, num_episodes=2, random_start=False)
    env.reset(seed=0)
    # Key above the centre and door below it; the other way round; both above the centre.
    env.state["key"] = torch.tensor([[0, 1], [2, 1], [0, 1]])
    env.state["door"] = torch.tensor([[2, 1], [0, 1], [0, 1]])
    rewards, starts = [], []
    for action in [1, 0, 2, 2, 2, 1, 1, 0]:
        observation, reward, *_ = env.step(torch.full((3,), action))
        rewards.append(reward.tolist())
        starts.append(observation["episode_start"].tolist())
    # First: up takes the key, staying pays no more, down twice opens, and so the inner episode begins anew.
    # Second: up is the locked door, down twice the key, and time is up before the door.
    # Third: up takes the key, staying opens; then the next episode walks down and never gets there.
    assert list(map(list, zip(*rewards, strict=True))) == [
        [1, 0, 0, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 1, 0, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert [row[0] for row in starts[:4]] == [0, 0, 0, 1]
    assert [row[1] for row in starts[:4]] == [0, 0, 0, 1]
    assert [row[2] for row in starts[:6]] == [0, 1, 0, 0, 0, 0]


def test_inner_episodes_start_anywhere():
    env = DarkKeyToDoor(30_000, size=3, episode_steps=1, num_episodes=2)
    for observation in (env.reset(seed=0)[0], env.step(torch.zeros(30_000, dtype=torch.int64))[0]):
        assert observation["episode_start"].all()
        for cell in range(9):
            assert near((observation["observation"] @ torch.tensor([3, 1]) == cell).float(), 1 / 9)
