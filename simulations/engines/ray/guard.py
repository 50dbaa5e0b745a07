"""A private Ray ends with the process that started it, even where that is killed.

Ray's raylet goes when its driver does, but its agents look for it for a minute. They write their titles over their
environments and lose their parent, so nothing tells them from a stranger's by then: a guard process knows them before.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Process = tuple[int, int]
"""A process id, and when it started: ids are used again."""


@contextmanager
def ended_with_us(start: Callable[[], object]) -> Iterator[None]:
    """Call `start`; what it started ends with the block or this process. On Linux; elsewhere it is only called."""
    before = _descendants({os.getpid()})
    start()
    if not Path("/proc/self/stat").exists():
        yield
        return
    started = _descendants({os.getpid()}) - before
    guard = subprocess.Popen(
        [sys.executable, "-I", __file__, *(f"{pid}:{since}" for pid, since in sorted(started))],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()


def _descendants(ancestors: set[int]) -> set[Process]:
    """The live processes below `ancestors`."""
    table = _processes()
    family = set(ancestors)
    while kin := {pid for pid, (parent, _) in table.items() if parent in family} - family:
        family |= kin
    return {(pid, table[pid][1]) for pid in family - ancestors}


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and start of every process that has not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
            if state != "Z":
                found[int(entry.name)] = int(parent), int(rest[17])
    return found


def _end(known: set[Process]) -> None:
    """Kill those of `known` that still live, and what they started."""
    table = _processes()
    left = {pid for pid, since in known if pid in table and table[pid][1] == since}
    for pid in left | {pid for pid, _ in _descendants(left)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    # The input closes when the parent is gone, however it went.
    sys.stdin.read()
    _end({(int(pid), int(since)) for pid, _, since in (text.partition(":") for text in sys.argv[1:])})
