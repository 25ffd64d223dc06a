"""The C++ kernels: against plain loops, bit for bit where that is promised, and what serves without them."""

import logging
import platform
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch
from test_kernels import KERNELS, arguments, assert_near, gradients

from seqrl.memory import kernels
from seqrl.memory.kernels import native_gru, native_library, native_lstm

NATIVE = {"gru": native_gru.gru, "lstm": native_lstm.lstm}

needs_native = pytest.mark.skipif(native_library.library() is None, reason="no C++ compiler")


@pytest.fixture(params=NATIVE)
def name(request):
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Must break, each by itself: in gru.cpp the fill with 0 after a reset left out; in lstm.cpp `keep *` or a cell's
# `is_first[row] ?` left out; in sequence.h `is_first` not asked, or the last of the `others` not added; in
# products.h parts that start at p * (count / parts).
@needs_native
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("resets", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 16), (9, 3, 5, 16), (70, 33, 16, 48), (40, 7, 130, 64), (5, 100, 64, 80)])
def test_equal_to_the_reference(name, sizes, resets, num_threads, threads):
    threads(num_threads)
    inputs = arguments(KERNELS[name], *sizes, dtype=torch.float32, resets=resets)
    exact = [i.detach().double().requires_grad_() if i.is_floating_point() else i for i in inputs]
    actual, expected = NATIVE[name](*inputs), [e.float() for e in KERNELS[name][1](*exact)]
    assert_near(actual, expected, 2e-6)
    assert_near(gradients(actual, inputs), [g.float() for g in gradients(expected, exact)], 2e-6)


def test_served_by_default(name, monkeypatch):
    """With units in whole vectors, in float32 or autocast from it to bfloat16; PyTorch's operations take the rest."""
    if native_library.library() is None:
        pytest.skip("no C++ compiler")
    module = native_gru if name == "gru" else native_lstm
    served = []
    original = NATIVE[name]
    monkeypatch.setattr(module, name, lambda *inputs: served.append(inputs) or original(*inputs))
    kernels_function = getattr(kernels, name)
    for H, dtype, autocast, expected in [
        (32, torch.float32, False, 1),
        (33, torch.float32, False, 0),
        (32, torch.float64, False, 0),
        (32, torch.float32, True, 1),
    ]:
        served.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            kernels_function(*arguments(KERNELS[name], H=H, dtype=dtype))
        assert len(served) == expected, (H, dtype, autocast)


