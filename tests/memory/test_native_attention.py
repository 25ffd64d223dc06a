"""The C++ attention of a single token: against PyTorch's, and bit for bit where that is promised."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F

from seqrl.memory.kernels import native_library
from seqrl.memory.kernels.native_attention import attend_next, gelu, gelu_in_place, native_attends

pytestmark = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Must break, each by itself: `place[b]` for `place[b] + 1` in attend_all; `scale` left out; `most` left out of the
# exponential; `odd[p]` left out of the sum; `s < count` for the padding left at 0.
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("vectors", range(1, 9))
def test_equal_to_pytorch(vectors: int, num_threads: int, threads: Callable[[int], None]) -> None:
    threads(num_threads)
    torch.manual_seed(vectors)
    B, heads, capacity = 7, 3, 40
    size = vectors * native_library.library().vector_length()
    kept, parts = 3 * torch.randn(2, B, heads, capacity, size), torch.randn(B, 3 * heads * size)
    kept[0, 4:] *= 30  # scores so large that e to their power is no float, and which are less exact
    place = torch.tensor([0, 1, 15, 16, 17, 31, 39])
    query, key, value = parts.view(B, 3, heads, size).unbind(1)
    expected_kept = kept.clone()
    expected_kept[0, torch.arange(B), :, place], expected_kept[1, torch.arange(B), :, place] = key, value
    visible = (torch.arange(capacity) <= place[:, None])[:, None, None]
    expected = F.scaled_dot_product_attention(query[:, :, None].double(), *expected_kept.double(), attn_mask=visible)
    # What stands behind is hidden, whatever it is.
    kept.masked_fill_(~visible[..., 0, :, None].expand(-1, heads, -1, size), torch.nan)
    out = attend_next(parts, place, kept)
    expected = expected.reshape(B, -1)
    torch.testing.assert_close(out[:4].double(), expected[:4], atol=2e-6, rtol=2e-6)
    torch.testing.assert_close(out[4:].double(), expected[4:], atol=2e-3, rtol=2e-3)
    assert (kept.nan_to_num(0) == expected_kept.where(visible[..., 0, :, None], 0)).all()
    alone = attend_next(parts[2:3], place[2:3], kept[:, 2:3].contiguous())
    assert (alone == out[2:3]).all()


# Must break: 0.0713 for 0.0714 in attention.cpp.
def test_gelu() -> None:
    x = torch.linspace(-12, 12, 64 * 96).view(64, 96)
    expected = F.gelu(x.double(), approximate="tanh")
    torch.testing.assert_close(gelu_in_place(x.clone()).double(), expected, atol=1e-6, rtol=1e-6)


# Must break: 0.2140 for 0.2141 in simd.h's slope.
def test_gelu_and_its_gradient() -> None:
    x, dy = torch.linspace(-12, 12, 64 * 96).view(64, 96).requires_grad_(), torch.randn(64, 96)
    exact = x.detach().double().requires_grad_()
    y, expected = gelu(x), F.gelu(exact, approximate="tanh")
    torch.testing.assert_close(y.double(), expected, atol=1e-6, rtol=1e-6)
    (dx,), (expected_dx,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, exact, dy.double())
    torch.testing.assert_close(dx.double(), expected_dx, atol=5e-6, rtol=5e-6)
    rest = exact[:1, :3]  # no whole vector, and of float64
    assert (gelu(rest) == F.gelu(rest, approximate="tanh")).all()


def test_where_it_serves() -> None:
    length = native_library.library().vector_length()
    weight = torch.zeros(1)
    assert native_attends(weight, 2 * length)
    assert not native_attends(weight, 2 * length + 1)
    assert not native_attends(weight, 9 * length)
    assert not native_attends(weight.double(), length)
    with torch.autocast("cpu", torch.bfloat16):
        assert not native_attends(weight, length)
