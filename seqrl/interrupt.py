"""Ctrl-C while the command still imports what it needs, which takes seconds."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def ends_on_interrupt() -> Iterator[None]:
    """Inside, if this is the command and not somebody's notebook, Ctrl-C ends Python at once, with status 130: nothing
    has been begun that could be saved.

    An exception instead would show a traceback, and where PyTorch's own import meets it, it is a crash.
    """
    # Of `python -m seqrl` no more than "-m" is known while the package is imported.
    is_command = os.path.basename(next(iter(sys.argv), "")) in ("seqrl", "-m")
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (is_command and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
