"""`vtrace` against the paper's equation, against returns on policy, and by hand."""

import numpy as np
import pytest
import torch

from seqrl.objectives import gae, n_step_return, vtrace


def vtrace_by_definition(behaviour, target, reward, discount, value, next_value, clip_rho, clip_c, lambda_):
    """Equation 1 as a sum, O(T²) and without recursion, row by row and column by column:

    v_s = V(x_s) + Σ_{t ≥ s} (Π_{s ≤ i < t} γ_i c_i) ρ_t (r_t + γ_t V(x_{t+1}) − V(x_t)),

    and the advantage ρ_s (r_s + γ_s v_{s+1} − V(x_s)) of section 4.2.
    """
    T, B = reward.shape
    ratio = np.exp((target - behaviour).numpy())
    r, d, v, w, lam = (leaf.numpy() for leaf in (reward, discount, value, next_value, lambda_))
    targets, advantages = np.zeros((T, B)), np.zeros((T, B))
    for b in range(B):
        for s in range(T):
            targets[s, b] = v[s, b]
            for t in range(s, T):
                product = 1.0
                for i in range(s, t):
                    product *= d[i, b] * lam[i, b] * min(clip_c, ratio[i, b])
                targets[s, b] += product * min(clip_rho, ratio[t, b]) * (r[t, b] + d[t, b] * w[t, b] - v[t, b])
        for s in range(T):
            # Behind a cut, and behind the last row, what follows is known by its value alone.
            following = w[s, b]
            if s + 1 < T:
                following += lam[s, b] * (targets[s + 1, b] - v[s + 1, b])
            advantages[s, b] = min(clip_rho, ratio[s, b]) * (r[s, b] + d[s, b] * following - v[s, b])
    return torch.from_numpy(targets), torch.from_numpy(advantages)


def random_rows(T=13, B=6, seed=0):
    """Log-probabilities of both policies, reward, discount, value, next value, and λ, with ends among the rows.

    The next value is the next row's, but for truncations, where it is the final observation's.
    """
    generator = torch.Generator().manual_seed(seed)
    behaviour, target = -torch.rand(2, T, B, generator=generator, dtype=torch.float64) * 2
    reward, value, final = torch.randn(3, T, B, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, T, B, generator=generator, dtype=torch.float64) < 0.15
    discount = 0.9 * (~terminated).double()
    cut = terminated | truncated
    next_value = torch.where(cut, final, torch.cat([value[1:], final[-1:]]))
    return behaviour, target, reward, discount, value, next_value, (~cut).double()


def test_vtrace_equals_its_definition():
    """Breaks if `decay` leaves out the ratio, or takes ρ's clip in place of c's, or `carry` reads `decay[t - 1]`."""
    for seed in range(5):
        *rows, trace = random_rows(seed=seed)
        for clip_rho, clip_c, lambda_ in ((1.0, 1.0, 1.0), (2.0, 0.7, 1.0), (0.8, 1.5, 0.9), (3.0, 1.0, 0.0)):
            found = vtrace(*rows, clip_rho, clip_c, lambda_ * trace)
            expected = vtrace_by_definition(*rows, clip_rho, clip_c, lambda_ * trace)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_on_policy_it_is_the_return_up_to_the_cut():
    """Breaks if `following` is not zero behind the last row, or `discount` multiplies ρ's error twice."""
    behaviour, _, reward, discount, value, next_value, trace = random_rows()
    target, advantage = vtrace(behaviour, behaviour, reward, discount, value, next_value, lambda_=trace)
    expected = n_step_return(reward, discount, next_value, trace, len(reward))
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(advantage, expected - value)
    for t, b in ((4, 0), (12, 1)):  # rewards summed by hand, to the episode's end
        end = next((k for k in range(t, 12) if trace[k, b] == 0), 12)
        by_hand = sum(0.9 ** (k - t) * reward[k, b] for k in range(t, end + 1))
        by_hand += 0.9 ** (end - t) * discount[end, b] * next_value[end, b]
        torch.testing.assert_close(target[t, b], by_hand)


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 1.0])
def test_on_policy_it_is_gae(lambda_):
    """Breaks if the advantage leaves λ out: `next_value + following`."""
    behaviour, _, *rows, trace = random_rows(seed=3)
    found = vtrace(behaviour, behaviour, *rows, lambda_=lambda_ * trace)
    for one, other in zip(found, gae(*rows, lambda_ * trace), strict=True):
        torch.testing.assert_close(one, other)


