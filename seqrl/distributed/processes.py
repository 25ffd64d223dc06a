"""What all processes of a run have in common: none outlives the one that started it."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Kill this process when the one that started it has ended, however it ended.

    From a thread, so that one that waits for its environment, for a pipe or for the other learners ends too.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "nobody started this process"
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
