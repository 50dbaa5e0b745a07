"""Everything a program started, however far down, found again and ended."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_MARK = "FL_MLMC_FAMILY"


class ProcessFamily:
    """The processes started here and all that they started, whatever sessions or groups those made.

    A member is known by the mark in its environment, by its parent or by its process group. Each sign alone
    misses some: Ray's agents write their title over their environment, an orphan has lost its parent, and a
    daemon leads a group of its own.
    """

    def __init__(self, name: str | None = None) -> None:
        self.mark = {_MARK: name or uuid.uuid4().hex}
        self._started: list[subprocess.Popen[bytes]] = []
        self._groups: set[int] = set()
        self._guard: subprocess.Popen[bytes] | None = None

    def start(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], output: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a member, out of reach of the terminal's Ctrl-C."""
        if self._guard is None:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", __file__, self.mark[_MARK]],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**env, **self.mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self, grace_seconds: float = 6.0) -> None:
        """Ask every member to go, and after the grace make it go; RuntimeError if one stays."""
        try:
            self._signal(signal.SIGTERM, grace_seconds)
        finally:  # a second Ctrl-C cuts the grace short, not the rest
            self._signal(signal.SIGKILL, grace_seconds)
        if left := self.members():
            raise RuntimeError(f"processes {sorted(left)} could not be ended")
        if self._guard is not None:
            self._guard.communicate()

    def members(self) -> set[int]:
        """The process ids of all live members."""
        table = _process_table()
        mark = f"{_MARK}={self.mark[_MARK]}".encode()
        family = {process.pid for process in self._started if process.poll() is None}
        family |= {pid for pid in table if _has_in_environment(pid, mark)}
        while True:
            # Those we start get sessions of their own, so no group of a member has a stranger in it.
            self._groups |= {table[pid][1] for pid in family if pid in table} - {os.getpgrp()}
            kin = {pid for pid, (parent, group) in table.items() if parent in family or group in self._groups}
            if kin <= family:
                return family
            family |= kin

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


if __name__ == "__main__":
    # The guard of a family. Its input closes when the parent is gone; if it went by kill -9 or with its terminal,
    # the members are still there. They are found by their mark, so on Linux only.
    sys.stdin.read()
    ProcessFamily(sys.argv[1]).end()
