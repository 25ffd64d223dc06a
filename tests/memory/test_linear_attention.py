import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqrl.errors import UserError
from seqrl.memory import LinearAttention, linear_attention
from seqrl.memory.linear_attention import linear_attention as attend
from seqrl.testing import check_memory
from seqrl.trajectory import tree_flatten


def recurrence(q: Tensor, k: Tensor, v: Tensor, log_forget: Tensor, is_first: Tensor, table: Tensor) -> tuple:
    rows = []
    for t in range(q.shape[2]):
        table = torch.where(is_first[:, t, None, None, None], 0, table)
        table = log_forget[:, :, t, None, None].exp() * table + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], table))
    return torch.stack(rows, 2), table


def random_rows(T: int, resets: float, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """q, k, v, log_forget and the table before, and `is_first`."""
    torch.manual_seed(0)
    B, H, K, V = 3, 2, 4, 5
    q, k, v = (torch.randn(B, H, T, size, dtype=dtype) for size in (K, K, V))
    log_forget, table = -torch.rand(B, H, T, dtype=dtype), torch.randn(B, H, K, V, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, log_forget, table)], torch.rand(B, T) < resets


def test_laws_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_attention, "CHUNK", 3)
    check_memory(LinearAttention(2, 4, num_heads=2, key_size=3), num_steps=8)


# Break: `.tril()` to `.tril(-1)`; `before = table` in both cases;
# `kept.exp()` left out of `queries`; `keys` not masked.
@pytest.mark.parametrize("resets", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 100])
def test_chunks_equal_the_recurrence(T: int, resets: float) -> None:
    (q, k, v, log_forget, table), is_first = random_rows(T, resets)
    inputs = (q, k, v, log_forget, table)
    results = attend(q, k, v, log_forget, is_first, table), recurrence(q, k, v, log_forget, is_first, table)
    weights = torch.randn_like(results[0][0]), torch.randn_like(table)
    gradients = [torch.autograd.grad(result, inputs, weights) for result in results]
    for actual, expected in zip((*results[0], *gradients[0]), (*results[1], *gradients[1]), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-10)


def test_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_attention, "CHUNK", 2)
    inputs, is_first = random_rows(4, 0.3)
    assert is_first[:, 1:].any()
    assert torch.autograd.gradcheck(lambda q, k, v, f, table: attend(q, k, v, f, is_first, table), inputs)


# Break: CHUNK = 128: e^128 is infinite in float32.
def test_the_strongest_forgetting_stays_exact_in_float32() -> None:
    (q, k, v, log_forget, table), is_first = random_rows(300, 0.0)
    log_forget = torch.full_like(log_forget, -1.0)
    expected, _ = recurrence(q, k, v, log_forget, is_first, table)
    actual, _ = attend(*(x.detach().float() for x in (q, k, v, log_forget)), is_first, table.detach().float())
    torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=1e-4)


# Break: `share = 1 / count.clamp(min=1)`; or `k = q` in place of the row before's.
def test_a_state_s_rewards_are_averaged_under_a_unit_prior() -> None:
    """x_t is [state one-hot (3), reward, 1]. With queries that tell states apart and gates held open, the read is
    Σ r / (1 + n) and 1 / (1 + n) over the n visits to the state at hand, where r came a row after the visit."""
    memory = LinearAttention(5, 5, num_heads=1, key_size=4).double()
    layer, rows = memory.layers[0], torch.zeros(8, 1, 5, dtype=torch.float64)
    state = torch.tensor([0, 1, 0, 2, 0, 1, 1, 0])
    reward = torch.tensor([0.0, 3.0, 5.0, 1.0, 7.0, -2.0, 4.0, 6.0]).double()  # what the state of the row before gave
    rows[:, 0, :3], rows[:, 0, 3], rows[:, 0, 4] = F.one_hot(state, 3).double(), reward, 1.0
    layer.norm = torch.nn.Identity()
    with torch.no_grad():
        memory.input.weight.copy_(torch.eye(5))
        memory.input.bias.zero_()
        for parameter in (*layer.query.parameters(), *layer.value.parameters(), *layer.gates.parameters()):
            parameter.zero_()
        layer.query.weight[:3, :3] = 100 * torch.eye(3)
        layer.value.weight[0, 3], layer.value.bias[5:] = 1.0, 50.0  # v = r · silu(50)
        layer.gates.bias.copy_(torch.tensor([-60.0, 60.0]))
    reads = []
    layer.output.register_forward_hook(lambda _, inputs, __: reads.append(inputs[0].detach()))
    memory.unroll(rows, memory.initial_state(1), torch.zeros(8, 1, dtype=torch.bool))
    # The first row, written under the even key with reward 0, is a quarter of an observation of each of the four.
    found = {0: [], 1: [], 2: []}
    for t, s in enumerate(state.tolist()):
        if t:
            found[state[t - 1].item()].append(reward[t].item())
        count = len(found[s]) + 0.25
        assert reads[0][0, t, 0].item() / 50 == pytest.approx(sum(found[s]) / (1 + count))
        assert reads[0][0, t, -1].item() == pytest.approx(1 / (1 + count))


# Break: logspace(-1, -4) to linspace(0.1, 1e-4).
def test_gates_start_open_and_forget_over_ten_to_ten_thousand_steps() -> None:
    forget, write = LinearAttention(2, 7).layers[0].gates.bias.detach().sigmoid().chunk(2)
    torch.testing.assert_close(1 / forget, torch.tensor([10.0, 100, 1000, 10000]), rtol=1e-3, atol=0)
    assert (write > 0.85).all()


# Break: `log_forget.exp()` left out where T is 1; `masked_fill(first …, 1 / key_size)` left out, so that a first row is
# written under the state's query.
def test_long_sequences_with_resets_equal_steps() -> None:
    torch.manual_seed(0)
    memory = LinearAttention(3, 8, num_layers=2).double()
    x, is_first = torch.randn(150, 4, 3, dtype=torch.float64), torch.rand(150, 4) < 0.02
    y, state = memory.unroll(x, memory.initial_state(4), is_first)
    steps, carried = [], memory.initial_state(4)
    for t in range(150):
        y_t, carried = memory.unroll(x[t : t + 1], carried, is_first[t : t + 1])
        steps.append(y_t)
    torch.testing.assert_close(y, torch.cat(steps), atol=1e-10, rtol=0)
    for (path, actual), expected in zip(tree_flatten(state).items(), tree_flatten(carried).values(), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0, msg=path)


def test_weights_are_all_there_is_to_save() -> None:
    memory, other = LinearAttention(3, 8), LinearAttention(3, 8)
    other.load_state_dict(copy.deepcopy(memory.state_dict()))
    x, is_first = torch.randn(9, 2, 3), torch.zeros(9, 2, dtype=torch.bool)
    assert torch.equal(*(m.unroll(x, m.initial_state(2), is_first)[0] for m in (memory, other)))


def test_runs_under_autocast() -> None:
    memory = LinearAttention(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = memory.unroll(torch.randn(5, 3, 2), memory.initial_state(3), torch.zeros(5, 3, dtype=torch.bool))
        y.float().sum().backward()
    assert {leaf.dtype for leaf in tree_flatten(state).values()} == {torch.float32}
    assert all(math.isfinite(p.grad.abs().sum()) for p in memory.parameters())


def test_bad_sizes() -> None:
    with pytest.raises(UserError, match="num_heads is 0 in LinearAttention"):
        LinearAttention(2, 4, num_heads=0)
