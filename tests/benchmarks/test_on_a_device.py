"""The benchmarks that measure a GPU too: what bounds their rows, whom they compare, and that they run there."""

import sys

import pytest
import torch

from benchmarks import memory_length, training

THREADS = torch.get_num_threads()
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(("device", "times"), [("cpu", 1), ("cuda", 10)])
def test_bfloat16_is_bounded_by_its_own_products_on_a_gpu(monkeypatch, device, times):
    # Golden: float32's products, ten times as slow here, would bound it by a share ten times as large.
    monkeypatch.setattr(training, "alone", lambda function, *args: function(*args))
    monkeypatch.setattr(training, "peak", lambda repeats, device, dtype: 1e12 if dtype == torch.float32 else 1e13)
    answer = {"num_envs": 8, "steps_per_second": 1000.0}
    monkeypatch.setattr(training, "our_throughput", lambda *args: answer)
    result = training.throughput([], [8], device, THREADS, 0.0)
    float32, bfloat16 = (row["share_of_bound"] for row in result["rows"])
    assert float32 == pytest.approx(1000 * result["operations_per_step"] / 1e12)
    assert bfloat16 == pytest.approx(float32 / times)
    assert ("peak_gflops_in_bfloat16" in result) == (device == "cuda")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda", "--peers", "sb3_contrib"], "measured on the CPU"),
        (["--peers", "sb3_contrib", "--num-envs", "8"], "add 64"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["training", "throughput", *arguments])
    with pytest.raises(SystemExit):
        training.main()
    assert message in capsys.readouterr().err


@needs_gpu
@pytest.mark.parametrize("precision", training.OURS)
def test_training_on_a_gpu_is_measured(precision):
    answer = training.our_throughput("cuda", 8, precision, THREADS, 0.0)
    assert answer["steps_per_second"] > 0
    assert answer["peak_memory"] > 0


@needs_gpu
@pytest.mark.parametrize("memory", memory_length.MEMORIES)
def test_memory_on_a_gpu_grows_with_the_length(memory):
    short, long = (memory_length.peak_growth("cuda", memory, T, THREADS) for T in (64, 512))
    assert 0 < short < long
