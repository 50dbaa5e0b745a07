"""Everything a program started, however far down, found again and ended."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO


class ProcessFamily:
    """The processes started here and all that they started, whatever sessions or groups those made.

    A member is known by the mark in its environment, by its parent or by its process group. Each sign alone misses
    some: Ray's agents write their title over their environment, an orphan has lost its parent, and a daemon leads a
    group of its own.
    """

    def __init__(self) -> None:
        self.mark = {"FL_MLMC_FAMILY": uuid.uuid4().hex}
        self._started: list[subprocess.Popen[bytes]] = []
        self._groups: set[int] = set()

    def start(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a member out of reach of the terminal's Ctrl-C; its standard input closes when we are gone."""
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**env, **self.mark},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self, grace_seconds: float) -> None:
        """Ask every member to go, and after the grace make it go; RuntimeError if one stays."""
        try:
            self._signal(signal.SIGTERM, grace_seconds)
        finally:  # a second Ctrl-C cuts the grace short, not the rest
            self._signal(signal.SIGKILL, grace_seconds)
        if left := self.members():
            raise RuntimeError(f"processes {sorted(left)} could not be ended")

    def members(self) -> set[int]:
        """The process ids of all live members."""
        table = _process_table()
        mark = os.fsencode("=".join(*self.mark.items()))
        found = {process.pid for process in self._started if process.poll() is None}
        found |= {pid for pid in table if _has_in_environment(pid, mark)}
        found.discard(os.getpid())
        newest = found
        while newest:
            self._groups |= {pid for pid in newest if table.get(pid, (0, 0))[1] == pid}
            kin = {pid for pid, (parent, group) in table.items() if parent in found or group in self._groups}
            newest = kin - found - {os.getpid()}
            found |= newest
        return found

    def _signal(self, number: signal.Signals, grace_seconds: float) -> None:
        deadline = time.monotonic() + grace_seconds
        told: set[int] = set()
        while (members := self.members()) and time.monotonic() < deadline:
            for pid in members - told:  # again and again: members may still be starting others
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= members
            time.sleep(0.05)


def _process_table() -> dict[int, tuple[int, int]]:
    """Parent and process group of every process that has not ended (a zombie has)."""
    rows: list[list[str]] = []
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                rows.append([entry.name, *(entry / "stat").read_text().rpartition(")")[2].split()[:3]])
    else:
        columns = ["ps", "-A", "-o", "pid=,stat=,ppid=,pgid="]
        listing = subprocess.run(columns, capture_output=True, check=True, text=True)
        rows = [line.split() for line in listing.stdout.splitlines()]
    return {int(pid): (int(parent), int(group)) for pid, state, parent, group in rows if state[0] != "Z"}


def _has_in_environment(pid: int, entry: bytes) -> bool:
    try:
        return entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, someone else's, or a system without /proc
        return False
