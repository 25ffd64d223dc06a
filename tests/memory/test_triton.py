"""The Triton kernels against plain loops: on a CUDA device, or else on the CPU through Triton's interpreter."""

import itertools
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from seqrl.memory import kernels
from seqrl.memory.kernels import reference, triton_dispatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = [torch.float16, torch.bfloat16]
if DEVICE == "cpu":
    HALVES.pop()  # the interpreter of Triton 3.7 multiplies the bits of bfloat16 as integers

MODULES = {"gru": (nn.GRU, 1), "lstm": (nn.LSTM, 2)}  # with the number of their states
TOLERANCE = 3e-6


@pytest.fixture
def common():
    pytest.importorskip("triton", reason="Triton, which PyTorch's CUDA builds bring along, is not installed")
    from seqrl.memory.kernels import triton_common

    return triton_common


@pytest.fixture(params=["resident", "streamed"])
def version(request, common, monkeypatch):
    # With the smallest pieces, so that few units fill several.
    blocks = {"RESIDENT": request.param == "resident", "BLOCK_K": 16}
    plan_for = common.plan_for
    monkeypatch.setattr(common, "plan_for", lambda *args: plan_for(*args) | blocks)


@pytest.fixture(params=MODULES)
def name(request):
    return request.param


@pytest.fixture
def function(name, common):
    from seqrl.memory.kernels import triton_gru, triton_lstm

    return {"gru": triton_gru.gru, "lstm": triton_lstm.lstm}[name]


def arguments(name, T=4, B=3, D=2, H=20, dtype=torch.float32, resets=0.3, seed=0):
    """x, the states, is_first, and the four weights of a PyTorch module, all but is_first needing a gradient."""
    torch.manual_seed(seed)
    module, num_states = MODULES[name]
    floats = [torch.randn(T, B, D), *(torch.randn(B, H) for _ in range(num_states)), *module(D, H).parameters()]
    floats = [f.detach().to(DEVICE, dtype).requires_grad_() for f in floats]
    return [*floats[:-4], torch.rand(T, B, device=DEVICE) < resets, *floats[-4:]]


def expected_of(name, inputs):
    """What the reference says in float64, and the inputs that its gradients are of."""
    inputs = [i.detach().double().requires_grad_() if i.is_floating_point() else i for i in inputs]
    return getattr(reference, name)(*inputs), inputs


def gradients(outputs, inputs, seed=1):
    torch.manual_seed(seed)
    loss = sum((torch.randn(output.shape).to(output) * output).sum() for output in outputs)
    return torch.autograd.grad(loss, [i for i in inputs if i.requires_grad], retain_graph=True)


def assert_near(actual, expected, tolerance=TOLERANCE):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        atol = tolerance * (1 + e.abs().max().item())
        torch.testing.assert_close(a.to(e.dtype), e, rtol=tolerance, atol=atol)


def check(function, name, inputs, tolerance=TOLERANCE):
    actual, (expected, expected_inputs) = function(*inputs), expected_of(name, inputs)
    assert_near(actual, expected, tolerance)
    assert_near(gradients(actual, inputs), gradients(expected, expected_inputs), 2 * tolerance)


# Must break: `keep_t` left out of h_in, or where dh is handed on to t − 1; w_r in the place of w_z.
@pytest.mark.parametrize("resets", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.usefixtures("version")
def test_equal_to_the_reference(function, name, resets):
    check(function, name, arguments(name, T=5, resets=resets))


# Must break: `//` for `cdiv`; `b < B` left out of a mask, so that rows beyond the last write over the next step's.
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3, 2, 20), (2, 1, 3, 5), (2, 16, 1, 16), (3, 33, 5, 17)])
@pytest.mark.usefixtures("version")
def test_any_sizes(function, name, sizes):
    check(function, name, arguments(name, *sizes))


@pytest.mark.parametrize("H", [64, 65, 128])
def test_as_many_units_as_are_used(function, name, H):
    check(function, name, arguments(name, T=3, B=2, H=H))


def test_gradients_where_only_some_are_asked_for(function, name):
    inputs = [i.detach() for i in arguments(name)]
    for wanted in (0, 1, -1):
        inputs[wanted].requires_grad_()
        for output in range(1 + MODULES[name][1]):  # one output alone
            expected, expected_inputs = expected_of(name, inputs)
            expected_inputs = [e.requires_grad_(i.requires_grad) for e, i in zip(expected_inputs, inputs, strict=True)]
            actual = gradients([function(*inputs)[output]], inputs)
            assert_near(actual, [gradients([expected[output]], [expected_inputs[wanted]])[0]])
        inputs[wanted].requires_grad_(False)


