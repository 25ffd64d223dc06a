"""The C++ kernels: compiled for this machine when first asked for, and kept.

With `SEQRL_NATIVE_KERNELS=0`, or without a C++ compiler (GCC 10 or Clang 12, with OpenMP), PyTorch's operations serve.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

SOURCES = Path(__file__).parent / "native"
UNITS_PER_ACTING_ROW = 4
"""With more units for each row of a thread, a single step without a gradient is quicker by PyTorch's cell: each call
sorts the weights first."""
WHAT_IS_SLOWER = "GRU, LSTM and the linear recurrence run on PyTorch's operations, at half the speed"
FLAGS = ("-O3", "-march=native", "-std=c++20", "-fopenmp", "-fPIC", "-shared")
logger = logging.getLogger("seqrl")


def native_serves(acting: bool, h0: Float[Tensor, "B H"], *others: Tensor) -> bool:
    """Whether the C++ kernels can run, and are worth it: float32 on the CPU, or autocast from it to bfloat16, units in
    whole vectors, and a row at least. `others` are all else that is read as numbers.

    `acting` is a single step without a gradient: PyTorch has a cell for it, in float32.
    """
    # Asked first: while a graph is traced, `len` would fix its number of rows.
    if torch.compiler.is_compiling() or (torch.is_autocast_enabled("cpu") and not in_bfloat16()):
        return False
    if len(h0) == 0 or not all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (h0, *others)):
        return False
    B, H = h0.shape
    if acting and not in_bfloat16() and H * torch.get_num_threads() > UNITS_PER_ACTING_ROW * B:
        return False
    native = library()
    return native is not None and H % native.vector_length() == 0


def in_bfloat16() -> bool:
    """Whether products on the CPU are taken in bfloat16 now, by autocast."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def call(function: str, sizes: tuple[int, ...], *arrays: Tensor | None) -> None:
    """Call a kernel with numbers and contiguous arrays; None is null. Other Python threads run meanwhile."""
    assert all(a is None or (a.is_contiguous() and a.is_cpu) for a in arrays)
    pointers = (ctypes.c_void_p(None if a is None else a.data_ptr()) for a in arrays)
    getattr(library(), function)(*(ctypes.c_int64(n) for n in sizes), *pointers)


def num_threads(batch_size: int) -> int:
    """Threads for so many rows: each has one at least."""
    return min(torch.get_num_threads(), batch_size)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if os.environ.get("SEQRL_NATIVE_KERNELS") == "0":
        return None
    if compiler is None:
        logger.warning(f"seqrl: no C++ compiler found, so {WHAT_IS_SLOWER}")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        logger.warning(
            f"seqrl: the C++ kernels could not be built, so {WHAT_IS_SLOWER} (SEQRL_NATIVE_KERNELS=0 hides this): %s",
            reason.strip().splitlines()[0] if reason.strip() else type(error).__name__,
        )
        return None


def _built(compiler: str) -> Path:
    """The shared library in the user's cache, made first where there is none from these sources for this processor."""
    sources = sorted(SOURCES.iterdir())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    made_of = "\n".join([*(s.read_text() for s in sources), *FLAGS, version, _processor()])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqrl"
    path = cache / f"kernels-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    if sys.stderr.isatty():  # to whom waits in front of it, and to nobody's file
        print("seqrl: compiling the C++ kernels for this processor, once: up to a minute", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache) as folder:  # processes that build at once do not meet
        made = Path(folder) / path.name
        _compile([compiler, *FLAGS], [s for s in sources if s.suffix == ".cpp"], made)
        os.replace(made, path)
    return path


def _compile(compiler: list[str], units: list[Path], to: Path) -> None:
    """All units at once, each by a process of its own, as someone waits for it."""

    def run(*arguments: Path | str) -> None:
        subprocess.run([*compiler, *map(str, arguments)], capture_output=True, text=True, check=True)

    objects = [to.with_name(f"{unit.stem}.o") for unit in units]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda unit, its: run("-c", unit, "-o", its), units, objects))
    run(*objects, "-o", to)


def _processor() -> str:
    """What `-march=native` depends on, since a home may be shared by different machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.machine() + platform.processor()
