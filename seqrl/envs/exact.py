"""Exact returns of the small environments: what the best policy gets, and what the best one without memory gets.

Returns are expected undiscounted sums of reward over one episode.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import gymnasium

from seqrl.envs import tiger
from seqrl.envs.base import TorchVectorEnv
from seqrl.envs.key_to_door import KeyToDoor
from seqrl.envs.masked_cartpole import MaskedCartPole
from seqrl.envs.repeat_previous import RepeatPrevious
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
    return None


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

    where the first term listens and the second opens the right door, the likelier safe one. The policy is opens[h][d].
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

    policy[observation][action] is the action's chance.
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
