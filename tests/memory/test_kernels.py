"""The kernels against plain loops, PyTorch's own modules and finite differences."""

import math
import threading

import pytest
import torch
from jaxtyping import config
from torch import nn

from seqrl.errors import UserError
from seqrl.memory import GRU, LSTM, kernels
from seqrl.memory.kernels import common, reference

KERNELS = {
    "gru": (kernels.gru, reference.gru, nn.GRU, 1),
    "lstm": (kernels.lstm, reference.lstm, nn.LSTM, 2),
}
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


def arguments(kernel, T=9, B=3, D=5, H=4, dtype=torch.float64, resets=0.3, seed=0):
    """x, the states, is_first, and the four weights of a PyTorch module, all but is_first needing a gradient."""
    *_, module, num_states = kernel
    torch.manual_seed(seed)
    weights = [p.detach().requires_grad_() for p in module(D, H, dtype=dtype).parameters()]
    x = torch.randn(T, B, D, dtype=dtype, requires_grad=True)
    states = [torch.randn(B, H, dtype=dtype, requires_grad=True) for _ in range(num_states)]
    return [x, *states, torch.rand(T, B) < resets, *weights]


def gradients(outputs, inputs, seed=1):
    torch.manual_seed(seed)
    loss = sum((torch.randn_like(output) * output).sum() for output in outputs)
    return torch.autograd.grad(loss, [i for i in inputs if i.requires_grad], retain_graph=True)


def assert_near(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * (1 + e.abs().max().item()))


