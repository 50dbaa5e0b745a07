"""One writer a run directory."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RunBusyError(OSError):
    """A run that another process writes."""


@contextmanager
def writing(directory: Path, seconds: float = 30.0) -> Iterator[None]:
    """Be the only process that writes a run; RunBusyError if another one still does after `seconds`.

    The lock is on the directory itself and goes with the process, however it ends. A killed command leaves a
    ServerApp that takes a few seconds to be stopped; what goes on with its run waits for that here.
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
        yield
    finally:
        os.close(handle)
