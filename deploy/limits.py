"""What the gate grants: connections, bytes and seconds, to strangers, to one node and in all."""

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

from .federation import DeployError

MIB = 2**20

WAITS = ("stranger_seconds", "grace_seconds", "idle_seconds", "transfer_seconds")

RESERVED_FILES = 128
"""Descriptors that connections never get: for files, commands, and connections about to be refused (2 × BACKLOG)."""

MOST_FILES = 65536
"""More descriptors than any gate wants; some systems grant without end, and then not even this many."""

BACKLOG = 32
"""Connections that the kernel holds ready; asyncio accepts as many before it looks at one."""


@dataclass(frozen=True)
class Limits:
    """What the gate grants at most. A *stranger* is a connection that has not yet shown a key in DIR/nodes."""

    connections: int = 1024
    """Connections from devices in all."""
    strangers_per_address: int = 64
    """Of those, strangers from one IP address, of IPv6 from one network of 64 bits."""
    connections_per_node: int = 16
    """Connections that have shown one and the same key."""
    requests_per_node: int = 16
    """Requests of one node at a time; a node makes three or four."""
    superlink_connections: int = 64
    """Requests that the SuperLink answers at a time; others wait."""

    stranger_seconds: float = 20.0
    """A stranger's whole time: TLS handshake and the head of a signed request."""
    grace_seconds: float = 5.0
    """A stranger of this age makes room for a newer one where there are too many."""
    idle_seconds: float = 35.0
    """From a reply to the end of the next request's head."""
    transfer_seconds: float = 30.0
    """For a body or a reply, beside what `bytes_per_second` grants."""
    bytes_per_second: float = 8192.0
    """The slowest link that a body or a reply is waited for."""

    head_bytes: int = 8192
    """A head that is longer is refused once twice as much is there."""
    head_lines: int = 64
    bytes_in_flight: int = 256 * MIB
    """Bodies and replies that the gate holds, in all; each takes up to three times its length."""
    bytes_per_node: int = 48 * MIB
    """Of those, one node's."""

    def hurried(self, seconds: float) -> Self:
        """These limits where nothing is waited for longer than so."""
        waits = {name: min(seconds, getattr(self, name)) for name in WAITS}
        return replace(self, **waits, bytes_per_second=MIB)

    def seconds_for(self, size: int) -> float:
        """How long a body or a reply of `size` bytes may take."""
        return self.transfer_seconds + size / self.bytes_per_second

    def within(self, files: int) -> Self:
        """These limits with no more connections than `files` descriptors allow; DeployError if they allow none."""
        room = files - RESERVED_FILES - self.superlink_connections
        if room < self.connections_per_node:
            raise DeployError(
                f"this process may open {files} files, the gate needs {files - room + self.connections_per_node}: "
                "raise the limit (`ulimit -n`, LimitNOFILE in a unit)"
            )
        return replace(self, connections=min(self.connections, room))


def raise_file_limit() -> int:
    """Let this process open as many files as it may, or MOST_FILES; how many that is."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most > MOST_FILES:
        wanted = MOST_FILES if now == resource.RLIM_INFINITY else max(now, MOST_FILES)
    else:
        wanted = most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


class Spent(Exception):
    """There is no more of what was asked for, for now."""


class Budget:
    """What is in flight: requests of each node, bytes of each node and in all."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def request(self, node: str) -> Iterator[None]:
        """While a request of `node` is answered; Spent if it has too many."""
        if self._requests[node] >= self._limits.requests_per_node:
            raise Spent(f"{node} has {self._requests[node]} requests under way already")
        with _counted(self._requests, node, 1):
            yield

    @contextmanager
    def hold(self, node: str, size: int) -> Iterator[None]:
        """While `size` bytes from or for `node` are in memory; Spent if there is no room."""
        if self._bytes[node] + size > self._limits.bytes_per_node:
            raise Spent(f"{node} has {self._bytes[node]} bytes under way already")
        if self._bytes.total() + size > self._limits.bytes_in_flight:
            raise Spent(f"{self._bytes.total()} bytes are under way already")
        with _counted(self._bytes, node, size):
            yield


@contextmanager
def _counted(counter: Counter[str], key: str, amount: int) -> Iterator[None]:
    counter[key] += amount
    try:
        yield
    finally:
        counter[key] -= amount
        if not counter[key]:
            del counter[key]
