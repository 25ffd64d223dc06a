"""How the C library hands memory back."""

import contextlib
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, up to a GiB a block, for what is allocated next; elsewhere, nothing.

    By default it gives blocks of megabytes back to the system, and the next tensor of that size costs a page fault
    every 4 KiB: 120,000 of them for one update of PPO on 1,024 environments, 4 to 15 % of its time (docs/log.md).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_THRESHOLD, 2**30)
            libc.mallopt(M_TRIM_THRESHOLD, 2**30)
