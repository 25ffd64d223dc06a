import pytest
import torch
from test_transformer import staggered

from seqrl.memory import GRU, Memory, Reencoded, Transformer
from seqrl.testing import check_memory


def transformer() -> Transformer:
    return Transformer(6, 8, num_layers=2, num_heads=2, window=4, tokens_per_row=3, rotary=False)


@pytest.mark.parametrize("length", [1, 3, 4, 30])
@pytest.mark.parametrize("memory", [transformer, lambda: GRU(6, 8)])
def test_laws(memory, length: int) -> None:
    check_memory(Reencoded(memory(), length), num_steps=8)


# Break: `age.clamp(max=length - 2)` (a row too few), or `is_first = before` (what stands before an episode is read).
@pytest.mark.parametrize("chunk", [1, 5, 17])
@pytest.mark.parametrize("length", [1, 3, 4, 30])
def test_equals_its_definition_at_staggered_resets(length: int, chunk: int) -> None:
    torch.manual_seed(0)
    inner = transformer().double()
    memory: Memory = Reencoded(inner, length)
    x, is_first = torch.randn(17, 5, 6, dtype=torch.float64), staggered(17, 5)
    state, outputs = memory.initial_state(5), []
    for x_chunk, is_first_chunk in zip(x.split(chunk), is_first.split(chunk), strict=True):
        y, state = memory.unroll(x_chunk, state, is_first_chunk)
        outputs.append(y)
    y = torch.cat(outputs)
    for t in range(17):
        for b in range(5):
            begin = max([s for s in range(t + 1) if is_first[s, b]], default=0)
            rows = x[max(begin, t - length + 1) : t + 1, b : b + 1]
            first = torch.arange(len(rows))[:, None] == 0
            expected = inner.unroll(rows, inner.initial_state(1), first)[0][-1, 0]
            torch.testing.assert_close(y[t, b], expected, atol=1e-12, rtol=0)


def test_is_not_the_sliding_cache() -> None:
    torch.manual_seed(0)
    inner = transformer()
    x, is_first = torch.randn(9, 1, 6), torch.zeros(9, 1, dtype=torch.bool)
    cached, _ = inner.unroll(x, inner.initial_state(1), is_first)
    memory = Reencoded(inner, 4)
    exact, _ = memory.unroll(x, memory.initial_state(1), is_first)
    torch.testing.assert_close(cached[:4], exact[:4])
    assert (cached[4:] - exact[4:]).abs().amax(-1).min() > 1e-4
