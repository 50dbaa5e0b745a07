"""The gate: what devices reach of the SuperLink, and no more.

Since flwr 1.40 one port serves the Fleet API (for devices, authenticated), the Control API (whoever reaches it may run
code on the server) and the Runtime API (for the SuperLink's own processes). So the SuperLink listens on loopback, and
this small TLS server in front of it passes on the Fleet API's paths alone.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""The Fleet API but for register-node and unregister-node: nodes are registered by the operator."""

MAX_BODY_BYTES = 16 * 2**20
"""Flower cuts arrays into objects of 5 MB; no honest request is longer."""

MAX_CONNECTIONS = 1024
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}
_HOP |= {"accept-encoding", "content-encoding", "proxy-authorization", "proxy-authenticate", "date", "server"}


def gate_app(superlink: str, authority: Path) -> Starlette:
    """The gate in front of the SuperLink at https://`superlink`, whose certificate `authority` signed."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        trust = ssl.create_default_context(cafile=str(authority))
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS)
        async with httpx.AsyncClient(
            base_url=f"https://{superlink}", verify=trust, limits=limits, timeout=60.0, trust_env=False
        ) as app.state.inner:
            yield

    async def forward(request: Request) -> Response:
        try:
            body = await _body(request)
        except ClientDisconnect:
            return PlainTextResponse("gone", 400)
        if body is None:
            return PlainTextResponse(f"a request has at most {MAX_BODY_BYTES} bytes", 413)
        inner: httpx.AsyncClient = request.app.state.inner
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        try:
            reply = await inner.post(request.url.path, content=body, headers=headers)
        except httpx.TransportError:
            return PlainTextResponse("the SuperLink does not answer", 503)  # nodes try again
        kept = {name: value for name, value in reply.headers.items() if name not in _HOP}
        return Response(reply.content, reply.status_code, kept)

    routes = [Route(f"/v1/fleet/{name}", forward, methods=["POST"]) for name in FLEET]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request) -> bytes | None:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > MAX_BODY_BYTES:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def gate_server(directory: Path, host: str, port: int, superlink_port: int) -> uvicorn.Server:
    """The gate of the federation in `directory`, ready to `run`."""
    config = uvicorn.Config(
        gate_app(f"127.0.0.1:{superlink_port}", directory / "ca.crt"),
        host=host,
        port=port,
        ssl_certfile=directory / "server.crt",
        ssl_keyfile=str(directory / "server.key"),
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        access_log=False,
        server_header=False,
        log_level="warning",
    )
    return uvicorn.Server(config)
