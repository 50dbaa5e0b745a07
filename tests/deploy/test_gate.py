"""The gate passes the Fleet API to nodes with keys and nothing else, whatever is tried over TLS."""

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from fl_mlmc.deploy.federation import init
from fl_mlmc.deploy.gate import FLEET, Gate, gate_server, superlink_client
from fl_mlmc.deploy.limits import Limits
from fl_mlmc.deploy.signers import Keys

Sign = Callable[..., dict[str, str]]


@dataclass
class Running:
    """A gate that runs, and what a SuperLink behind it would have heard."""

    folder: Path
    port: int
    seen: list[httpx.Request] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def ask(
        self, path: str, body: Any = b"question", headers: dict[str, str] | None = None, method: str = "POST"
    ) -> http.client.HTTPResponse:
        """One request, its path sent as it stands; the reply is read."""
        trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        link = http.client.HTTPSConnection("127.0.0.1", self.port, context=trust, timeout=20.0)
        link.request(method, path, body=body, headers=headers or {})
        reply = link.getresponse()
        reply.content = reply.read()  # type: ignore[attr-defined]
        link.close()
        return reply


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gate") / "fed"
    init(made, ["127.0.0.1"], "127.0.0.1:1", 2, {0: "", 1: ""})
    return made


@contextmanager
def started(folder: Path, limits: Limits) -> Iterator[Running]:
    """A gate in a thread of this process, and behind it a SuperLink that answers with as many bytes as it is asked."""
    gate = Running(folder, free_port())

    def superlink(request: httpx.Request) -> httpx.Response:
        request.read()
        gate.seen.append(request)
        if request.content == b"down":
            raise httpx.ConnectError("refused")
        size = int(request.content) if request.content.isdigit() else 6
        headers = {"content-type": "application/x", "x-own": "1", "flwr-version-incompatibility-message": "old"}
        return httpx.Response(412, content=b"answer" if size == 6 else bytes(size), headers=headers)

    client = superlink_client(folder, 2, limits)
    client._transport = httpx.MockTransport(superlink)
    app = Gate(Keys(folder / "nodes"), limits, gate.told.append).app(client)
    server = gate_server(app, folder, "127.0.0.1", gate.port, limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield gate
    finally:
        server.should_exit = True
        thread.join(20.0)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with started(folder, Limits(bytes_per_node=4 * 2**20, head_lines=20)) as gate:
        yield gate


@pytest.fixture
def gate(running: Running) -> Running:
    running.seen.clear()
    running.told.clear()
    return running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PLAIN = ["activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "get-run", "get-fab"]


@pytest.mark.parametrize("call", PLAIN)
def test_the_fleet_api_passes_with_the_headers_that_it_needs(gate: Running, sign: Sign, call: str) -> None:
    own = {**sign(gate.folder, 0), "accept": "application/protobuf", "flwr-package-version": "1.42"}
    reply = gate.ask(f"/v1/fleet/{call}?x=1", headers={**own, "cookie": "a", "x-mine": "b", "connection": "close"})
    assert (reply.status, reply.content) == (412, b"answer")  # type: ignore[attr-defined]
    assert (reply.getheader("content-type"), reply.getheader("x-own")) == ("application/x", None)
    assert reply.getheader("flwr-version-incompatibility-message") == "old"
    assert abs(float(reply.getheader("server-time") or 0) - time.time()) < 10.0
    (request,) = gate.seen
    assert str(request.url) == f"https://127.0.0.1:2/v1/fleet/{call}"
    assert (request.content, request.method) == (b"question", "POST")
    assert {name: request.headers[name] for name in own} == own
    assert request.headers.keys() - own.keys() == {"host", "connection", "content-length", "accept-encoding"} | (
        {"user-agent"} & request.headers.keys()
    ), "nothing else of what the node said"
    assert request.headers["host"] == "127.0.0.1:2"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/control/register-node",
        "/v1/runtime/acquire-task",
        "/v1/runtime/responses",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/pull-messages/../../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet//control/start-run",
        "//v1/control/start-run",
        "/docs",
        "/openapi.json",
        "/health",
        "/",
        "https://127.0.0.1:2/v1/control/start-run",
    ],
)
def test_nothing_else_passes(gate: Running, sign: Sign, path: str) -> None:
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        assert gate.ask(path, headers=sign(gate.folder, 0), method=method).status in (404, 405)
    assert gate.seen == []


def test_the_fleet_api_takes_posts_only(gate: Running, sign: Sign) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        assert gate.ask("/v1/fleet/pull-messages", headers=sign(gate.folder, 0), method=method).status == 405
    assert gate.seen == []