# Must break: h_T as a view of y; c_T not written where nothing is saved.
@pytest.mark.usefixtures("version")
def test_without_gradient_the_same_function(function, name):
    inputs = arguments(name)
    with_gradient = function(*inputs)
    with torch.no_grad():
        without = function(*inputs)
        assert_near(without, with_gradient, 0.0)
        without[1].zero_()
    assert not any(output.requires_grad for output in without)
    assert without[0][-1].abs().min() > 0  # the state is no view of the outputs


# Must break: states in the type of x.
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.usefixtures("version")
def test_two_halves_are_the_whole(function, name, autocast):
    x, *states, is_first, w_ih, w_hh, b_ih, b_hh = arguments(name, T=6)
    weights = (w_ih, w_hh, b_ih, b_hh)
    with torch.autocast(DEVICE, dtype=torch.float16, enabled=autocast):
        whole = function(x, *states, is_first, *weights)
        first, *states = function(x[:2], *states, is_first[:2], *weights)
        second, *states = function(x[2:], *states, is_first[2:], *weights)
    # Bit for bit, but on a GPU x W is multiplied first, in an order that depends on how many rows there are.
    assert_near([torch.cat([first, second]), *states], whole, 0.0 if DEVICE == "cpu" else TOLERANCE)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.usefixtures("version")
def test_half_precision(function, name, dtype):
    inputs = arguments(name, dtype=dtype)
    assert {output.dtype for output in function(*inputs)} == {dtype}
    check(function, name, inputs, 3e-2)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.usefixtures("version")
def test_autocast_computes_in_its_type_and_returns_float32(function, name, dtype):
    inputs = arguments(name)
    with torch.autocast(DEVICE, dtype=dtype):
        outputs = function(*inputs)
    assert {output.dtype for output in outputs} == {torch.float32}
    expected, expected_inputs = expected_of(name, inputs)
    assert_near(outputs, expected, 3e-2)
    assert (outputs[0] - function(*inputs)[0]).abs().max() > 1e-6  # it did compute in its type
    found = gradients(outputs, inputs)
    assert {gradient.dtype for gradient in found} == {torch.float32}
    assert_near(found, gradients(expected, expected_inputs), 6e-2)


# Must break: gates saved in the type of x, in which they are 1 here, and their gradients 0.
@pytest.mark.usefixtures("version")
def test_a_gate_near_one_has_its_gradient_in_half_precision(function, name):
    inputs, H = arguments(name, dtype=torch.float16), 20
    inputs[-2].data[H : 2 * H] = 9.0  # z of the GRU, f of the LSTM
    expected, expected_inputs = expected_of(name, inputs)
    found = torch.autograd.grad(function(*inputs)[0].float().sum(), inputs[-2])[0][H : 2 * H]
    expected = torch.autograd.grad(expected[0].sum(), expected_inputs[-2])[0][H : 2 * H]
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=5e-6)


# Must break: backward writing its gates' gradients over the gates.
@pytest.mark.usefixtures("version")
def test_graphs_kept_side_by_side(function, name):
    first, second = arguments(name, seed=0), arguments(name, seed=1)
    of_first, of_second = function(*first), function(*second)
    for _ in range(2):  # twice, since a graph may be kept
        assert_near(gradients(of_first, first), gradients(*expected_of(name, first)))
        assert_near(gradients(of_second, second), gradients(*expected_of(name, second)))


# Must break: `contiguous` left out at w_hh or dy.
@pytest.mark.usefixtures("version")
def test_non_contiguous_inputs(function, name):
    inputs = arguments(name)
    strided = [i.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_(i.requires_grad) for i in inputs]
    assert not strided[0].is_contiguous()
    check(function, name, strided)
    expected, expected_inputs = expected_of(name, inputs)
    expanded = torch.autograd.grad(function(*strided)[0].sum(), strided[0])  # its gradient is one number, expanded
    assert_near(expanded, torch.autograd.grad(expected[0].sum(), expected_inputs[0]))


