"""What another policy would have brought, from rows that were logged: importance weights and doubly robust estimates.

Columns are episodes, each from its beginning; row t is its decision t; `mask` is False behind its end. `log_ratio` is
log π(a_t|h_t) − log μ(a_t|h_t), where μ is the policy that was logged and π the one that is asked about. γ counts
decisions. The weight of a beginning is ρ_{0:t} = Π_{k ≤ t} π/μ; an episode that has ended keeps its last one, since it
still stands for its share of all episodes.

Estimates that are ratios of sums over episodes take `count` [R, B], how often each episode counts in each of R
resamples (see `bootstrap_count`), and give [R]; without it, every episode counts once, and R is 1.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def bootstrap_count(num_episodes: int, num_resamples: int, generator: torch.Generator) -> Float[Tensor, "R B"]:
    """How often each episode is drawn in each of R resamples of as many episodes, with replacement (Efron 1979)."""
    drawn = torch.randint(num_episodes, (num_resamples, num_episodes), generator=generator, device=generator.device)
    count = torch.zeros(num_resamples, num_episodes, dtype=torch.float64, device=generator.device)
    return count.scatter_add_(1, drawn, torch.ones_like(count))


def log_weights(log_ratio: Float[Tensor, "T B"], mask: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """log ρ_{0:t}, for each row; behind an episode's end, its last one."""
    return log_ratio.masked_fill(~mask, 0.0).cumsum(0)


def effective_sample_size(log_weight: Float[Tensor, "*T B"]) -> Float[Tensor, "*T"]:
    """How many episodes of equal weight would say as much: (Σ w)² / Σ w², between 1 and B.

    0 where every weight is. Source: Kish 1965, "Survey Sampling", section 8.2.
    """
    size = (2 * log_weight.logsumexp(-1) - (2 * log_weight).logsumexp(-1)).exp()
    return size.masked_fill(log_weight.amax(-1) == -torch.inf, 0.0)


def importance_sampling(
    log_ratio: Float[Tensor, "T B"], reward: Float[Tensor, "T B"], mask: Bool[Tensor, "T B"], gamma: float = 1.0
) -> Float[Tensor, "B"]:
    """ρ_{0:T} Σ_t γ^t r_t, an episode each. The mean is unbiased; its variance grows exponentially with the length.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation".
    """
    return _weighed(log_weights(log_ratio, mask)[-1], _discounted(reward, mask, gamma).sum(0))


def per_decision_importance_sampling(
    log_ratio: Float[Tensor, "T B"], reward: Float[Tensor, "T B"], mask: Bool[Tensor, "T B"], gamma: float = 1.0
) -> Float[Tensor, "B"]:
    """Σ_t γ^t ρ_{0:t} r_t, an episode each: a reward is weighed by what was chosen before it alone. Unbiased mean.

    Source: Precup, Sutton & Singh 2000.
    """
    return _weighed(log_weights(log_ratio, mask), _discounted(reward, mask, gamma)).sum(0)


def doubly_robust(
    log_ratio: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    q: Float[Tensor, "T B"],
    v: Float[Tensor, "T B"],
    mask: Bool[Tensor, "T B"],
    gamma: float = 1.0,
) -> Float[Tensor, "B"]:
    """An episode each: values, corrected by importance weights where they were wrong.

        DR_t = v_t + ρ_t (r_t + γ DR_{t+1} − q_t),   DR_T = 0;   the estimate is DR_0

    `q` [T, B] is an estimate of Q^π(h_t, a_t), `v` its mean over π, Σ_a π(a|h_t) q(h_t, a). The mean is unbiased for
    any such pair with true ratios (if they do not depend on the episode itself), and for the exact Q^π with any ratios.

    Source: Jiang & Li 2016, arXiv 1511.03722, equation 10.
    """
    ratio = log_ratio.masked_fill(~mask, 0.0).exp()
    q, v, reward = (leaf.masked_fill(~mask, 0.0) for leaf in (q, v, reward))
    estimate = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        estimate = v[t] + ratio[t] * (reward[t] + gamma * estimate - q[t])
    return estimate


def weighted_importance_sampling(
    log_ratio: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    mask: Bool[Tensor, "T B"],
    gamma: float = 1.0,
    count: Float[Tensor, "R B"] | None = None,
) -> Float[Tensor, "R"]:
    """Σ_b ρ_b G_b / Σ_b ρ_b with the weights ρ of whole episodes and their returns G: biased, consistent, and never
    outside the logged returns. Source: Precup, Sutton & Singh 2000.
    """
    returns = _discounted(reward, mask, gamma).sum(0, keepdim=True)
    return _self_normalised(log_weights(log_ratio, mask)[-1:], returns, _all(count, reward))[:, 0]


def weighted_per_decision(
    log_ratio: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    mask: Bool[Tensor, "T B"],
    gamma: float = 1.0,
    count: Float[Tensor, "R B"] | None = None,
) -> Float[Tensor, "R"]:
    """Σ_t γ^t Σ_b ρ_{0:t,b} r_{t,b} / Σ_b ρ_{0:t,b}: biased, consistent.

    Episodes that ended before t count in the denominator: they brought nothing more, and that is part of the mean.

    Source: Precup, Sutton & Singh 2000; the form for all episodes at once, Thomas 2015, "Safe Reinforcement Learning".
    """
    discounted = _discounted(reward, mask, gamma)
    return _self_normalised(log_weights(log_ratio, mask), discounted, _all(count, reward)).sum(1)