def test_what_no_key_of_the_federation_signed_does_not_pass(gate: Running, sign: Sign, tmp_path: Path) -> None:
    init(tmp_path / "other", ["127.0.0.1"], "127.0.0.1:1", 2, {0: ""})
    good = sign(gate.folder, 0)
    for headers, said in (
        ({}, "not signed"),
        (sign(tmp_path / "other", 0), "no file nodes/client-N.pub"),
        ({**good, "flwr-signature": sign(gate.folder, 1)["flwr-signature"]}, "not of the key"),
        (sign(gate.folder, 0, ahead=47.0), r"clock is 4[67].\d s ahead of the server's"),
        (sign(gate.folder, 0, ahead=-400.0), r"clock is 40[01].\d s behind the server's"),
    ):
        reply = gate.ask("/v1/fleet/pull-messages", headers=headers)
        assert reply.status == 401, said
        reply = gate.ask("/v1/fleet/activate-node", headers=headers)  # Flower's node shows what it is told here
        assert reply.status == 412
        found = json.loads(reply.content)  # type: ignore[attr-defined]
        assert found["code"] == 2004
        assert re.search(said, found["detail"]), found
    assert gate.seen == []


def test_a_body_is_as_long_as_its_call_allows_and_as_it_says(gate: Running, sign: Sign) -> None:
    good, most = sign(gate.folder, 0), FLEET["get-run"]
    assert gate.ask("/v1/fleet/get-run", b"x", {**good, "content-length": str(most + 1)}).status == 413
    assert gate.ask("/v1/fleet/get-run", b"x", {**good, "content-length": "1" * 20}).status == 411
    assert gate.ask("/v1/fleet/get-run", iter([b"x"] * 3), good).status == 411, "of no stated length"
    assert gate.seen == []
    assert gate.ask("/v1/fleet/get-run", b"x" * most, good).status == 412
    assert len(gate.seen) == 1


def test_more_headers_than_a_node_sends_are_refused(gate: Running, sign: Sign) -> None:
    headers = {**sign(gate.folder, 0), **{f"x-{number}": "" for number in range(20)}}
    assert gate.ask("/v1/fleet/get-run", headers=headers).status == 431
    assert gate.seen == []


def test_a_node_that_asks_for_more_than_its_share_is_told_to_come_back(gate: Running, sign: Sign) -> None:
    for size, status in ((3 * 2**20, 412), (5 * 2**20, 503)):
        reply = gate.ask("/v1/fleet/get-fab", str(size).encode(), sign(gate.folder, 0))
        assert reply.status == status
        assert (len(reply.content) == size) == (status == 412)  # type: ignore[attr-defined]


def test_a_superlink_that_is_down_is_a_503_so_that_nodes_try_again(gate: Running, sign: Sign) -> None:
    assert gate.ask("/v1/fleet/pull-messages", b"down", sign(gate.folder, 0)).status == 503


def test_a_message_in_anothers_name_is_refused_and_told(gate: Running, sign: Sign) -> None:
    for _ in range(3):
        assert gate.ask("/v1/fleet/push-messages", b"", sign(gate.folder, 1)).status == 403
    assert gate.told == ["gate: refused a push-messages of client-1: it pushes 0 messages and 0 objects at once"]
    assert gate.seen == []


def test_a_node_that_does_not_read_is_cut_off_and_its_share_is_free_again(folder: Path, sign: Sign) -> None:
    size = 16 * 2**20
    limits = Limits(transfer_seconds=5.0, bytes_per_second=1e9, bytes_per_node=size + 10)
    with started(folder, limits) as gate:
        body = str(size).encode()
        lines = [
            *(f"{name}: {value}" for name, value in sign(folder, 0).items()),
            f"content-length: {len(body)}",
            "",
            "",
        ]
        trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        with socket.create_connection(("127.0.0.1", gate.port)) as link:
            deaf = trust.wrap_socket(link, server_hostname="127.0.0.1")
            deaf.sendall("\r\n".join(["POST /v1/fleet/get-fab HTTP/1.1", "host: a", *lines]).encode() + body)
            for status in (503, 412):  # its share is spent, and then free again
                deadline = time.monotonic() + 30.0
                while gate.ask("/v1/fleet/get-fab", body, sign(folder, 0)).status != status:
                    assert time.monotonic() < deadline, status
            deaf.settimeout(20.0)
            found = 0
            with suppress(OSError):  # cut off in the middle
                while part := deaf.recv(65536):
                    found += len(part)
            assert found < size