def test_the_second_derivative_is_refused(function, name):
    inputs = arguments(name)
    (gradient,) = torch.autograd.grad(function(*inputs)[0].square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# Must break: y as a view of the states that are saved.
def test_an_output_may_be_changed_in_place(function, name):
    inputs = arguments(name)
    y, *_ = function(*inputs)
    expected = gradients([2 * y], inputs)
    assert_near(gradients([y.mul_(2)], inputs), expected, 0.0)


@pytest.mark.parametrize(
    ("units", "dtype", "device", "autocast", "serves"),
    [
        (256, torch.float32, "cuda", False, True),
        (256, torch.float32, "cpu", False, False),
        (257, torch.float32, "cuda", False, False),
        (257, torch.float32, "cuda", True, True),
        (513, torch.float32, "cuda", True, False),
        (512, torch.bfloat16, "cuda", False, True),
        (4, torch.float64, "cuda", False, False),
    ],
)
def test_when_the_kernels_serve(units, dtype, device, autocast, serves, monkeypatch):
    monkeypatch.setattr(triton_dispatch, "_triton_runs", lambda device: True)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: autocast)  # cannot be, where there is no CUDA
    with FakeTensorMode():
        assert triton_dispatch.triton_serves(torch.empty(3 * units, units, dtype=dtype, device=device)) == serves


# Must break: 8 left out of the rows for many; the 32 KiB for all else not taken off; `split` left out of `resident`.
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
@pytest.mark.parametrize(("processors", "kib"), [(132, 227), (108, 163), (128, 99)])  # H100, A100, RTX 4090
def test_every_plan_fits_the_memory_of_a_multiprocessor(common, monkeypatch, precision, processors, kib):
    monkeypatch.setattr(common, "_multiprocessors", lambda device: (processors, 1024 * kib))
    common.plan_for.cache_clear()
    for num_gates, H, B, dtype in itertools.product(
        (3, 4), (1, 20, 64, 128, 256, 512), (1, 512, 4096), (torch.float32, torch.bfloat16)
    ):
        for forward in (True, False) if triton_dispatch.MAX_UNITS[dtype] >= H else ():
            plan = common.plan_for(num_gates, H, B, dtype, precision, torch.device("cuda:0"), forward)
            weights = num_gates * plan["BLOCK_H"] ** 2 * dtype.itemsize
            if precision == "tf32x3" and dtype == torch.float32:
                weights *= 2  # a resident number's upper and lower bits
            pieces = plan["STAGES"] - (plan["BLOCK_B"] == 8)
            piece = plan["BLOCK_K"] * plan["BLOCK_H"] * dtype.itemsize * (num_gates if forward else 1)
            assert (weights if plan["RESIDENT"] else pieces * piece) <= 1024 * (kib - 32)
            assert plan["BLOCK_K"] <= plan["BLOCK_H"] >= H
            assert plan["BLOCK_B"] == 8 or processors * 8 < B
    common.plan_for.cache_clear()


# Must break: `precision` that always says "tf32x3".
def test_tf32_where_pytorch_is_told_so(function, name, common):
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        assert common.precision() == "tf32"
        inputs = arguments(name, T=5)
        outputs = function(*inputs)
        check(function, name, inputs, 1e-2)
    finally:
        matmul.fp32_precision = before
    assert common.precision() == "tf32x3"
    if DEVICE == "cuda":  # the interpreter multiplies in float32
        assert (outputs[0] - function(*inputs)[0]).abs().max() > 1e-6


def test_they_do_not_serve_where_triton_is_missing(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "triton.runtime", None)
    assert not triton_dispatch._triton_runs(torch.device("cuda:7"))


# Breaks if the condition on T or on gradients goes, or the kernels are not asked.
def test_sequences_go_to_triton_and_single_steps_do_not(name, monkeypatch):
    calls = []

    def stand_in(x, *rest):
        calls.append(len(x))
        return getattr(reference, name)(x, *rest)

    module = ModuleType(f"seqrl.memory.kernels.triton_{name}")
    setattr(module, name, stand_in)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(kernels, f"triton_{name}", module, raising=False)
    monkeypatch.setattr(sys.modules[f"seqrl.memory.kernels.{name}"], "triton_serves", lambda w_hh: True)
    for T in (4, 1):
        getattr(kernels, name)(*arguments(name, T=T))
        with torch.no_grad():
            getattr(kernels, name)(*arguments(name, T=T))
    assert calls == [4, 4, 1]
