"""Exact returns of the small environments: what the best policy gets, and what the best one without memory gets.

Returns are expected undiscounted sums of reward over one episode.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import gymnasium
import numpy as np

from seqrl.envs import gamble, shortest_path, tiger
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.crossing_corridors import IN_REWARD, OUT_REWARD, CrossingCorridors
from seqrl.envs.gamble import Gamble
from seqrl.envs.key_to_door import KeyToDoor
from seqrl.envs.leduc import Leduc
from seqrl.envs.leduc_exact import best_response_return
from seqrl.envs.masked_cartpole import MaskedCartPole
from seqrl.envs.repeat_previous import RepeatPrevious
from seqrl.envs.shortest_path import ShortestPath
from seqrl.envs.tiger import Tiger
from seqrl.envs.tmaze import TMaze


def optimal_return(env: str | gymnasium.Env | gymnasium.vector.VectorEnv, **kwargs: Any) -> float | None:
    """The best policy's expected return, or None where it is not known.

    `env` is an id, with `kwargs` for its constructor, or an environment, single, batched or wrapped. What a wrapper
    changes is not looked at.
    """
    match _unwrap(env, kwargs):
        case TMaze() | RepeatPrevious() | KeyToDoor():
            return 1.0
        case Tiger(horizon=horizon):
            return tiger_optimal_return(horizon)
        case MaskedCartPole(max_episode_steps=limit):
            # Every step pays 1, and a linear law of x, θ and their differences never falls (the tests run it).
            return float(limit or 500)  # a single copy has its limit, 500, in Gymnasium's wrapper
        case Leduc(opponent=opponent, seat=seat):
            return best_response_return(opponent, seat)
        case ShortestPath() | CrossingCorridors() | Gamble() as observed:
            return _observed_return(observed)
    return None


def memoryless_return(env: str | gymnasium.Env | gymnasium.vector.VectorEnv, **kwargs: Any) -> float | None:
    """The expected return of the best policy that looks at the current observation only, or None where it is not known.

    Arguments are those of `optimal_return`. The functions below say over which policies each is the best.
    """
    match _unwrap(env, kwargs):
        case TMaze():
            return tmaze_memoryless_return()
        case RepeatPrevious(num_symbols=num_symbols):
            return repeat_previous_memoryless_return(num_symbols)
        case Tiger(horizon=horizon):
            return tiger_memoryless_return(horizon)
        case KeyToDoor():
            return 1.0
        case ShortestPath() | CrossingCorridors() | Gamble() as observed:
            return _observed_return(observed)
    return None


def _observed_return(env: ShortestPath | CrossingCorridors | Gamble) -> float:
    """The optimal return of those that hide nothing, which a memory cannot add to."""
    match env:
        case ShortestPath(adjacency=adjacency, start=start, max_episode_steps=limit):
            distances = shortest_path_distances(adjacency)
            starts = [start] if start is not None else [n for n in range(len(adjacency)) if n != shortest_path.GOAL]
            steps = distances[starts] if limit is None else distances[starts].clip(max=limit)
            return -float(steps.mean())
        case CrossingCorridors():
            return max(IN_REWARD) + max(OUT_REWARD)
        case Gamble(rounds=rounds, win_chance=win_chance):
            return rounds * max(gamble.SAFE_REWARD, win_chance * gamble.WIN_REWARD)


def _unwrap(env: str | gymnasium.Env | gymnasium.vector.VectorEnv, kwargs: dict[str, Any]) -> TorchVectorEnv | None:
    if isinstance(env, str):
        if not env.startswith("seqrl/"):
            return None
        env = gymnasium.make_vec(env, **kwargs)
    inner = getattr(env.unwrapped, "batch", env.unwrapped)  # the batch of one inside a SingleEnv
    return inner if isinstance(inner, TorchVectorEnv) else None


def tmaze_memoryless_return() -> float:
    """½, for every length, passive and active, over all policies of the current observation, stochastic ones too.

    The junction's observation does not depend on the cue, so the chances p_up and p_down of entering the arms from
    there do not either, and one is 1 − the other among those who enter. Hence P(right arm) = ½ P(enters | up) p_up + ½
    P(enters | down) p_down ≤ ½ (p_up + p_down) ≤ ½; penalties only lower it. Always right, then up, attains it.
    """
    return 0.5


def repeat_previous_memoryless_return(num_symbols: int) -> float:
    """2/n − 1 over all policies: o_t says nothing about o_{t−k}, so any guess is right with chance 1/n."""
    return 2 / num_symbols - 1


def tiger_optimal_return(horizon: int) -> float:
    """The best return within `horizon` decisions: V_horizon(0) of `tiger_plan`."""
    return tiger_plan(horizon)[0]


def tiger_plan(horizon: int) -> tuple[float, list[list[bool]]]:
    """The best return within `horizon` decisions and a policy that attains it, by backward induction over beliefs.

    The belief depends on d = (times heard left) − (times heard right) since the last opening alone. With accuracy p,
    b(d) = P(tiger left | d) = p^d / (p^d + (1 − p)^d), and by symmetry d ≥ 0 is enough. With h decisions left:

        V_h(d) = max( −1 + q V_{h−1}(d + 1) + (1 − q) V_{h−1}(|d − 1|),  10 b(d) − 100 (1 − b(d)) + V_{h−1}(0) )
        q = b(d) p + (1 − b(d)) (1 − p)  is the chance to hear left again,    V_0 = 0

    where the first term listens and the second opens the right door, the likelier safe one. The policy is
    `opens[h][d]`.
    Source: Kaelbling, Littman and Cassandra 1998.
    """
    p = tiger.ACCURACY
    odds = (1 - p) / p
    left = [1 / (1 + odds**d) for d in range(horizon + 1)]
    value = [0.0] * (horizon + 2)
    opens = [[False] * (horizon + 1)]
    for remaining in range(1, horizon + 1):
        new = [0.0] * (horizon + 2)
        opens.append([False] * (horizon + 1))
        for d in range(horizon - remaining + 1):  # no more can have been heard by then
            again = left[d] * p + (1 - left[d]) * (1 - p)
            listen = tiger.LISTEN_REWARD + again * value[d + 1] + (1 - again) * value[abs(d - 1)]
            open_right = left[d] * tiger.SAFE_REWARD + (1 - left[d]) * tiger.TIGER_REWARD + value[0]
            new[d] = max(listen, open_right)
            opens[remaining][d] = open_right > listen
        value = new
    return value[0], opens


def tiger_memoryless_return(horizon: int) -> float:
    """The best of the 27 deterministic stationary policies observation → action. It is −horizon: always listen."""
    return max(
        tiger_policy_return([[float(a == chosen) for a in range(3)] for chosen in policy], horizon)
        for policy in product(range(3), repeat=3)
    )


def tiger_policy_return(policy: Sequence[Sequence[float]], horizon: int) -> float:
    """The return of a memoryless policy, by backward induction over (tiger, observation).

    `policy[observation][action]` is the action's chance.
    """
    value = {(left, o): 0.0 for left in (True, False) for o in range(3)}
    for _ in range(horizon):
        after_opening = (value[True, tiger.NOTHING] + value[False, tiger.NOTHING]) / 2
        new = {}
        for left, o in value:
            listen, open_left, open_right = policy[o]
            right_sound, wrong_sound = (
                (tiger.HEAR_LEFT, tiger.HEAR_RIGHT) if left else (tiger.HEAR_RIGHT, tiger.HEAR_LEFT)
            )
            heard = tiger.ACCURACY * value[left, right_sound] + (1 - tiger.ACCURACY) * value[left, wrong_sound]
            to_tiger, to_safety = (open_left, open_right) if left else (open_right, open_left)
            new[left, o] = (
                listen * (tiger.LISTEN_REWARD + heard)
                + to_tiger * (tiger.TIGER_REWARD + after_opening)
                + to_safety * (tiger.SAFE_REWARD + after_opening)
            )
        value = new
    return (value[True, tiger.NOTHING] + value[False, tiger.NOTHING]) / 2


def shortest_path_distances(adjacency: np.ndarray) -> np.ndarray:
    """The number of edges from each node to the goal, int64 [num_nodes], by breadth-first search from the goal.

    `adjacency` is the graph's symmetric bool matrix, `ShortestPath.adjacency`. Where the goal cannot be reached, −1.
    """
    distances = np.full(len(adjacency), -1)
    frontier, distance = np.arange(len(adjacency)) == shortest_path.GOAL, 0
    while frontier.any():
        distances[frontier] = distance
        frontier = adjacency[frontier].any(0) & (distances < 0)
        distance += 1
    return distances


def gamble_conditioned_return(target: float, rounds: int, win_chance: float, behaviour: float = 0.5) -> float:
    """The expected return of perfect return-conditioned imitation in `Gamble`, asked for `target` at the start.

    The log is of a policy that gambles with probability g = `behaviour` in every round, and the imitation takes, with k
    rounds left and R still to get, P(gamble | R) of it by Bayes' rule. With p_k(R) the chance to get R in k rounds:

        P(gamble | R) = g (w p_{k−1}(R − 3) + (1 − w) p_{k−1}(R)) / p_k(R),   R ← R − r after a reward of r

    An R that the log does not hold, as after a gamble lost, is taken for the nearest one that it does, as a network
    would. This is what a Decision Transformer tends to with ever more data, when it draws its actions.
    """
    safe, win = gamble.SAFE_REWARD, gamble.WIN_REWARD
    outcomes = [(1 - behaviour, safe), (behaviour * win_chance, win), (behaviour * (1 - win_chance), 0.0)]
    chances: list[dict[float, float]] = [{0.0: 1.0}]  # by rounds left and R: p_k(R)
    for _ in range(rounds):
        new: dict[float, float] = {}
        for (chance, reward), (rest, before) in product(outcomes, chances[-1].items()):
            if chance * before > 0:
                new[rest + reward] = new.get(rest + reward, 0.0) + chance * before
        chances.append(new)

    def expected(left: int, asked: float) -> float:
        if left == 0:
            return 0.0
        known = min(chances[left], key=lambda to_get: abs(to_get - asked))
        rest = chances[left - 1]
        by_gambling = win_chance * rest.get(known - win, 0.0) + (1 - win_chance) * rest.get(known, 0.0)
        p = behaviour * by_gambling / chances[left][known]
        value = (1 - p) * (safe + expected(left - 1, known - safe)) if p < 1 else 0.0
        if p > 0:
            value += p * win_chance * (win + expected(left - 1, known - win))
            value += p * (1 - win_chance) * expected(left - 1, known)
        return value

    return expected(rounds, target)
