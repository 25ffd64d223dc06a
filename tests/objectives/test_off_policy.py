"""Estimates of another policy's return: exact on a small POMDP all of whose episodes are enumerated.

The mean over the logging policy is a finite sum here, so that "unbiased" and "consistent" are equalities, not chance.
"""

import itertools
import math
from collections import defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from seqrl.objectives import (
    bootstrap_count,
    doubly_robust,
    effective_sample_size,
    importance_sampling,
    log_weights,
    per_decision_importance_sampling,
    tree_backup,
    turn_action_value,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision,
)

LENGTH, NUM_ACTIONS, GAMMA = 3, 2, 0.8
History = tuple[int, ...]


class Logs(NamedTuple):
    """Every episode that can be, a column each, and how likely it is under either policy."""

    log_ratio: Tensor
    reward: Tensor
    mask: Tensor
    histories: list[list[tuple[History, int]]]
    """For each column and row, what the agent knew and what it did."""
    behaviour: Tensor
    target: Tensor
    pi: dict[History, Tensor]


def policies(seed: int) -> defaultdict[History, Tensor]:
    """Probabilities of actions by history, drawn the first time that they are asked for."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(NUM_ACTIONS, generator=generator, dtype=torch.float64).softmax(0)

    return defaultdict(draw)


def enumerate_logs(seed: int = 0) -> Logs:
    """A hidden coin (0.3, 0.7); an observation shows it with the chance 0.8. Two actions, of which the second ends the
    episode with a chance that the coin decides; rewards depend on coin, row and action."""
    pi, mu = policies(seed), policies(seed + 100)
    columns: list[dict[str, Any]] = []

    def go(coin: int, history: History, t: int, chance: float, said: dict[str, list[Any]]) -> None:
        for seen in range(2):
            here = (*history, seen)
            shown = chance * (0.8 if seen == coin else 0.2)
            for action in range(NUM_ACTIONS):
                ratio = float((pi[here][action] / mu[here][action]).log())
                now = {
                    "ratio": [*said["ratio"], ratio],
                    "reward": [*said["reward"], (1 + t) * (1.0 if action == coin else -0.5) + coin],
                    "history": [*said["history"], (here, action)],
                    "mu": [*said["mu"], float(mu[here][action])],
                    "pi": [*said["pi"], float(pi[here][action])],
                }
                ends = (0.7 if coin else 0.4) if action == 1 else 0.0
                ends = 1.0 if t == LENGTH - 1 else ends
                if ends > 0:
                    columns.append({**now, "chance": shown * ends})
                if ends < 1:
                    go(coin, (*here, action), t + 1, shown * (1 - ends), now)

    for coin, chance in enumerate((0.3, 0.7)):
        go(coin, (), 0, chance, {key: [] for key in ("ratio", "reward", "history", "mu", "pi")})
    B = len(columns)
    # Behind the ends stands what must have no say.
    leaves = {name: torch.full((LENGTH, B), math.nan, dtype=torch.float64) for name in ("ratio", "reward")}
    mask = torch.zeros(LENGTH, B, dtype=torch.bool)
    for b, column in enumerate(columns):
        n = len(column["reward"])
        mask[:n, b] = True
        for name, leaf in leaves.items():
            leaf[:n, b] = torch.tensor(column[name], dtype=torch.float64)
    chance = {
        name: torch.tensor([column["chance"] * math.prod(column[name]) for column in columns], dtype=torch.float64)
        for name in ("mu", "pi")
    }
    histories = [column["history"] for column in columns]
    return Logs(leaves["ratio"], leaves["reward"], mask, histories, chance["mu"], chance["pi"], dict(pi))


def truth(logs: Logs) -> Tensor:
    power = GAMMA ** torch.arange(LENGTH, dtype=torch.float64)
    return logs.target @ (logs.reward.nan_to_num() * power[:, None]).sum(0)


def values(logs: Logs, q_of: dict[tuple[History, int], float]) -> tuple[Tensor, Tensor]:
    """q and its mean over π at every row."""
    q, v = (torch.full_like(logs.reward, math.nan) for _ in range(2))
    for b, column in enumerate(logs.histories):
        for t, (history, action) in enumerate(column):
            q[t, b] = q_of[history, action]
            v[t, b] = sum(float(logs.pi[history][a]) * q_of[history, a] for a in range(NUM_ACTIONS))
    return q, v


def exact_q(logs: Logs) -> dict[tuple[History, int], float]:
    """Q^π(h, a) as the mean return-to-go over all episodes that begin with (h, a), by how likely π makes them."""
    total: dict[tuple[History, int], float] = defaultdict(float)
    weight: dict[tuple[History, int], float] = defaultdict(float)
    for b, column in enumerate(logs.histories):
        for t, pair in enumerate(column):
            to_go = sum(GAMMA ** (k - t) * float(logs.reward[k, b]) for k in range(t, len(column)))
            total[pair] += float(logs.target[b]) * to_go
            weight[pair] += float(logs.target[b])
    return {pair: total[pair] / weight[pair] for pair in total}


def any_q(logs: Logs, seed: int = 7) -> dict[tuple[History, int], float]:
    generator = torch.Generator().manual_seed(seed)
    pairs = sorted({pair for column in logs.histories for pair in column})
    return dict(zip(pairs, (2 * torch.randn(len(pairs), generator=generator)).tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_the_logs_are_all_there_is(seed):
    logs = enumerate_logs(seed)
    for chance in (logs.behaviour, logs.target):
        torch.testing.assert_close(chance.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert {len(column) for column in logs.histories} == {1, 2, 3}


@pytest.mark.parametrize("seed", range(3))
def test_importance_sampling_is_unbiased(seed):
    """Breaks if `log_weights` sums no ratios (`log_ratio` alone)."""
    logs = enumerate_logs(seed)
    for estimate in (importance_sampling, per_decision_importance_sampling):
        found = logs.behaviour @ estimate(logs.log_ratio, logs.reward, logs.mask, GAMMA)
        torch.testing.assert_close(found, truth(logs))


@pytest.mark.parametrize("seed", range(3))
def test_doubly_robust_is_unbiased_whatever_q_says(seed):
    """Breaks if the recursion has `ratio[t - 1]`, leaves `q[t]` out of the brackets, or γ out of them."""
    logs = enumerate_logs(seed)
    q, v = values(logs, any_q(logs))
    found = logs.behaviour @ doubly_robust(logs.log_ratio, logs.reward, q, v, logs.mask, GAMMA)
    torch.testing.assert_close(found, truth(logs))


@pytest.mark.parametrize("seed", range(3))
def test_doubly_robust_is_unbiased_whatever_the_ratios_say_if_q_is_exact(seed):
    """Breaks if v is taken for the mean of q over μ."""
    logs = enumerate_logs(seed)
    q, v = values(logs, exact_q(logs))
    torch.testing.assert_close(logs.behaviour @ v[0], truth(logs))
    for log_ratio in (torch.zeros_like(logs.log_ratio), 0.3 * logs.log_ratio):
        found = logs.behaviour @ doubly_robust(log_ratio, logs.reward, q, v, logs.mask, GAMMA)
        torch.testing.assert_close(found, truth(logs))


def test_doubly_robust_is_the_truth_in_every_episode_of_a_sure_world():
    """Rewards by action alone and an exact Q: nothing is left to chance, and each episode gives the value.

    Golden, by hand: two decisions, π = (¾, ¼), rewards 1 and 5 for the actions, γ = ½: v_1 = ¾ + 5/4 = 2, q_0 = r + 1,
    v_0 = ¾ · 2 + ¼ · 6 = 3. Breaks if γ multiplies `reward[t]` as well.
    """
    pays, pi, mu = torch.tensor([1.0, 5.0]), torch.tensor([0.75, 0.25]), torch.tensor([0.4, 0.6])
    actions = torch.tensor(list(itertools.product(range(2), repeat=2))).T
    reward = pays[actions]
    q, v = reward + torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [2.0]]).expand(2, 4)
    mask = torch.ones_like(actions, dtype=torch.bool)
    log_ratio = (pi / mu).log()[actions]
    torch.testing.assert_close(doubly_robust(log_ratio, reward, q, v, mask, 0.5), torch.full((4,), 3.0))
    torch.testing.assert_close(weighted_doubly_robust(log_ratio, reward, q, v, mask, 0.5), torch.tensor([3.0]))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_estimates_are_consistent(seed):
    """Each episode counted by its probability is a log without end: the estimate is the truth.

    Breaks if episodes that have ended leave the denominator (`weight * mask` in `_self_normalised`), or WDR's v is
    weighed by this row's weights in place of the last row's.
    """
    logs = enumerate_logs(seed)
    count = logs.behaviour[None]
    q, v = values(logs, any_q(logs))
    rows = logs.log_ratio, logs.reward
    for found in (
        weighted_importance_sampling(*rows, logs.mask, GAMMA, count),
        weighted_per_decision(*rows, logs.mask, GAMMA, count),
        weighted_doubly_robust(*rows, q, v, logs.mask, GAMMA, count),
    ):
        torch.testing.assert_close(found, truth(logs)[None])


def test_on_policy_all_are_the_plain_mean():
    """Breaks if weights are normalised over rows in place of episodes, or `_all` is no row of ones."""
    logs = enumerate_logs()
    same = torch.zeros_like(logs.log_ratio)
    mean = (logs.reward.nan_to_num() * (GAMMA ** torch.arange(LENGTH))[:, None]).sum(0).mean()
    q, v = values(logs, any_q(logs))
    for estimate in (importance_sampling, per_decision_importance_sampling):
        torch.testing.assert_close(estimate(same, logs.reward, logs.mask, GAMMA).mean(), mean)
    for estimate in (weighted_importance_sampling, weighted_per_decision):
        torch.testing.assert_close(estimate(same, logs.reward, logs.mask, GAMMA), mean[None])
    once = doubly_robust(same, logs.reward, q, v, logs.mask, GAMMA).mean()
    torch.testing.assert_close(weighted_doubly_robust(same, logs.reward, q, v, logs.mask, GAMMA), once[None])
    torch.testing.assert_close(effective_sample_size(log_weights(same, logs.mask)).min().item(), float(mask_size(logs)))


def mask_size(logs: Logs) -> int:
    return logs.mask.shape[1]


def test_weighted_estimates_equal_their_definitions():
    """Sums over episodes one by one, with each drawn as often as `count` says.

    Breaks if `count` multiplies the numerator alone.
    """
    logs = enumerate_logs(4)
    q, v = values(logs, any_q(logs))
    B = mask_size(logs)
    count = bootstrap_count(B, 3, torch.Generator().manual_seed(3))
    ratio = logs.log_ratio.nan_to_num().exp()
    reward, q0, v0 = (leaf.nan_to_num() for leaf in (logs.reward, q, v))
    per_decision, robust = [], []
    for r in range(3):
        drawn = [b for b in range(B) for _ in range(int(count[r, b]))]
        assert len(drawn) == B
        one = other = 0.0
        weight, before = dict.fromkeys(drawn, 1.0), dict.fromkeys(drawn, 1.0)
        for t in range(LENGTH):
            weight = {b: before[b] * float(ratio[t, b]) for b in weight}
            total, last = sum(weight[b] for b in drawn), sum(before[b] for b in drawn)
            for b in drawn:
                w, w_last = weight[b] / total, before[b] / last
                one += GAMMA**t * w * float(reward[t, b])
                other += GAMMA**t * (w * float(reward[t, b] - q0[t, b]) + w_last * float(v0[t, b]))
            before = weight
        per_decision.append(one)
        robust.append(other)
    found = weighted_per_decision(logs.log_ratio, logs.reward, logs.mask, GAMMA, count)
    torch.testing.assert_close(found, torch.tensor(per_decision, dtype=torch.float64))
    found = weighted_doubly_robust(logs.log_ratio, logs.reward, q, v, logs.mask, GAMMA, count)
    torch.testing.assert_close(found, torch.tensor(robust, dtype=torch.float64))


def test_a_baseline_lowers_the_variance():
    """With the exact Q, doubly robust varies less than importance sampling: what it is for."""
    logs = enumerate_logs(1)
    q, v = values(logs, exact_q(logs))

    def deviation(x: Tensor) -> float:
        return float((logs.behaviour @ (x - logs.behaviour @ x).square()).sqrt())

    plain = deviation(per_decision_importance_sampling(logs.log_ratio, logs.reward, logs.mask, GAMMA))
    robust = deviation(doubly_robust(logs.log_ratio, logs.reward, q, v, logs.mask, GAMMA))
    assert robust < 0.7 * plain


def test_effective_sample_size_by_hand():
    """Golden: weights 1, 2, 3 give 36 / 14. Breaks if the second sum is not of squares."""
    weights = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]).double()
    log_weight = weights.log() + torch.tensor([[900.0], [0.0], [0.0], [-900.0]])  # e^900 is no float
    expected = torch.tensor([36 / 14, 1.0, 0.0, 3.0]).double()
    torch.testing.assert_close(effective_sample_size(log_weight), expected)


def test_extreme_weights_stay_numbers():
    """Breaks without `greatest`, or without its least number."""
    log_ratio = torch.tensor([[900.0, -900.0, -torch.inf, 0.0]]).double()
    reward, mask = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double(), torch.ones(1, 4, dtype=torch.bool)
    count = torch.tensor([[1.0, 1, 1, 1], [0, 2, 2, 0]])
    found = weighted_importance_sampling(log_ratio, reward, mask, 1.0, count)
    assert found[0] == 1.0
    assert found.isfinite().all()
    nothing = weighted_importance_sampling(torch.full_like(log_ratio, -torch.inf), reward, mask)
    assert nothing.isfinite().all()


# Must break: `torch.where` left out of `_weighed`: ∞ · 0 is NaN, and so was the mean over all episodes.
@pytest.mark.parametrize("estimate", [importance_sampling, per_decision_importance_sampling])
def test_a_weight_beyond_all_numbers_of_no_reward_is_nothing(estimate):
    log_ratio, mask = torch.full((3, 2), 300.0), torch.ones(3, 2, dtype=torch.bool)
    reward = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert estimate(log_ratio, reward, mask).tolist() == [0.0, math.inf]


def test_bootstrap_counts():
    """Breaks if draws are made without replacement, or the generator is not used."""
    count = bootstrap_count(50, 400, torch.Generator().manual_seed(0))
    assert (count.sum(1) == 50).all()
    assert abs(float(count.var()) - 0.98) < 0.05  # binomial(50, 1/50)
    assert torch.equal(count, bootstrap_count(50, 400, torch.Generator().manual_seed(0)))
    assert not torch.equal(count, bootstrap_count(50, 400, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_tree_backup_has_the_exact_values_as_its_mean(lambda_):
    """For each (h, a), the mean of its targets over the logging policy is Q^π, if the estimate is.

    Breaks if `prob` is left out (a return of the logging policy), or stands at row t in place of t + 1.
    """
    logs = enumerate_logs(2)
    q, v = values(logs, exact_q(logs))
    prob = torch.zeros_like(q)
    for b, column in enumerate(logs.histories):
        for t, (history, action) in enumerate(column):
            prob[t, b] = logs.pi[history][action]
    last = logs.mask & ~torch.cat([logs.mask[1:], torch.zeros_like(logs.mask[:1])])
    discount = GAMMA * (~last).double()
    rows = [leaf.nan_to_num() for leaf in (logs.reward, discount, q, v, prob)]
    target = tree_backup(*rows, lambda_=lambda_)
    mean: dict[Any, float] = defaultdict(float)
    weight: dict[Any, float] = defaultdict(float)
    for b, column in enumerate(logs.histories):
        for t, pair in enumerate(column):
            mean[pair] += float(logs.behaviour[b] * target[t, b])
            weight[pair] += float(logs.behaviour[b])
    expected = exact_q(logs)
    for pair in expected:
        assert mean[pair] / weight[pair] == pytest.approx(expected[pair])


def test_tree_backup_by_hand():
    """Golden: rewards 1, 2, 4, d = ½, ½, 0, q = 10, 20, 30, v = 1, 2, 3, π = ·, ½, ¼.

    G_2 = 4; G_1 = 2 + ½ (3 + ¼ (4 − 30)) = 0.25; G_0 = 1 + ½ (2 + ½ (0.25 − 20)) = −2.9375.
    Breaks if `following` reads `q[t - 1]` or `discount` is not the row's own.
    """
    leaves = [[1.0, 2, 4], [0.5, 0.5, 0], [10.0, 20, 30], [1.0, 2, 3], [0.9, 0.5, 0.25]]
    target = tree_backup(*(torch.tensor(leaf)[:, None] for leaf in leaves))
    torch.testing.assert_close(target.flatten(), torch.tensor([-2.9375, 0.25, 4.0]))


def test_the_value_of_an_utterance_has_the_first_tokens_value_as_its_mean():
    """Utterances of up to three tokens of two kinds and an end, any q: E_{u ~ π} Q(h, u) = v(s_1), enumerated.

    Breaks if it is the last token's q (as it is for the exact q alone), or `- v[t]` is left out.
    """
    generator = torch.Generator().manual_seed(0)
    pi: dict[History, Tensor] = defaultdict(lambda: torch.randn(3, generator=generator).double().softmax(0))
    q_of: dict[History, Tensor] = defaultdict(lambda: torch.randn(3, generator=generator).double())
    total = torch.zeros((), dtype=torch.float64)
    for said in [(2,), *((a, 2) for a in range(2)), *((a, b, c) for a in range(2) for b in range(2) for c in range(3))]:
        before = [said[:k] for k in range(len(said))]
        q = torch.stack([q_of[s][a] for s, a in zip(before, said, strict=True)])[:, None]
        v = torch.stack([pi[s] @ q_of[s] for s in before])[:, None]
        ends = torch.zeros_like(q, dtype=torch.bool)
        ends[-1] = True
        chance = math.prod(float(pi[s][a]) for s, a in zip(before, said, strict=True))
        found = turn_action_value(q, v, ends, torch.ones_like(ends))
        assert (found[:-1] == 0).all()
        total += chance * found[-1, 0]
    torch.testing.assert_close(total, pi[()] @ q_of[()])


def test_the_value_of_an_utterance_by_hand():
    """Golden: two turns, q = 5, 7 | 2, 4, 9 and v = 1, 3 | 8, 6, 5 with a masked row between them.

    5 + 7 − 3 = 9;   2 + 4 − 6 + 9 − 5 = 4. Breaks if `begins` is not set at a turn's end.
    """
    q = torch.tensor([5.0, 7, 77, 2, 4, 9])[:, None]
    v = torch.tensor([1.0, 3, 66, 8, 6, 5])[:, None]
    ends = torch.tensor([False, True, False, False, False, True])[:, None]
    mask = torch.tensor([True, True, False, True, True, True])[:, None]
    found = turn_action_value(q, v, ends, mask)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 9, 0, 0, 0, 4]))


def test_shapes_are_checked_in_tests():
    logs = enumerate_logs()
    with pytest.raises(Exception, match=r"(?s)Type-check.*reward"):
        weighted_per_decision(logs.log_ratio, logs.reward[0], logs.mask)
