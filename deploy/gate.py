"""The gate: what devices reach of the SuperLink, and no more.

Since flwr 1.40 one port serves the Fleet API (for devices, authenticated), the Control API (whoever reaches it may run
code on the server) and the Runtime API (for the SuperLink's own processes). So the SuperLink listens on loopback, and
this small TLS server in front of it passes on the Fleet API's paths alone, for keys in DIR/nodes alone.

A request goes through these hands, and the first that refuses it answers:

| what is looked at                      | by      | refused with                     |
|----------------------------------------|---------|----------------------------------|
| number and age of connections          | Door    | an end to the connection         |
| length of the head, lines in it        | h11, us | 400, 431                         |
| path and method                        | Gate    | 404, 405                         |
| signature, key, time                   | Keys    | 401; 412 with the reason at first|
| length of the body                     | Gate    | 411, 413                         |
| requests and bytes under way           | Budget  | 503, and nodes try again         |
| seconds of the body                    | Gate    | 408                              |
| sender, task and objects of what it is | Mail    | 403                              |
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import uvicorn
from flwr.supercore.constant import (
    FLWR_COMPONENT_NAME_METADATA_KEY,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
    VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY,
)
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .clock import TIME_HEADER
from .door import Door, Porch
from .limits import BACKLOG, MIB, Budget, Limits, Spent
from .mail import Forged, Mail
from .signers import SIGNATURE, Keys, NotSigned
from .supervise import Tell

SMALL = 64 * 1024

FLEET = {
    "activate-node": SMALL,
    "deactivate-node": SMALL,
    "send-node-heartbeat": SMALL,
    "pull-messages": SMALL,
    "push-messages": MIB,  # names of parts, 70 bytes each
    "get-run": SMALL,
    "get-fab": SMALL,
    "push-object": 16 * MIB,  # Flower cuts arrays into parts of 5 MB
    "pull-object": SMALL,
    "confirm-message-received": SMALL,
}
"""The calls that nodes make and the longest body of each: the Fleet API but for register-node and unregister-node."""

ASKED = {
    "content-type",
    "accept",
    *SIGNATURE,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
    FLWR_COMPONENT_NAME_METADATA_KEY,
}
"""The headers of a request that the SuperLink gets to see."""

ANSWERED = {"content-type", VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY}
"""The headers of its reply that the node gets to see."""

SUPERLINK_SECONDS = 60.0
TELL_SECONDS = 60.0
DRAIN_SECONDS = 1.0
PIECE_BYTES = 64 * 1024

NOT_ACTIVATED = 2004  # flwr's ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED


class Refused(Exception):
    """A request that is answered here, with a status and a text for the node's log."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Gate:
    """The gate in front of a SuperLink, as an ASGI app behind a Door.

    `tell` hears of forged messages, once a minute of each node.
    """

    def __init__(self, keys: Keys, limits: Limits, tell: Tell) -> None:
        self._keys, self._limits, self._tell = keys, limits, tell
        self._budget = Budget(limits)
        self._mail = Mail()
        self._told: dict[str, float] = {}  # when of which node

    def app(self, superlink: httpx.AsyncClient, beat: Callable[[], None] = lambda: None) -> ASGIApp:
        """The app that asks `superlink` and shows every second by `beat` that it lives."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with superlink:
                beating = asyncio.create_task(_beat(beat))
                try:
                    yield
                finally:
                    beating.cancel()

        routes = [Route(f"/v1/fleet/{call}", _Call(self, call, superlink), methods=["POST"]) for call in FLEET]
        inner = Starlette(routes=routes, lifespan=lifespan)

        async def timed(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_with_time(message: Message) -> None:
                if message["type"] == "http.response.start":
                    stamp = (TIME_HEADER.encode(), f"{time.time():.3f}".encode())
                    message = {**message, "headers": [*message.get("headers", ()), stamp]}
                await send(message)

            await inner(scope, receive, send_with_time)

        return timed

    async def answer(self, call: str, superlink: httpx.AsyncClient, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, in the order of the table above."""
        door: Door = scope["state"]["door"]
        body = None
        try:
            if len(scope["headers"]) > self._limits.head_lines:
                raise Refused(431, f"a request has at most {self._limits.head_lines} headers")
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            node = self._signer(call, headers)
            size = _length(call, headers)
            with door.serving(node), self._budget.request(node), self._budget.hold(node, size):
                body = await self._body(Request(scope, receive), size)
                self._mail.check(call, node, body)
                await self._forward(call, node, headers, body, superlink, door, send)
            return
        except Spent as error:
            refusal = Refused(503, f"the gate is busy: {error}")
        except Forged as error:
            if time.monotonic() > self._told.get(node, float("-inf")) + TELL_SECONDS:
                self._tell(f"gate: refused a {call} of {node}: {error}")
                self._told[node] = time.monotonic()
            refusal = Refused(403, str(error))
        except Refused as error:
            refusal = error
        except ClientDisconnect:
            door.drop()
            return
        if body is None and refusal.status != 408:
            await _drain(receive)
        await _refuse(send, refusal)

    def _signer(self, call: str, headers: dict[str, str]) -> str:
        try:
            return self._keys.signer(headers)
        except NotSigned as error:
            # Flower's node ends without a word at 401. At its first call it tells the reason of any other status.
            raise Refused(412 if call == "activate-node" else 401, str(error)) from None
        except OSError as error:
            raise Refused(503, f"the keys cannot be read: {error.strerror}") from None

    async def _body(self, request: Request, size: int) -> bytes:
        parts, found = [], 0
        try:
            async with asyncio.timeout(self._limits.seconds_for(size)):
                async for part in request.stream():
                    parts.append(part)
                    found += len(part)
        except TimeoutError:
            raise Refused(408, f"{found} of {size} bytes came in time") from None
        return b"".join(parts)

    async def _forward(
        self,
        call: str,
        node: str,
        headers: dict[str, str],
        body: bytes,
        superlink: httpx.AsyncClient,
        door: Door,
        send: Send,
    ) -> None:
        asked = {name: value for name, value in headers.items() if name in ASKED}
        try:
            request = superlink.build_request("POST", f"/v1/fleet/{call}", content=body, headers=asked)
            reply = await superlink.send(request, stream=True)
            try:
                size = int(reply.headers.get("content-length", "0"))
                # A task that is not handed on now is lost; its names are short.
                with self._budget.hold(node, size if size > MIB else 0):
                    content = await reply.aread()  # the SuperLink is free again
                    if reply.status_code == 200:
                        self._mail.note(call, node, body, content)
                    answered = {name: value for name, value in reply.headers.items() if name in ANSWERED}
                    async with asyncio.timeout(self._limits.seconds_for(len(content))):
                        await _send(send, reply.status_code, answered, content)
            finally:
                await reply.aclose()
        except httpx.TransportError:
            raise Refused(503, "the SuperLink does not answer") from None  # nodes try again
        except TimeoutError:
            door.drop()  # it does not read


