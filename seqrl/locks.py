"""One process at a time works on a file or a folder."""

from seqrl.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: there two processes are not told from one
    fcntl = None  # type: ignore[assignment]


def lock(descriptor: int, busy: str) -> None:
    """Keep other processes from locking what is open as `descriptor`, until it is closed.

    The kernel frees it, however the process ends. What is locked must be a file that stays, not one that is replaced by
    a rename. Raises UserError with the message `busy` where another process has it. On file systems without locks, and
    on Windows, nothing is kept from anybody.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(busy) from None
    except OSError:
        pass  # a file system without locks
