"""The environments that logged data is learnt from: their dynamics and what can be reached in them, exactly.

That they keep the contract of all of seqrl's environments is checked with the others, in test_torch_envs.
"""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
import torch

from seqrl.envs import CrossingCorridors, Gamble, ShortestPath
from seqrl.envs.crossing_corridors import FIRST, SECOND
from seqrl.envs.exact import (
    gamble_conditioned_return,
    memoryless_return,
    optimal_return,
    shortest_path_distances,
)
from seqrl.envs.gamble import GAMBLE, SAFE
from seqrl.envs.shortest_path import GOAL, random_graph
from seqrl.errors import UserError


def episode(env, policy, seed=0):
    """Returns [B] of one episode a row, all of the same length or stopped at their ends."""
    observation, _ = env.reset(seed=seed)
    total, running = torch.zeros(env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    while running.any():
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        total += reward * running
        running &= ~(terminated | truncated)
    return total


# ------------------------------------------------------------------------------------------------ shortest path


def matrix_distances(adjacency):
    """By powers of the adjacency matrix: nothing of breadth-first search."""
    distances, ways = np.full(len(adjacency), -1), np.eye(len(adjacency), dtype=int)[GOAL]
    for length in range(len(adjacency)):
        distances[(ways > 0) & (distances < 0)] = length
        ways = (ways @ adjacency > 0).astype(int)
    return distances


@pytest.mark.parametrize("seed", range(20))
def test_distances_are_shortest(seed):
    # Broken by `.all(0)` in place of `.any(0)`: a node that only some of the frontier lead to would be missed.
    adjacency = random_graph(20, 0.1, seed)
    np.testing.assert_array_equal(shortest_path_distances(adjacency), matrix_distances(adjacency))


def test_distance_where_the_goal_cannot_be_reached():
    path = np.zeros((4, 4), bool)
    path[0, 1] = path[1, 0] = True
    assert shortest_path_distances(path).tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_every_node_reaches_the_goal(probability):
    # Broken by `joined |= ...` of the node alone instead of its part, which would add more edges than parts.
    for seed in range(20):
        adjacency = random_graph(20, probability, seed)
        assert (adjacency == adjacency.T).all()
        assert not adjacency.diagonal().any()
        assert (shortest_path_distances(adjacency) >= 0).all()
        if probability in (0, 1):
            assert adjacency.sum() // 2 == (19 if probability == 0 else 190)


def test_edges_are_as_many_as_asked_for():
    edges = np.mean([random_graph(100, 0.1, seed).sum() / 2 for seed in range(10)])
    assert edges == pytest.approx(0.1 * 4950, rel=0.05)


def test_graph_depends_on_its_seed_alone():
    env, same, other = ShortestPath(), ShortestPath(3, edge_probability=0.1), ShortestPath(graph_seed=1)
    env.reset(seed=5)
    assert (env.adjacency == same.adjacency).all()
    assert (env.adjacency != other.adjacency).any()


@pytest.mark.parametrize("graph_seed", [0, 1, 2])
def test_descending_the_distances_is_optimal_and_nothing_is_better(graph_seed):
    env = ShortestPath(2000, graph_seed=graph_seed, max_episode_steps=30)
    distances = torch.as_tensor(shortest_path_distances(env.adjacency))

    def nearest(observation):
        return distances.masked_fill(~observation["action_mask"], 99).expand(2000, -1).argmin(1)

    env.reset(seed=0)
    starts = env.state["node"]
    assert set(starts.tolist()) == set(range(1, 20))
    assert torch.equal(episode(env, nearest), -distances[starts].float())
    exact = -float(distances[1:].float().mean())
    assert optimal_return(env) == memoryless_return(env) == pytest.approx(exact)


def test_walks():
    env = ShortestPath(64, start=7)
    observation, _ = env.reset(seed=0)
    assert observation["node"].eq(7).all()
    assert observation["action_mask"].numpy().tolist() == env.adjacency[observation["node"]].tolist()
    stranger = int(np.flatnonzero(~env.adjacency[7])[-1])
    observation, reward, terminated, truncated, _ = env.step(torch.full((64,), stranger))
    assert observation["node"].eq(7).all()  # no edge: stays
    assert reward.eq(-1).all()
    assert not (terminated | truncated).any()
    neighbour = int(np.flatnonzero(env.adjacency[7])[0])
    assert env.step(torch.full((64,), neighbour))[0]["node"].eq(neighbour).all()


def test_goal_ends_and_so_does_the_limit():
    env = ShortestPath(1, edge_probability=1.0, start=3)
    env.reset(seed=0)
    assert [flag.item() for flag in env.step(torch.tensor([GOAL]))[1:4]] == [-1, True, False]
    assert episode(env, lambda observation: torch.tensor([3])).item() == -10
    assert optimal_return(env) == -1
    assert optimal_return("seqrl/ShortestPath-v0", edge_probability=0.0, max_episode_steps=1) == -1


# ------------------------------------------------------------------------------------------------ crossing corridors


def ways(env):
    """By (way in, way out), the return and the cells seen; in the corridors both actions are tried."""
    found = {}
    for way_in, way_out, elsewhere in product((FIRST, SECOND), repeat=3):
        observation, _ = env.reset(seed=0)
        cells, total, terminated = [observation.item()], 0.0, False
        while not terminated:
            action = {0: way_in, env.crossing: way_out}.get(cells[-1], elsewhere)
            observation, reward, terminated, _, _ = env.step(torch.tensor([action]))
            cells.append(observation.item())
            total += reward.item()
        assert found.setdefault((way_in, way_out), (total, cells)) == (total, cells)
    return found


@pytest.mark.parametrize("length", [1, 3])
def test_corridors(length):
    # Broken by an X that leads back, or by paying C.
    env = CrossingCorridors(length=length)
    found = ways(env)
    assert {way: total for way, (total, _) in found.items()} == {(0, 0): 1, (0, 1): 3, (1, 0): 0, (1, 1): 2}
    for (way_in, way_out), (_, cells) in found.items():
        corridors = [*env.corridor("AC"[way_in]), env.crossing, *env.corridor("BD"[way_out])]
        assert cells == [0, *corridors, corridors[-1]]
        assert len(cells) - 1 == 2 * (length + 1)
    assert optimal_return(env) == memoryless_return(env) == 3
    every = [cell for name in "ABCD" for cell in env.corridor(name)]
    assert sorted([0, env.crossing, *every]) == list(range(env.single_observation_space.n))


# ------------------------------------------------------------------------------------------------ gamble


@pytest.mark.parametrize("win_chance", [0.2, 0.5])
def test_gamble_pays_what_it_says(win_chance):
    env = Gamble(50_000, win_chance=win_chance)
    assert episode(env, lambda o: torch.full_like(o, SAFE)).eq(4).all()
    gambled = episode(env, lambda o: torch.full_like(o, GAMBLE))
    assert set(gambled.tolist()) == {0, 3, 6, 9, 12}
    assert gambled.mean().item() == pytest.approx(12 * win_chance, abs=4 * gambled.std().item() / 50_000**0.5)
    assert optimal_return(env) == memoryless_return(env) == max(4, 12 * win_chance)


def test_gamble_rounds():
    env = Gamble(rounds=2)
    rounds = [env.reset(seed=0)[0].item()]
    ends = []
    for _ in range(4):
        observation, _, terminated, _, _ = env.step(torch.tensor([GAMBLE]))
        rounds.append(observation.item())
        ends.append(terminated.item())
    assert rounds == [0, 1, 2, 0, 1]
    assert ends == [False, True, False, False]


def test_conditioned_on_one_round():
    # Who got 3 has gambled, who got 1 has not, who got 0 has gambled and lost.
    expected = [gamble_conditioned_return(target, 1, 0.2) for target in (0, 1, 3)]
    assert expected == pytest.approx([0.6, 1, 0.6])


@pytest.mark.parametrize("target", [0, 1, 2, 3, 4, 6, 7, 9, 12])
def test_conditioned_return_is_what_imitation_of_the_log_gets(target):
    # Broken by `p = behaviour`: imitation that does not look at the return. The log is counted, not computed.
    num_logged, rounds = 400_000, 4
    env = Gamble(num_logged, rounds=rounds)
    generator = torch.Generator().manual_seed(1)
    env.reset(seed=0)
    actions, rewards = [], []
    for _ in range(rounds):
        actions.append(torch.randint(2, (num_logged,), generator=generator))
        rewards.append(env.step(actions[-1])[1])
    to_go = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    env = Gamble(20_000, rounds=rounds)
    env.reset(seed=2)
    asked, total = torch.full((20_000,), float(target)), torch.zeros(20_000)
    for t in range(rounds):
        known = to_go[t].unique()
        asked = known[(asked[:, None] - known).abs().argmin(1)]
        chance = torch.stack([actions[t][to_go[t] == value].float().mean() for value in known])
        p = chance[torch.searchsorted(known, asked)]
        reward = env.step((torch.rand(20_000, generator=generator) < p).long())[1]
        asked, total = asked - reward, total + reward
    exact = gamble_conditioned_return(target, rounds, 0.2)
    assert total.mean().item() == pytest.approx(exact, abs=5 * total.std().item() / 20_000**0.5 + 0.02)


def test_asking_for_more_than_is_sure_brings_less():
    returns = {target: gamble_conditioned_return(target, 4, 0.2) for target in range(13)}
    assert returns[12] == pytest.approx(2.4)  # gambles in every round
    assert returns[12] < returns[7] < 4
    assert max(returns.values()) < optimal_return("seqrl/Gamble-v0") == 4


# ------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShortestPath(num_nodes=1), "num_nodes=1"),
        (lambda: ShortestPath(graph_seed=-1), "graph_seed=-1"),
        (lambda: ShortestPath(edge_probability=1.5), "edge_probability=1.5"),
        (lambda: ShortestPath(start=0), "start=0"),
        (lambda: ShortestPath(start=20), "start=20"),
        (lambda: CrossingCorridors(length=0), "length=0"),
        (lambda: Gamble(rounds=0), "rounds=0"),
        (lambda: Gamble(win_chance=-0.1), "win_chance=-0.1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_registered():
    assert gym.make("seqrl/ShortestPath-v0", graph_seed=3).unwrapped.batch.max_episode_steps is None
    assert gym.make_vec("seqrl/ShortestPath-v0", max_episode_steps=40).max_episode_steps == 40
    assert gym.make_vec("seqrl/CrossingCorridors-v0", length=5).length == 5
    assert gym.make_vec("seqrl/Gamble-v0", rounds=2).rounds == 2