class _Call:
    """One call of the Fleet API, as an app: Starlette would hand a function a whole request."""

    def __init__(self, gate: Gate, call: str, superlink: httpx.AsyncClient) -> None:
        self._gate, self._call, self._superlink = gate, call, superlink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._gate.answer(self._call, self._superlink, scope, receive, send)


async def _beat(beat: Callable[[], None]) -> None:
    while True:
        beat()
        await asyncio.sleep(1.0)


def _length(call: str, headers: dict[str, str]) -> int:
    declared = headers.get("content-length", "")
    if not declared.isdecimal() or len(declared) > 12 or "transfer-encoding" in headers:
        raise Refused(411, "a request says how long its body is")
    if int(declared) > FLEET[call]:
        raise Refused(413, f"a request of {call} has at most {FLEET[call]} bytes")
    return int(declared)


async def _send(send: Send, status: int, headers: dict[str, str], content: bytes) -> None:
    """A reply in pieces: uvicorn waits for a slow reader between them."""
    named = {**headers, "content-length": str(len(content))}
    lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    for start in range(0, len(content), PIECE_BYTES):
        piece = content[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    """Read what is left of a short body: a connection that is closed before would take the reply along."""
    found = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while found < SMALL:
                message = await receive()
                found += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def _refuse(send: Send, refusal: Refused) -> None:
    # What Flower's nodes read an error from.
    text = json.dumps({"code": NOT_ACTIVATED, "detail": refusal.text})
    await _send(send, refusal.status, {"content-type": "application/json", "connection": "close"}, text.encode())


def superlink_client(directory: Path, port: int, limits: Limits) -> httpx.AsyncClient:
    """What asks the SuperLink of the federation in `directory`, on loopback."""
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}",
        verify=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        limits=httpx.Limits(max_connections=limits.superlink_connections),
        timeout=SUPERLINK_SECONDS,
        trust_env=False,
        headers={"accept-encoding": "identity"},
    )


def gate_server(app: ASGIApp, directory: Path, host: str, port: int, limits: Limits) -> uvicorn.Server:
    """A server for the gate's app, with the certificate in `directory`, ready to `run`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "server.crt", directory / "server.key")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=partial(Door, Porch(limits, tls)),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        backlog=BACKLOG,
        h11_max_incomplete_event_size=limits.head_bytes,
        timeout_keep_alive=round(limits.idle_seconds) + 1,  # the door is first
        timeout_graceful_shutdown=5,
        proxy_headers=False,
        access_log=False,
        server_header=False,
        log_level="error",
    )
    return uvicorn.Server(config)