# Must break: `lerp(n, h, z)` with n and h exchanged; the factor k_t left out where backward hands dh on to t − 1.
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(9, 3, 5, 4), (1, 3, 5, 4), (2, 1, 1, 1), (70, 33, 16, 8)])
def test_equal_to_the_reference(kernel, sizes, resets, dtype):
    function, expected_function, *_ = kernel
    inputs = arguments(kernel, *sizes, dtype=dtype, resets=resets)
    actual, expected = function(*inputs), expected_function(*inputs)
    assert_near(actual, expected, TOLERANCE[dtype])
    assert_near(gradients(actual, inputs), gradients(expected, inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equal_to_pytorch_without_resets(kernel, dtype):
    function, _, module, num_states = kernel
    inputs = arguments(kernel, dtype=dtype, resets=0.0)
    theirs = module(5, 4, dtype=dtype)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), inputs[-4:], strict=True)))
    states = [s[None] for s in inputs[1 : 1 + num_states]]
    y, last = theirs(inputs[0], tuple(states) if num_states == 2 else states[0])
    expected = [y, *(s[0] for s in (last if num_states == 2 else [last]))]
    actual = function(*inputs)
    assert_near(actual, expected, TOLERANCE[dtype])
    expected_inputs = [*inputs[: 1 + num_states], *theirs.parameters()]
    assert_near(gradients(actual, inputs), gradients(expected, expected_inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("resets", [0.0, 0.4])
def test_gradients_are_those_of_finite_differences(kernel, resets):
    assert torch.autograd.gradcheck(kernel[0], arguments(kernel, 5, 2, 3, 2, resets=resets))


def test_gradients_where_only_some_are_asked_for(kernel):
    function, expected_function, *_ = kernel
    inputs = [i.detach() for i in arguments(kernel)]
    for wanted in (0, 1, -1):
        inputs[wanted].requires_grad_()
        for output in (0, 1):  # y alone, or the last state alone
            actual = gradients([function(*inputs)[output]], inputs)
            assert_near(actual, gradients([expected_function(*inputs)[output]], inputs), 1e-12)
        inputs[wanted].requires_grad_(False)


@pytest.mark.parametrize("block_rows", [1, 6, 7, 1000])
def test_blocks_of_any_size_give_the_same(kernel, block_rows, monkeypatch):
    monkeypatch.setattr(common, "BLOCK_ROWS_PER_THREAD", block_rows)
    inputs = arguments(kernel, T=7)
    actual, expected = kernel[0](*inputs), kernel[1](*inputs)
    assert_near(actual, expected, 1e-12)
    assert_near(gradients(actual, inputs), gradients(expected, inputs), 1e-12)


def test_without_gradient_the_same_function(kernel):
    """Bit for bit over a sequence. A single step goes through PyTorch's own cell, and is equal to rounding."""
    inputs = arguments(kernel, dtype=torch.float32)
    with_gradient = kernel[0](*inputs)
    with torch.no_grad():
        without = kernel[0](*inputs)
    assert_near(without, with_gradient, 0.0)
    assert not any(output.requires_grad for output in without)
    one_step = [inputs[0][:1], *inputs[1:-5], inputs[-5][:1], *inputs[-4:]]
    with torch.no_grad():
        assert_near(kernel[0](*one_step), [o.detach() for o in kernel[1](*one_step)], 2e-6)


# Must break: a workspace that goes back to the pool at the end of forward.
def test_graphs_kept_side_by_side(kernel):
    function, expected_function, *_ = kernel
    first, second = arguments(kernel, seed=0), arguments(kernel, seed=1)
    of_first, of_second = function(*first), function(*second)
    for _ in range(2):  # twice, since a graph may be kept
        assert_near(gradients(of_first, first), gradients(expected_function(*first), first), 1e-12)
        assert_near(gradients(of_second, second), gradients(expected_function(*second), second), 1e-12)


def test_outputs_outlive_their_graph_and_their_workspace(kernel):
    inputs = arguments(kernel)
    kept = [output.detach() for output in kernel[0](*inputs)]
    expected = [output.clone() for output in kept]
    for seed in range(3):
        kernel[0](*arguments(kernel, seed=seed))
    assert_near(kept, expected, 0.0)
    with torch.no_grad():
        y, last, *_ = kernel[0](*inputs)
        last.zero_()
    assert y[-1].abs().min() > 0  # the state is no view of the outputs


def test_non_contiguous_inputs(kernel):
    function, expected_function, *_ = kernel
    inputs = arguments(kernel)
    strided = [i.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_(i.requires_grad) for i in inputs]
    assert not strided[0].is_contiguous()
    actual = function(*strided)
    assert_near(actual, expected_function(*inputs), 1e-12)
    expanded = torch.autograd.grad(actual[0].sum(), strided[0])  # its gradient is one number, expanded
    assert_near(expanded, torch.autograd.grad(expected_function(*inputs)[0].sum(), inputs[0]), 1e-12)


def test_bfloat16(kernel):
    inputs = arguments(kernel, dtype=torch.float32)
    in_half = [i.detach().bfloat16().requires_grad_() if i.is_floating_point() else i for i in inputs]
    actual, expected = kernel[0](*in_half), kernel[1](*inputs)
    assert actual[0].dtype == torch.bfloat16
    assert_near([a.float() for a in actual], expected, 3e-2)
    assert_near([g.float() for g in gradients([a.float() for a in actual], in_half)], gradients(expected, inputs), 6e-2)


def test_autocast_takes_products_in_its_type_and_keeps_the_state_in_its_own(kernel):
    inputs = arguments(kernel, dtype=torch.float32)
    expected = kernel[1](*inputs)
    for T in (9, 1):
        some = [inputs[0][:T], *inputs[1:-5], inputs[-5][:T], *inputs[-4:]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, *states = kernel[0](*some)
            with torch.no_grad():
                acting, *_ = kernel[0](*some)
        assert all(tensor.dtype == torch.float32 for tensor in (y, acting, *states))
        assert not torch.equal(y, expected[0][:T])
        assert_near([y, acting], [expected[0][:T]] * 2, 3e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = kernel[0](*inputs)
    found = gradients(outputs, inputs)
    assert all(g.dtype == torch.float32 for g in found)
    assert_near(found, gradients(expected, inputs), 6e-2)


@pytest.mark.parametrize("memory", [GRU, LSTM])
def test_a_slow_unit_keeps_its_pace_under_autocast(memory):
    """Broken by computing gates in bfloat16, where a gate of 1 − 1/1000 is 1: the unit would never move."""
    slow = memory(1, 1)
    for parameter in slow.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        slow.bias_ih[1] = math.log(999)  # the gate that keeps: z of the GRU, f of the LSTM
        slow.bias_ih[2] = 1.0  # the candidate
        x, is_first = torch.zeros(1000, 1, 1), torch.zeros(1000, 1, dtype=torch.bool)
        expected, _ = slow.unroll(x, slow.initial_state(1), is_first)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, _ = slow.unroll(x, slow.initial_state(1), is_first)
    assert expected[-1].item() > 0.4
    assert_near([y], [expected], 2e-2)


def test_the_second_derivative_is_refused(kernel):
    inputs = arguments(kernel)
    (gradient,) = torch.autograd.grad(kernel[0](*inputs)[0].square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(("memory", "module"), [(GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_weights_move_to_and_from_pytorch(memory, module):
    ours, theirs = memory(5, 4), module(5, 4)
    theirs.load_state_dict({f"{name}_l0": value for name, value in ours.state_dict().items()})
    x = torch.randn(6, 3, 5)
    y, _ = ours.unroll(x, ours.initial_state(3), torch.zeros(6, 3, dtype=torch.bool))
    torch.testing.assert_close(y, theirs(x)[0], rtol=1e-5, atol=1e-6)


# Breaks if `__del__` waits for the lock: garbage is collected anywhere, also in the thread that holds it.
def test_a_workspace_that_is_freed_while_the_pool_is_read_does_not_wait():
    workspace = [common.Workspace(torch.zeros(1), 3)]
    thread = threading.Thread(target=workspace.clear, daemon=True)
    with common.Workspace._lock:
        thread.start()
        thread.join(timeout=10)
    assert not thread.is_alive()


# Must break: `hasattr` left out. torch.compile then writes a dozen ignored exceptions to standard error.
def test_a_workspace_that_was_never_initialised_is_freed_in_silence():
    common.Workspace.__new__(common.Workspace).__del__()


@pytest.fixture
def as_outside_of_tests():
    """Shape annotations are enforced in tests alone."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


# Must break: `check_inputs` left out. The C++ kernels then read, and write, beyond the end of a short state.
@pytest.mark.parametrize("H", [4, 32])
@pytest.mark.parametrize(
    ("place", "spoil", "message"),
    [
        (0, lambda x: torch.cat([x, x], 2), "w_ih"),
        (1, lambda h: h[:1], "a state"),
        (-6, lambda last_state: last_state[:, :2], "a state"),
        (-5, lambda is_first: is_first[:, :1], "is_first"),
        (-5, lambda is_first: is_first.long(), "bool"),
        (-4, lambda w_ih: w_ih[:4], "w_ih"),
        (-1, lambda b_hh: b_hh[1:], "b_hh"),
    ],
)
def test_what_does_not_fit_is_refused(kernel, as_outside_of_tests, H, place, spoil, message):
    inputs = arguments(kernel, H=H, dtype=torch.float32)
    inputs[place] = spoil(inputs[place])
    with pytest.raises(UserError, match=message):
        kernel[0](*inputs)


# Must break: `max(batch_size, 1)` or `len(h0) == 0` left out.
@pytest.mark.parametrize("H", [4, 32])
def test_a_batch_without_rows(kernel, H):
    inputs = arguments(kernel, B=0, H=H, dtype=torch.float32)
    with torch.no_grad():
        assert kernel[0](*inputs)[0].shape == (9, 0, H)
    assert not any(gradient.any() for gradient in gradients(kernel[0](*inputs), inputs))


# Must break: `len(h0) == 0` asked before `is_compiling`, which fixes the rows of a graph to those it was traced with.
@pytest.mark.parametrize("memory", [GRU, LSTM])
def test_an_exported_step_takes_any_number_of_rows(as_outside_of_tests, memory):
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = memory(2, 32)

        def forward(self, x, state, is_first):
            return self.memory.unroll(x, state, is_first)[0]

    step, rows = Step(), torch.export.Dim("rows", max=64)
    inputs = {B: (torch.randn(1, B, 2), step.memory.initial_state(B), torch.zeros(1, B).bool()) for B in (3, 5)}
    by_row = {0: rows} if memory is GRU else ({0: rows}, {0: rows})
    with torch.no_grad():
        exported = torch.export.export(step, inputs[3], dynamic_shapes=({1: rows}, by_row, {1: rows}))
        torch.testing.assert_close(exported.module()(*inputs[5]), step(*inputs[5]))


# Must break: `*others` not asked for their type: numbers of 8 bytes would be read as twice as many of 4.
@pytest.mark.parametrize("place", [1, -6, -4, -1])
def test_numbers_of_two_types(kernel, place):
    inputs = arguments(kernel, H=32, dtype=torch.float32)
    expected = kernel[1](*inputs)
    inputs[place] = inputs[place].detach().double()
    assert_near([y.float() for y in kernel[0](*inputs)], expected, 2e-6)