def test_a_truncation_equals_splitting_the_sequence():
    """Breaks if `decay` or the advantage does not read λ at the cut row."""
    behaviour, target, reward, _, value, next_value, _ = random_rows()
    discount, lambda_ = torch.full_like(reward, 0.9), torch.full_like(reward, 0.8)
    lambda_[4] = 0.0  # truncated at row 4: next_value[4] is that of the episode's final observation
    next_value[4] = 7.0
    rows = behaviour, target, reward, discount, value, next_value
    whole = vtrace(*rows, lambda_=lambda_)
    for part in (slice(0, 5), slice(5, None)):
        alone = vtrace(*(leaf[part] for leaf in rows), lambda_=0.8)
        for found, expected in zip(whole, alone, strict=True):
            torch.testing.assert_close(found[part], expected)


def test_the_next_episode_has_no_say():
    """Breaks if the advantage bootstraps from `value[1:]` in place of `next_value`."""
    *rows, lambda_ = random_rows()
    lambda_[4] = 0.0
    before = vtrace(*rows, lambda_=lambda_)
    for leaf in (rows[0], rows[1], rows[2], rows[4], rows[5]):
        leaf[5:] = 5.0
    after = vtrace(*rows, lambda_=lambda_)
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[:5], y[:5])


def test_vtrace_by_hand():
    """Golden: rewards 1, 2, 4, values 10, 20, 40 and 80 behind them, γ = ½, π/μ = ½, 2, 4, ρ̄ = 2, c̄ = 1.

    ρ = ½, 2, 2 and c = ½, 1, 1. Errors: 2 (4 + 40 − 40) = 8; 2 (2 + 20 − 20) = 4; ½ (1 + 10 − 10) = ½.
    Targets: 40 + 8 = 48; 20 + 4 + ½ · 8 = 28; 10 + ½ + ½ · ½ · 8 = 12½.
    Advantages: 8; 2 (2 + ½ · 48 − 20) = 12; ½ (1 + ½ · 28 − 10) = 2½.

    Breaks if both clips are min(ρ̄, c̄), or `following` is `excess` itself.
    """
    ratio, reward = torch.tensor([[0.5], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [4.0]])
    value, next_value = torch.tensor([[10.0], [20.0], [40.0]]), torch.tensor([[20.0], [40.0], [80.0]])
    rows = torch.zeros(3, 1), ratio.log(), reward, torch.full((3, 1), 0.5), value, next_value
    target, advantage = vtrace(*rows, clip_rho=2.0, clip_c=1.0)
    torch.testing.assert_close(target.flatten(), torch.tensor([12.5, 28.0, 48.0]))
    torch.testing.assert_close(advantage.flatten(), torch.tensor([2.5, 12.0, 8.0]))


def test_no_gradient_flows_through():
    """Breaks without `torch.no_grad`."""
    rows = [leaf.requires_grad_() for leaf in random_rows()]
    assert not any(leaf.requires_grad for leaf in vtrace(*rows[:6], lambda_=rows[6]))


def test_vtrace_equals_rlax():
    """Breaks as the definition's test does; where nothing is truncated, since rlax reads the next row's value there."""
    rlax = pytest.importorskip("rlax")
    behaviour, target, reward, discount, value, next_value, _ = random_rows()
    next_value[:-1] = value[1:]
    lambda_ = (discount > 0).double() * 0.9
    found = vtrace(behaviour, target, reward, discount, value, next_value, clip_rho=1.3, lambda_=lambda_)
    for b in range(reward.shape[1]):
        columns = [leaf[:, b].numpy() for leaf in (value, next_value, reward, discount, (target - behaviour).exp())]
        result = rlax.vtrace_td_error_and_advantage(
            *columns, lambda_=lambda_[:, b].numpy(), clip_rho_threshold=1.3, clip_pg_rho_threshold=1.3
        )
        expected = result.errors + columns[0], result.pg_advantage
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[:, b].float(), torch.tensor(np.array(other)).float(), rtol=1e-4, atol=1e-5)


def test_shapes_are_checked_in_tests():
    *rows, _ = random_rows()
    with pytest.raises(Exception, match=r"(?s)Type-check.*reward"):
        vtrace(*rows[:2], rows[2][:, 0], *rows[3:])
