import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import sliding_window
from seqrl.memory.transformer import Transformer
from seqrl.testing import check_memory


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as short as the window, so that a dozen rows already make several."""
    monkeypatch.setattr(sliding_window, "MIN_BLOCK", 1)


def dense(memory: Transformer, x: Tensor, is_first: Tensor) -> Tensor:
    """What the docstring defines, for one batch row: all pairs of rows, no cache, no blocks, positions absolute."""
    T, H = len(x), memory.num_heads
    visible = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        for s in range(T):
            visible[t, s] = 0 <= t - s < memory.window and not is_first[s + 1 : t + 1].any()
    u = memory.input(x)
    for layer in memory.layers:
        q, k, v = layer.query_key_value(layer.attention_norm(u)).view(T, 3, H, -1).unbind(1)
        half = q.shape[-1] // 2
        angle = torch.outer(torch.arange(T), 10_000 ** (-torch.arange(half, dtype=x.dtype) / half))
        turn = torch.polar(torch.ones_like(angle), angle)[:, None]
        q, k = (turn * torch.complex(z[..., :half], z[..., half:]) for z in (q, k))
        score = torch.einsum("thd,shd->hts", q, k.conj()).real / math.sqrt(2 * half)
        weight = score.masked_fill(~visible, -math.inf).softmax(-1)
        u = u + layer.attention_output(torch.einsum("hts,shd->thd", weight, v).flatten(1))
        u = u + layer.mlp(layer.mlp_norm(u))
    return memory.norm(u)


def staggered(T: int, B: int) -> Tensor:
    """Resets that fall on each row at other times, the last row's never."""
    is_first = torch.rand(T, B) < 0.1
    is_first[:, -1] = False
    is_first[torch.arange(B - 1) + 2, torch.arange(B - 1)] = True
    return is_first


@pytest.mark.parametrize("window", [1, 2, 5, 64])
def test_laws(window: int) -> None:
    check_memory(Transformer(3, 8, num_layers=2, num_heads=2, window=window), num_steps=8)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.usefixtures("short_blocks")
def test_laws_over_several_blocks(window: int) -> None:
    check_memory(Transformer(3, 8, num_layers=2, num_heads=2, window=window), num_steps=5)


# Break each: `age < window` to `age <= window`, or `age <= position` to `age <= position + 1`, in visible_keys.
@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("window", [1, 4, 100])
@pytest.mark.usefixtures("short_blocks")
def test_equals_the_definition(window: int, chunk: int) -> None:
    torch.manual_seed(0)
    memory = Transformer(3, 16, num_layers=3, num_heads=2, window=window).double()
    x, is_first = torch.randn(40, 4, 3, dtype=torch.float64), staggered(40, 4)
    state, outputs = memory.initial_state(4), []
    for x_chunk, is_first_chunk in zip(x.split(chunk), is_first.split(chunk), strict=True):
        y, state = memory.unroll(x_chunk, state, is_first_chunk)
        outputs.append(y)
    expected = torch.stack([dense(memory, x[:, b], is_first[:, b]) for b in range(4)], 1)
    torch.testing.assert_close(torch.cat(outputs), expected, atol=1e-12, rtol=0)


def test_acting_equals_training_over_full_blocks() -> None:
    torch.manual_seed(0)
    memory = Transformer(3, 16, window=9)
    T = 3 * sliding_window.MIN_BLOCK + 5
    x, is_first = torch.randn(T, 4, 3), staggered(T, 4)
    state, outputs = memory.initial_state(4), []
    with torch.no_grad():
        whole, _ = memory.unroll(x, state, is_first)
        for t in range(T):
            y, state = memory.unroll(x[t : t + 1], state, is_first[t : t + 1])
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs), whole, atol=1e-5, rtol=0)


# Break: re-encode the last `window` rows instead of caching, which reaches back window − 1 only.
def test_depends_on_layers_times_window_rows() -> None:
    num_layers, window, T = 3, 4, 20
    memory = Transformer(2, 8, num_layers, num_heads=2, window=window)
    x = torch.randn(T, 1, 2, requires_grad=True)
    state = memory.initial_state(1)
    y = []
    for t in range(T):
        y_t, state = memory.unroll(x[t : t + 1], state, torch.zeros(1, 1, dtype=torch.bool))
        y.append(y_t)
    (grad,) = torch.autograd.grad(y[-1][..., 0].sum(), x)
    reached = grad.abs().sum((1, 2)) > 0
    assert reached.sum() == num_layers * (window - 1) + 1
    assert reached[T - 1 - num_layers * (window - 1) :].all()