def weighted_doubly_robust(
    log_ratio: Float[Tensor, "T B"],
    reward: Float[Tensor, "T B"],
    q: Float[Tensor, "T B"],
    v: Float[Tensor, "T B"],
    mask: Bool[Tensor, "T B"],
    gamma: float = 1.0,
    count: Float[Tensor, "R B"] | None = None,
) -> Float[Tensor, "R"]:
    """Doubly robust with self-normalised weights w_t = ρ_{0:t} / Σ_b ρ_{0:t}, and w_{−1} = 1 / B:

        Σ_t γ^t Σ_b (w_t (r_t − q_t) + w_{t−1} v_t)

    Biased, consistent, and of much less variance than `doubly_robust`. `q`, `v` as there.

    Source: Thomas & Brunskill 2016, arXiv 1604.00923, section 5 (WDR).
    """
    count = _all(count, reward)
    log_weight = log_weights(log_ratio, mask)
    before = torch.cat([torch.zeros_like(log_weight[:1]), log_weight[:-1]])
    surprise = _self_normalised(log_weight, _discounted(reward - q, mask, gamma), count)
    foreseen = _self_normalised(before, _discounted(v, mask, gamma), count)
    return (surprise + foreseen).sum(1)


def tree_backup(
    reward: Float[Tensor, "T B"],
    discount: Float[Tensor, "T B"],
    q: Float[Tensor, "T B"],
    v: Float[Tensor, "T B"],
    prob: Float[Tensor, "T B"],
    lambda_: float = 1.0,
) -> Float[Tensor, "T B"]:
    """Targets for Q^π from rows of any policy, without knowing which: no importance weights.

        G_t = r_t + d_t (v_{t+1} + λ π(a_{t+1}|h_{t+1}) (G_{t+1} − q_{t+1})),   nothing behind the last row

    `q` and `v` are the current estimate at the logged actions and its mean over π, `prob` is π(a_t|h_t). `discount` is
    0 at an episode's last row. The expectation over π's other actions stays in v; where π is sure of the logged action,
    the target looks as far ahead as a return. With λ = 0 it is expected SARSA's.

    Source: Precup, Sutton & Singh 2000, section 3.2; as TB(λ), Munos et al. 2016, arXiv 1606.02647.
    """
    target = torch.empty_like(reward)
    following = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        target[t] = reward[t] + discount[t] * following
        following = v[t] + lambda_ * prob[t] * (target[t] - q[t])
    return target


def turn_action_value(
    q: Float[Tensor, "T B"], v: Float[Tensor, "T B"], ends_turn: Bool[Tensor, "T B"], mask: Bool[Tensor, "T B"]
) -> Float[Tensor, "T B"]:
    """The value of a whole utterance from those of its tokens, at the rows of its last one (0 elsewhere).

        Q(h, u) = v(s_1) + Σ_k (q(s_k, a_k) − v(s_k)),   over the tokens a_k of u said in s_k

    `q` is any estimate of the values of tokens, not discounted within a turn, and `v` its mean over π. Each term of the
    sum has the mean 0 under π, so E_{u ~ π} Q(h, u) = v(s_1) exactly, whatever `q` is: what `doubly_robust` asks for,
    without drawing utterances. For the exact q, q(s_k, a_k) = v(s_{k+1}), and it is the last token's, q(s_K, a_K).
    """
    q, v = q.masked_fill(~mask, 0.0), v.masked_fill(~mask, 0.0)
    result, since = torch.zeros_like(q), torch.zeros_like(q[0])
    begins = torch.ones_like(mask[0])
    for t in range(len(q)):
        # At a turn's first token v(s_1) cancels: what is left is its q.
        since = torch.where(begins, q[t], since + q[t] - v[t])
        result[t] = torch.where(ends_turn[t] & mask[t], since, 0.0)
        begins = torch.where(mask[t], ends_turn[t], begins)
    return result


def _discounted(reward: Tensor, mask: Tensor, gamma: float) -> Tensor:
    power = gamma ** torch.arange(len(reward), dtype=reward.dtype, device=reward.device)
    return reward.masked_fill(~mask, 0.0) * power[:, None]


def _weighed(log_weight: Tensor, x: Tensor) -> Tensor:
    """ρ x, and 0 for an x of 0 though ρ may be too large for a number."""
    return torch.where(x == 0, 0.0, log_weight.exp() * x)


def _all(count: Tensor | None, like: Tensor) -> Tensor:
    return like.new_ones(1, like.shape[1]) if count is None else count.to(like.dtype)


def _self_normalised(log_weight: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """Σ_b c_rb w_tb x_tb / Σ_b c_rb w_tb, [R, T]. Weights relative to the greatest do not overflow; none is smaller
    than the least normal number, so that a resample which lacks the great ones is no 0 / 0."""
    number = torch.finfo(log_weight.dtype)
    greatest = log_weight.amax(1, keepdim=True).clamp(min=number.min)
    weight = (log_weight - greatest).exp().clamp(min=number.tiny)
    return count @ (weight * x).T / (count @ weight.T)
