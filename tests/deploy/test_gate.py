"""The gate passes the Fleet API and nothing else, whatever is tried."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from deploy import gate
from deploy.federation import init
from deploy.gate import FLEET, gate_app


@pytest.fixture
def seen() -> list[httpx.Request]:
    return []


@pytest.fixture
def client(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, seen: list[httpx.Request]) -> Iterator[TestClient]:
    def superlink(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.headers.get("x-test") == "down":
            raise httpx.ConnectError("refused")
        return httpx.Response(412, content=b"answer", headers={"content-type": "application/x", "x-own": "1"})

    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {})
    real = httpx.AsyncClient
    monkeypatch.setattr(
        httpx,
        "AsyncClient",
        lambda **options: real(base_url=options["base_url"], transport=httpx.MockTransport(superlink)),
    )
    with TestClient(gate_app("127.0.0.1:2", tmp_path / "fed" / "ca.crt")) as client:
        yield client


@pytest.mark.parametrize("name", FLEET)
def test_the_fleet_api_passes_with_its_headers(client: TestClient, seen: list[httpx.Request], name: str) -> None:
    reply = client.post(f"/v1/fleet/{name}", content=b"question", headers={"flwr-signature": "s", "connection": "x"})
    assert (reply.status_code, reply.content, reply.headers["x-own"]) == (412, b"answer", "1")
    (request,) = seen
    assert str(request.url) == f"https://127.0.0.1:2/v1/fleet/{name}"
    assert (request.content, request.headers["flwr-signature"], request.method) == (b"question", "s", "POST")
    assert request.headers["connection"] != "x", "a header of this connection, not of the next"
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
def test_nothing_else_passes(client: TestClient, seen: list[httpx.Request], path: str) -> None:
    for method in ("POST", "GET", "PUT", "OPTIONS"):
        assert client.request(method, path, content=b"x").status_code in (404, 405)
    assert seen == []


def test_the_fleet_api_takes_posts_only(client: TestClient, seen: list[httpx.Request]) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        assert client.request(method, "/v1/fleet/pull-messages").status_code == 405
    assert seen == []


def test_a_body_without_end_is_cut_off(
    client: TestClient, seen: list[httpx.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_BODY_BYTES", 1000)

    assert client.post("/v1/fleet/push-object", content=b"x" * 1001).status_code == 413
    assert client.post("/v1/fleet/push-object", content=b"x", headers={"content-length": "1001"}).status_code == 413
    assert client.post("/v1/fleet/push-object", content=iter([b"x" * 100] * 11)).status_code == 413, (
        "of no stated length"
    )
    assert len(seen) == 0
    assert client.post("/v1/fleet/push-object", content=b"x" * 1000).status_code == 412
    assert client.post("/v1/fleet/push-object", content=iter([b"x" * 100] * 10)).status_code == 412
    assert len(seen) == 2


def test_a_superlink_that_is_down_is_a_503_so_that_nodes_try_again(client: TestClient) -> None:
    assert client.post("/v1/fleet/pull-messages", headers={"x-test": "down"}).status_code == 503
