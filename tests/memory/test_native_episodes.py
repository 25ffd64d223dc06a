"""The C++ attention of episodes that stand end to end: against PyTorch's of each episode alone."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqrl.memory import Transformer
from seqrl.memory.kernels import native_library
from seqrl.memory.kernels.native_episodes import Episodes, attend_episodes
from seqrl.memory.transformer import _rotate, _rotation

pytestmark = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")


def episodes(lengths: list[int], share: float) -> Episodes:
    """Of these lengths, about a `share` of whose rows ask."""
    starts = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    asking = (torch.rand(sum(lengths)) < share).nonzero()[:, 0]
    return Episodes(starts, asking, torch.searchsorted(asking, starts), max(lengths))


def one_by_one(query: Tensor, key_value: Tensor, these: Episodes, rotation: Tensor | None, num_heads: int) -> Tensor:
    """What is promised, episode by episode."""
    found, H = [], query.shape[1]
    spans = (itertools.pairwise(bounds) for bounds in (these.starts, these.asking_starts))
    for (start, stop), (first, last) in zip(*spans, strict=True):
        place = these.asking[first:last] - start
        keys, values = key_value[start:stop].view(-1, 2, num_heads, H // num_heads).permute(1, 2, 0, 3)
        queries = query[first:last].view(-1, num_heads, H // num_heads).transpose(0, 1)
        if rotation is not None:
            keys, queries = _rotate(keys, rotation[:, : len(keys[0])]), _rotate(queries, rotation[:, place])
        scores = queries @ keys.mT / math.sqrt(H // num_heads)
        hidden = torch.arange(int(stop - start)) > place[:, None]
        found.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1).flatten(1))
    return torch.cat(found)


# Must break, each by itself: `place(start + r)` without `+ 1` in `weigh`; `- top` or `std::fill` left out there;
# `float(j)` for `float(j + r)`, or `- load(delta …)` left out, in `slope`; `1.0f` for `scale` in the query's gradient;
# where it is rotary, `1.0f` for `-1.0f` in the key's.
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(("vectors", "share"), [(1, 0.4), (2, 1.1), (2, 0.4), (3, 0.4), (8, 0.4)])
def test_equal_to_each_episode_alone(vectors: int, share: float, rotary: bool) -> None:
    torch.manual_seed(vectors)
    num_heads, size = 3, vectors * native_library.library().vector_length()
    these = episodes([70, 3, 1, 40, 33, 32], share)
    N, M, H = int(these.starts[-1]), len(these.asking), num_heads * size
    query, key_value, dout = 3 * torch.randn(M, H), torch.randn(N, 2 * H), torch.randn(M, H)
    key_value[70:74] *= 40  # scores so large that e to their power is no float
    rotation = _rotation(70, size, query) if rotary else None
    leaves = [query.requires_grad_(), key_value.requires_grad_()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out = attend_episodes(*leaves, these, rotation, num_heads)
    expected = one_by_one(*exact, these, _rotation(70, size, exact[0]) if rotary else None, num_heads)
    torch.testing.assert_close(out.double(), expected, atol=2e-5, rtol=2e-5)
    gradients = torch.autograd.grad(out, leaves, dout), torch.autograd.grad(expected, exact, dout.double())
    for actual, each in zip(*gradients, strict=True):
        torch.testing.assert_close(actual.double(), each, atol=1e-3 * (1 + float(each.abs().max())), rtol=1e-3)


def test_threads_and_neighbours_change_no_bit() -> None:
    torch.manual_seed(0)
    size = native_library.library().vector_length()
    these, before = episodes([20, 9, 31, 2], 0.5), torch.get_num_threads()
    read = torch.randn(len(these.asking), 2 * size), torch.randn(62, 4 * size)
    out = attend_episodes(*read, these, None, 2)
    torch.set_num_threads(3)
    try:
        assert (attend_episodes(*read, these, None, 2) == out).all()
    finally:
        torch.set_num_threads(before)
    first, last = these.asking_starts[1:3]
    alone = Episodes(torch.tensor([0, 9]), these.asking[first:last] - 20, torch.stack([first, last]) - first, 9)
    assert (attend_episodes(read[0][first:last], read[1][20:29], alone, None, 2) == out[first:last]).all()


# Must break: `None` for `rotation` in the layer's `read_episodes`.
def test_the_transformer_reads_episodes_as_it_unrolls_them() -> None:
    torch.manual_seed(0)
    length = native_library.library().vector_length()
    memory, these = Transformer(5, 2 * length, num_heads=2, num_layers=3, window=40), episodes([40, 7, 1, 22], 0.3)
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, parameters = torch.randn(70, 5, requires_grad=True), list(memory.parameters())
    is_first = torch.zeros(70, 1, dtype=torch.bool)
    is_first[these.starts[:-1]] = True
    y = memory.read_episodes(x, these)
    expected = memory.unroll(x[:, None], memory.initial_state(1), is_first)[0][these.asking, 0]
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(y)
    gradients = (torch.autograd.grad((weight * each).sum(), [x, *parameters]) for each in (y, expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * (1 + float(b.abs().max())), rtol=1e-4)
    assert memory.reads_episodes(40)
    assert not memory.reads_episodes(41)
    assert not memory.double().reads_episodes(40)