@needs_native
@pytest.mark.parametrize(("autocast", "sizes"), [(False, (12, 29, 24, 32)), (True, (12, 29, 72, 48))])
def test_a_row_does_not_depend_on_the_rows_beside_it_nor_on_threads(name, threads, autocast, sizes):
    """Bit for bit. Broken by any sum that is taken in another order for other numbers of rows."""
    inputs = [i.detach() for i in arguments(KERNELS[name], *sizes, dtype=torch.float32)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert_rows_alone(name, threads, inputs)


def assert_rows_alone(name, threads, inputs):
    threads(1)
    whole = NATIVE[name](*inputs)
    threads(2)
    assert_near(NATIVE[name](*inputs), whole, 0.0)
    num_states = KERNELS[name][3]
    for b in (0, 13, 28):
        sequences = [i[:, b : b + 1] for i in (inputs[0], inputs[1 + num_states])]
        states = [s[b : b + 1] for s in inputs[1 : 1 + num_states]]
        y, *last = NATIVE[name](sequences[0], *states, sequences[1], *inputs[-4:])
        assert_near([y[:, 0], *(s[0] for s in last)], [whole[0][:, b], *(s[b] for s in whole[1:])], 0.0)


@needs_native
@pytest.mark.parametrize(("autocast", "sizes"), [(False, (12, 5, 24, 32)), (True, (12, 5, 72, 48))])
def test_step_by_step_bit_for_bit(name, autocast, sizes):
    """So acting and training cannot drift apart at all."""
    inputs = [i.detach() for i in arguments(KERNELS[name], *sizes, dtype=torch.float32)]
    num_states = KERNELS[name][3]
    x, states, is_first = inputs[0], inputs[1 : 1 + num_states], inputs[1 + num_states]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, *last = NATIVE[name](*inputs)
        for t in range(len(x)):
            y_t, *states = NATIVE[name](x[t : t + 1], *states, is_first[t : t + 1], *inputs[-4:])
            assert_near([y_t[0]], [y[t]], 0.0)
    assert_near(states, last, 0.0)


# Must break: the last operand of an odd row left out (`K - 1`), or a pair's halves exchanged in the weights alone. With
# tiles: the rest behind them left out, or begun at 0; the distance of rows taken for K (in backward, where it is not).
@needs_native
@pytest.mark.parametrize("sizes", [(1, 7, 24, 32), (1, 2, 5, 16), (1, 1, 1, 48), (1, 35, 71, 80), (1, 16, 32, 64)])
def test_autocast_rounds_what_products_read_and_nothing_else(name, sizes):
    inputs = [i.detach() for i in arguments(KERNELS[name], *sizes, dtype=torch.float32)]
    num_states = KERNELS[name][3]
    inputs[1] = inputs[1].bfloat16().float()  # h, which is read by the products and carried on, too
    rounded = [*inputs]
    for place in (0, 2 + num_states, 3 + num_states):  # x, w_ih and w_hh
        rounded[place] = inputs[place].bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        actual = NATIVE[name](*inputs)
    assert_near(actual, KERNELS[name][1](*rounded), 2e-6)


# Must break in gradients.h, where pairs are multiplied: an odd row left out, `in_tiles` left out of the rest's columns,
# squares not transposed, `first` left out (of the GRU).
@needs_native
@pytest.mark.parametrize("sizes", [(30, 7, 24, 32), (20, 40, 5, 16), (9, 37, 70, 48)])
def test_gradients_under_autocast(name, sizes):
    inputs = arguments(KERNELS[name], *sizes, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = NATIVE[name](*inputs)
    expected = KERNELS[name][1](*inputs)
    assert_near(outputs, expected, 1e-2)
    found = gradients(outputs, inputs)
    assert all(g.dtype == torch.float32 for g in found)
    assert_near(found, gradients(expected, inputs), 1e-2)


@needs_native
def test_extremes(name):
    """Gates that saturate stay numbers; NaN stays NaN, until a reset forgets it."""
    inputs = [i.detach() for i in arguments(KERNELS[name], 6, 3, 8, 16, dtype=torch.float32, resets=0.0)]
    inputs[0][:, 0] = 1e30
    inputs[0][1, 1] = float("nan")
    inputs[0][:, 2] = -1e30
    inputs[-5][3, 1] = True
    y, *_ = NATIVE[name](*inputs)
    assert y[:, [0, 2]].isfinite().all()
    assert y[0, 1].isfinite().all()
    assert y[1:3, 1].isnan().all()
    assert y[3:, 1].isfinite().all()


@needs_native
def test_python_threads_at_once(name):
    inputs = [arguments(KERNELS[name], 30, 6, 16, 32, dtype=torch.float32, seed=seed) for seed in range(8)]

    def both(arguments):
        outputs = NATIVE[name](*arguments)
        return [*outputs, *gradients(outputs, arguments)]

    expected = [both(i) for i in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, wanted in zip(pool.map(both, inputs), expected, strict=True):
                assert_near(found[: KERNELS[name][3]], wanted[: KERNELS[name][3]], 0.0)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache that is empty, and a library that has not been looked for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native_library.library.cache_clear()
    yield monkeypatch
    native_library.library.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SEQRL_NATIVE_KERNELS", "0", ""),
        ("CXX", "no-such-compiler", "no C++ compiler found"),
        ("CXX", "false", "could not be built"),
        ("XDG_CACHE_HOME", "/dev/null", "could not be built"),
    ],
)
def test_without_them_pytorch_serves(name, fresh, caplog, variable, value, message):
    fresh.setenv(variable, value)
    inputs = arguments(KERNELS[name], H=32, dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_near(getattr(kernels, name)(*inputs), KERNELS[name][1](*inputs), 3e-6)
    assert [message in line for line in caplog.messages] == ([True] if message else [])


@needs_native
def test_built_once_and_kept(fresh, tmp_path):
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "nothing.cpp").write_text('extern "C" int nothing() { return 0; }\n')  # the kernels take ten seconds
    fresh.setattr(native_library, "SOURCES", sources)
    assert native_library.library() is not None
    (built,) = (tmp_path / "seqrl").iterdir()
    time = built.stat().st_mtime_ns
    native_library.library.cache_clear()
    assert native_library.library() is not None
    assert [p.stat().st_mtime_ns for p in (tmp_path / "seqrl").iterdir()] == [time]


@needs_native
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of that kind")
@pytest.mark.parametrize("processor", ["x86-64-v3", pytest.param("x86-64", marks=pytest.mark.slow)])
def test_processors_with_shorter_vectors(fresh, processor, tmp_path):
    """Vectors of eight and of four numbers, and no arithmetic in bfloat16."""
    units = [native_library.SOURCES / f"{name}.cpp" for name in NATIVE]  # compiled anew, of which all would take long
    (tmp_path / "sources").mkdir()
    for source in (*units, *native_library.SOURCES.glob("*.h")):
        (tmp_path / "sources" / source.name).symlink_to(source)
    fresh.setattr(native_library, "SOURCES", tmp_path / "sources")
    flags = [f"-march={processor}" if flag.startswith("-march") else flag for flag in native_library.FLAGS]
    fresh.setattr(native_library, "FLAGS", ["-O1" if flag == "-O3" else flag for flag in flags])
    for name, (autocast, tolerance) in product(NATIVE, ((False, 2e-6), (True, 1e-2))):
        inputs = arguments(KERNELS[name], 9, 13, 7, 24, dtype=torch.float32)
        expected = KERNELS[name][1](*inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = NATIVE[name](*inputs)
        assert_near(outputs, expected, tolerance)
        assert_near(gradients(outputs, inputs), gradients(expected, inputs), tolerance)
