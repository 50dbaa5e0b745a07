"""The door of the gate: whose connections it holds, how many, and how long each may keep it waiting.

uvicorn waits for ever for the head of a first request, leaves TLS to asyncio, which gives a handshake a minute, and
counts connections only once they ask for something. So each is met here before TLS, and handed to uvicorn after it.

| a connection is | from          | until                                                                           |
|-----------------|---------------|---------------------------------------------------------------------------------|
| a stranger      | accept        | it is known, `stranger_seconds` are over, or a newer one needs its place        |
| known           | a signed head | its key is gone, `idle_seconds` are over, or the same node has newer ones       |
| busy            | a signed head | its reply is sent; the gate itself limits the time for body and reply           |
"""

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits

CLOSING_SECONDS = 5.0
"""How long a peer may take to say goodbye."""


class Porch:
    """All connections of a gate."""

    def __init__(self, limits: Limits, tls: ssl.SSLContext) -> None:
        self.limits, self.tls = limits, tls
        self._strangers: dict[Door, None] = {}  # oldest first
        self._by_address: Counter[str] = Counter()
        self._known: dict[str, dict[Door, None]] = {}  # by node, oldest first

    def __len__(self) -> int:
        return len(self._strangers) + sum(map(len, self._known.values()))

    def admit(self, door: "Door") -> bool:
        """Take in a stranger, if need be in the place of an older one; False if there is no place."""
        if self._by_address[door.address] >= self.limits.strangers_per_address and not self._make_room(door.address):
            return False
        if len(self) >= self.limits.connections and not self._make_room():
            return False
        self._strangers[door] = None
        self._by_address[door.address] += 1
        return True

    def recognise(self, door: "Door", node: str) -> None:
        """Note that a connection showed the key of `node`, which has only so many: its oldest goes, idle ones first."""
        self.forget(door)
        own = self._known.setdefault(node, {})
        if len(own) >= self.limits.connections_per_node:
            next((other for other in own if not other.is_busy), next(iter(own))).drop()
        self._known.setdefault(node, {})[door] = None
        door.node = node

    def forget(self, door: "Door") -> None:
        """A connection is over; nothing if it was before."""
        if door in self._strangers:
            del self._strangers[door]
            self._by_address[door.address] -= 1
            if not self._by_address[door.address]:
                del self._by_address[door.address]
        own = self._known.get(door.node, {})
        if door in own:
            del own[door]
            if not own:
                del self._known[door.node]

    def _make_room(self, address: str = "") -> bool:
        eldest = next((door for door in self._strangers if not address or door.address == address), None)
        if eldest is None or eldest.age < self.limits.grace_seconds:
            return False
        eldest.drop()
        return True


def source(host: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 leading bits of an IPv6 one, which a single peer has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Door(H11Protocol):
    """One connection: counted, through TLS in time, then uvicorn's own HTTP/1.1. Requests find it in their state."""

    def __init__(self, porch: Porch, *, app_state: dict[str, Any], **given: Any) -> None:
        super().__init__(app_state={**app_state, "door": self}, **given)
        self._porch = porch
        self._raw: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_gone = False
        self.address = ""
        """Where it comes from, see `source`."""
        self.node = ""
        """The node whose key was shown; empty for a stranger."""
        self.is_busy = False
        """Whether a signed request awaits its reply."""

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""
        return self.loop.time() - self._since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin TLS, if there is a place."""
        self._raw, self._since = transport, self.loop.time()
        self.address = source((transport.get_extra_info("peername") or ("",))[0])
        if not self._porch.admit(self):
            transport.abort()
            return
        self._drop_in(self._porch.limits.stranger_seconds)
        transport.pause_reading()  # until TLS reads
        self._opening = self.loop.create_task(self._open(transport))

    def data_received(self, data: bytes) -> None:
        """Hand on what TLS gives, in pieces: h11 looks at a head's length only when it has to wait for more."""
        if self.transport is None:
            self._early.append(data)
            return
        size = self._porch.limits.head_bytes
        for start in range(0, len(data), size):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + size])

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the porch."""
        self._leave()
        if self.transport is not None:
            super().connection_lost(exc)

    def drop(self) -> None:
        """End the connection at once, whatever it is doing."""
        self._leave()
        transport = self.transport or self._raw
        if transport is not None:
            transport.abort()

    @contextmanager
    def serving(self, node: str) -> Iterator[None]:
        """While a request is answered that `node` signed."""
        if node != self.node and not self._is_gone:  # it may have gone before its request was looked at
            self._porch.recognise(self, node)
        self._cancel()
        self.is_busy = True
        try:
            yield
        finally:
            self.is_busy = False
            if not self._is_gone:
                self._drop_in(self._porch.limits.idle_seconds)

    async def _open(self, raw: asyncio.Transport) -> None:
        try:
            transport = await self.loop.start_tls(
                raw,
                self,
                self._porch.tls,
                server_side=True,
                ssl_handshake_timeout=self._porch.limits.stranger_seconds,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
        except (OSError, TimeoutError):  # ssl.SSLError is one: no TLS, or none of ours
            transport = None
        if transport is None or transport.is_closing():
            self.drop()
            return
        super().connection_made(transport)
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def _drop_in(self, seconds: float) -> None:
        self._cancel()
        self._timer = self.loop.call_later(seconds, self.drop)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _leave(self) -> None:
        self._is_gone = True
        self._cancel()
        self._porch.forget(self)
