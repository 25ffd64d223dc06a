"""The reducers: values under a False mask reach neither the result nor its gradient."""

import numpy as np
import pytest
import torch

from seqrl.objectives import masked_mean, masked_standardize

MASK = torch.tensor([[True, False, True], [True, False, False]])


def garbage(bad):
    x = torch.tensor([[1.0, bad, 2.0], [6.0, bad, bad]], requires_grad=True)
    return x


# Breaks if the fill becomes a product, `(x * mask).sum()`.
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
def test_masked_mean(bad):
    x = garbage(bad)
    mean = masked_mean(x, MASK)
    assert mean.item() == 3.0
    mean.backward()
    torch.testing.assert_close(x.grad, MASK / 3)


# Breaks without `.clamp(min=1)`.
@pytest.mark.parametrize("reduce", [masked_mean, masked_standardize])
def test_when_no_row_counts(reduce):
    x = garbage(float("nan"))
    result = reduce(x, torch.zeros_like(MASK))
    assert torch.equal(result, torch.zeros_like(result))
    result.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


# Breaks if the standard deviation is taken over all rows: `centered.square().mean().sqrt()`.
@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_masked_standardize(bad):
    x = garbage(bad)
    result = masked_standardize(x, MASK)
    rows = np.array([1.0, 2.0, 6.0])
    expected = (rows - rows.mean()) / rows.std()
    np.testing.assert_allclose(result[MASK].detach(), expected, rtol=1e-6)
    assert not result[~MASK].any()
    result[0, 0].backward()
    assert x.grad[MASK].isfinite().all()
    assert not x.grad[~MASK].any()


# Breaks without the `1e-8` in the denominator; for all but 3.25, whose mean is exact, without `is_rounding`.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [0.0, 3.25, 0.1, -100.1, 1e6 + 0.1])
@pytest.mark.parametrize("rows", [7, 30, 1000])
def test_standardizing_without_spread_gives_zero(number, rows, dtype):
    x = torch.full((rows, 2), number, dtype=dtype)
    assert torch.equal(masked_standardize(x, torch.ones(rows, 2, dtype=torch.bool)), torch.zeros_like(x))


# Breaks if `8 *` becomes `1000 *`: what is left of such numbers is their spread.
def test_standardizing_a_spread_that_is_small_beside_the_mean():
    x = 1000.0 + 0.1 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    expected = (x.double() - x.double().mean()) / x.double().std(correction=0)
    found = masked_standardize(x, torch.ones(500, 2, dtype=torch.bool))
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)
