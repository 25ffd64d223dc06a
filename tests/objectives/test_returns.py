"""`gae` and `n_step_return` against their definitions, written as sums."""

import pytest
import torch

from seqrl.objectives import gae, n_step_return


def gae_by_definition(reward, discount, value, next_value, lambda_):
    """A_t = Σ_{k ≥ t} (Π_{t ≤ i < k} d_i λ_i) δ_k, in O(T²) and without recursion."""
    T = len(reward)
    delta = reward + discount * next_value - value
    advantage = torch.zeros_like(reward)
    for t in range(T):
        for k in range(t, T):
            advantage[t] += (discount[t:k] * lambda_[t:k]).prod(0) * delta[k]
    return advantage + value, advantage


def random_rows(T=11, B=5, seed=0):
    """Reward, discount, value, next value and λ of each row, with terminations and truncations among them."""
    generator = torch.Generator().manual_seed(seed)
    reward, value, next_value = torch.randn(3, T, B, generator=generator, dtype=torch.float64)
    terminated, truncated = torch.rand(2, T, B, generator=generator, dtype=torch.float64) < 0.2
    discount = 0.9 * (~terminated).double()
    lambda_ = torch.rand(T, B, generator=generator, dtype=torch.float64) * ~(terminated | truncated)
    return reward, discount, value, next_value, lambda_


# Breaks if `carry = delta[t] + decay[t] * carry` reads `decay[t - 1]`, or `decay` leaves out the discount.
@pytest.mark.parametrize("seed", range(5))
def test_gae_equals_its_definition(seed):
    rows = random_rows(seed=seed)
    for found, expected in zip(gae(*rows), gae_by_definition(*rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Breaks if the loop over rows leaves out the last one, or `target` is the advantage alone.
def test_lambda_one_gives_the_discounted_return():
    reward, _, value, _, _ = random_rows()
    discount = torch.full_like(reward, 0.9)
    next_value = torch.cat([value[1:], torch.full_like(value[:1], 7.0)])
    target, advantage = gae(reward, discount, value, next_value, 1.0)
    T = len(reward)
    for t in range(T):
        expected = sum(0.9 ** (k - t) * reward[k] for k in range(t, T)) + 0.9 ** (T - t) * 7.0
        torch.testing.assert_close(target[t], expected)
        torch.testing.assert_close(advantage[t], expected - value[t])


# Breaks if `decay = discount` (λ left out).
def test_lambda_zero_gives_the_temporal_difference_error():
    reward, discount, value, next_value, _ = random_rows()
    target, advantage = gae(reward, discount, value, next_value, 0.0)
    torch.testing.assert_close(advantage, reward + discount * next_value - value)
    torch.testing.assert_close(target, reward + discount * next_value)


# Breaks if `decay = discount * 0.95` (λ per row not read).
def test_a_truncation_equals_splitting_the_sequence():
    reward, _, value, next_value, _ = random_rows()
    discount, lambda_ = torch.full_like(reward, 0.9), torch.full_like(reward, 0.8)
    lambda_[4] = 0.0  # truncated at row 4: next_value[4] is that of the episode's final observation
    whole = gae(reward, discount, value, next_value, lambda_)
    for rows in (slice(0, 5), slice(5, None)):
        part = gae(*(leaf[rows] for leaf in (reward, discount, value, next_value)), 0.8)
        for found, expected in zip(whole, part, strict=True):
            torch.testing.assert_close(found[rows], expected)


# Breaks if `delta = reward + 0.9 * next_value - value` (a termination's discount not read).
def test_what_follows_a_termination_has_no_influence():
    reward, discount, value, next_value, lambda_ = random_rows()
    discount[4], lambda_[4] = 0.0, 0.0
    before = gae(reward, discount, value, next_value, lambda_)
    next_value[4] = 1e6
    reward[5:], value[5:] = 1e6, -1e6
    after = gae(reward, discount, value, next_value, lambda_)
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x[:5], y[:5])
    torch.testing.assert_close(before[0][4], reward[4])  # the target of the last row is its reward


def test_shapes_are_checked_in_tests():
    rows = random_rows()
    with pytest.raises(Exception, match=r"(?s)Type-check.*reward"):
        gae(rows[0][:, 0], *rows[1:])


def n_step_by_definition(reward, discount, next_value, trace, n):
    """Σ_{t ≤ i < k} (Π d) r_i + (Π d) v_k: k is n rows on, behind the first cut, or behind the last row."""
    result = torch.zeros_like(reward)
    T, B = reward.shape
    for t in range(T):
        for b in range(B):
            cuts = [k for k in range(t, T) if trace[k, b] == 0]
            end = min([t + n - 1, T - 1, *cuts])
            for i in range(t, end + 1):
                result[t, b] += discount[t:i, b].prod() * reward[i, b]
            result[t, b] += discount[t : end + 1, b].prod() * next_value[end, b]
    return result


# Breaks if the loop makes n steps, `following` ends in `result[-1:]`, or `trace` multiplies `next_value`.
@pytest.mark.parametrize("n", [1, 2, 5, 11, 30])
def test_n_step_return_equals_its_definition(n):
    reward, discount, _, next_value, _ = random_rows()
    generator = torch.Generator().manual_seed(1)
    truncated = torch.rand(reward.shape, generator=generator) < 0.2
    trace = ((discount > 0) & ~truncated).double()
    found = n_step_return(reward, discount, next_value, trace, n)
    torch.testing.assert_close(found, n_step_by_definition(reward, discount, next_value, trace, n))


# Breaks if a truncation zeroes the bootstrap, or the trace is not cut there.
def test_n_step_return_by_hand():
    """Golden: rewards 1, 2, 4, 8, values 10, 20, 30, 40 after them, γ = ½, three steps; row 1 ends by truncation."""
    reward, value = torch.tensor([[1.0], [2], [4], [8]]), torch.tensor([[10.0], [20], [30], [40]])
    trace, discount = torch.tensor([[1.0], [0], [1], [1]]), torch.full((4, 1), 0.5)
    found = n_step_return(reward, discount, value, trace, 3)
    assert found.flatten().tolist() == [1 + (2 + 20 / 2) / 2, 2 + 20 / 2, 4 + (8 + 40 / 2) / 2, 8 + 40 / 2]
    discount[1] = 0  # by termination
    found = n_step_return(reward, discount, value, trace, 3)
    assert found.flatten().tolist()[:2] == [1 + 2 / 2, 2]


# Breaks (never ends) if the loop makes n − 1 steps.
def test_more_steps_than_rows_are_as_many_as_rows():
    rows = random_rows()[:3]
    assert torch.equal(n_step_return(*rows, n=10**12), n_step_return(*rows, n=len(rows[0])))


@pytest.mark.parametrize("n", [0, -1])
def test_a_return_of_no_steps_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}"):
        n_step_return(*random_rows()[:3], n=n)