# Break: use `position` for more than the mask, as in `u = self.input(x) + position.T[..., None]`.
def test_a_long_episode_costs_no_precision() -> None:
    memory = Transformer(3, 8, window=5)
    _, state = memory.unroll(torch.randn(10, 2, 3), memory.initial_state(2), torch.zeros(10, 2, dtype=torch.bool))
    x, is_first = torch.randn(6, 2, 3), torch.zeros(6, 2, dtype=torch.bool)
    y, _ = memory.unroll(x, state, is_first)
    y_after_long, _ = memory.unroll(x, state._replace(num_steps=state.num_steps + 10**12), is_first)
    assert torch.equal(y, y_after_long)


# Break: `size = len(x)` in unroll_in_blocks.
def test_attention_grows_linearly_with_the_unroll(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, scores = F.scaled_dot_product_attention, []

    def counting(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        scores.append(q.shape[2] * k.shape[2])
        return attention(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    memory = Transformer(2, 8, num_layers=1, window=64)

    def num_scores(T: int, num_steps: int = 0) -> int:
        scores.clear()
        state = memory.initial_state(1)
        state.num_steps.fill_(num_steps)
        memory.unroll(torch.randn(T, 1, 2), state, torch.zeros(T, 1, dtype=torch.bool))
        return sum(scores)

    assert [num_scores(T) for T in (1, 40, 64)] == [1, 40 * 40, 64 * 64]  # a fresh start looks at no cache
    assert num_scores(1024) == 64 * 64 + 15 * 64 * 127
    assert num_scores(1, num_steps=1) == 64


def by_token(memory: Transformer, x: Tensor, is_first: Tensor) -> Tensor:
    """Several tokens a row as the docstring says, for one batch row: one sequence of tokens, all of them computed."""
    n = memory.tokens_per_row
    T = len(x) * n
    visible = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        for s in range(t + 1):
            row_t, row_s = t // n, s // n
            visible[t, s] = row_t - row_s < memory.window and not is_first[row_s + 1 : row_t + 1].any()
    u = memory.input(x.reshape(T, -1))
    for layer in memory.layers:
        q, k, v = layer.query_key_value(layer.attention_norm(u)).view(T, 3, memory.num_heads, -1).unbind(1)
        score = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
        weight = score.masked_fill(~visible, -math.inf).softmax(-1)
        u = u + layer.attention_output(torch.einsum("hts,shd->thd", weight, v).flatten(1))
        u = u + layer.mlp(layer.mlp_norm(u))
    return memory.norm(u)[n - 1 :: n]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("window", [1, 3, 64])
def test_laws_with_several_tokens_a_row(window: int, rotary: bool) -> None:
    memory = Transformer(6, 8, num_layers=2, num_heads=2, window=window, tokens_per_row=3, rotary=rotary)
    check_memory(memory, num_steps=5)


# Break: leave out `.tril(...)` in _visible_tokens, or read u[:, 0::every] in _Layer.
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("window", [1, 4, 12, 13, 100])
def test_several_tokens_a_row_equal_the_definition(window: int, resets: bool) -> None:
    torch.manual_seed(0)
    memory = Transformer(6, 16, num_layers=3, num_heads=2, window=window, tokens_per_row=3, rotary=False).double()
    x, is_first = torch.randn(12, 4, 6, dtype=torch.float64), staggered(12, 4)
    if not resets:  # as windows of logged episodes are
        is_first[:] = torch.arange(12)[:, None] == 0
    y, _ = memory.unroll(x, memory.initial_state(4), is_first)
    expected = torch.stack([by_token(memory, x[:, b], is_first[:, b]) for b in range(4)], 1)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


def test_state_is_not_for_replay() -> None:
    memory = Transformer(2, 8, num_layers=3, num_heads=2, window=5)
    state = memory.initial_state(7)
    assert not memory.stores_state
    assert [leaf.shape for leaf in state.keys + state.values] == [(7, 2, 4, 4)] * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window is 0 in Transformer"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"hidden_size": 10}, "hidden_size 10 does not split into 4 heads .* such as 16"),
        ({"hidden_size": 12}, "heads of an even size"),
        ({"tokens_per_row": 3}, "input_size 2 does not split into 3 tokens"),
    ],
)
def test_bad_sizes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Transformer(**({"input_size": 2, "hidden_size": 8} | arguments))
