"""One writer a run directory, and one run at a time in a process."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""


class RunBusyError(OSError):
    """A run that another process writes."""


_ALONE = threading.Lock()


@contextmanager
def alone() -> Iterator[None]:
    """Be the only run that computes in this process; RunBusyError if another thread has one going on.

    Torch's threads and generator, Flower's logger and the modules that clients train are the process's: two runs
    would bend each other.
    """
    if not _ALONE.acquire(blocking=False):
        raise RunBusyError(
            "another run is going on in this process, and two would bend each other: run them one after the other, or "
            "each in a process of its own"
        )
    try:
        yield
    finally:
        _ALONE.release()


@contextmanager
def writing(directory: Path, seconds: float = 30.0) -> Iterator[None]:
    """Be the only process that writes a run; RunBusyError if another one still does after `seconds`.

    The lock is on the directory itself and goes with the process, however it ends. A killed command leaves a
    ServerApp that takes a few seconds to be stopped; what goes on with its run waits for that here.
    OSError that names another way where the file system has no locks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    deadline = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunBusyError(
                        f"another process is still writing {directory}: the run goes on, as its rounds.jsonl shows; "
                        "resume it when that has ended"
                    ) from None
                time.sleep(0.1)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                raise OSError(
                    f"the file system of {directory} has no locks (flock: {error.strerror}), so nothing would keep two "
                    "commands from writing one run: choose a runs-dir on another one"
                ) from None
        yield
    finally:
        os.close(handle)
