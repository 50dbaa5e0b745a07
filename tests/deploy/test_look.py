"""What a node says before it starts: no server, another's certificate, and clocks that differ."""

import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fl_mlmc.deploy import keys
from fl_mlmc.deploy.clock import AHEAD_SECONDS, BEHIND_SECONDS, TIME_HEADER
from fl_mlmc.deploy.federation import init
from fl_mlmc.deploy.look import look


@contextmanager
def server(folder: Path, ahead: float, is_gate: bool = True) -> Iterator[str]:
    """HOST:PORT of a server with the certificate in `folder`, whose clock is so far *behind* that ours is ahead."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(404)
            there = time.time() - ahead
            if is_gate:
                self.send_header(TIME_HEADER, f"{there:.3f}")
            self.send_header("date", formatdate(there, usegmt=True))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.crt", folder / "server.key")
    found.socket = tls.wrap_socket(found.socket, server_side=True)
    thread = threading.Thread(target=found.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{found.server_port}"
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("look") / "fed"
    init(made, ["127.0.0.1"], "127.0.0.1:1", 2, {})
    return made


def test_the_bounds_are_those_of_flower() -> None:
    assert (AHEAD_SECONDS, BEHIND_SECONDS) == (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (0.0, "$"),
        (1.0, "$"),
        (4.0, r"this machine's clock is [34]\.\d s ahead of the server's; Flower refuses more than 5 s ahead"),
        (-100.0, "$"),
        (-200.0, r"this machine's clock is (199|200)\.\d s behind the server's; Flower refuses"),
        (
            47.0,
            r"this machine's clock is 4[67]\.\d s ahead of the server's; Flower refuses more than 5 s ahead and 305 s",
        ),
        (-4000.0, r"this machine's clock is (3999|4000)\.\d s behind the server's; Flower refuses"),
    ],
)
@pytest.mark.parametrize("is_gate", [True, False])
def test_a_clock_that_differs_is_measured(folder: Path, ahead: float, said: str, is_gate: bool) -> None:
    with server(folder, ahead, is_gate) as address:
        assert re.match(said, look(address, folder / "ca.crt")), look(address, folder / "ca.crt")


def test_a_certificate_of_another_federation_is_named(folder: Path, tmp_path: Path) -> None:
    init(tmp_path / "other", ["127.0.0.1"], "127.0.0.1:1", 2, {})
    with server(tmp_path / "other", 0.0) as address:
        assert "is this the folder of another federation" in look(address, folder / "ca.crt")


def test_a_certificate_out_of_date_is_the_clocks_fault_or_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "DAYS", -1)  # it was good for no time at all, two days ago
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {})
    for ahead, said in ((4e6, "clock is 4000000.0 s ahead of the server's; Flower refuses"), (0.0, "is out of date")):
        with server(tmp_path / "fed", ahead) as address:
            assert said.replace("4000000.0", "") in look(address, tmp_path / "fed" / "ca.crt").replace("4000000.0", "")


def test_no_server_is_said(folder: Path) -> None:
    assert "no server answers at 127.0.0.1:1 (Connection refused)" in look("127.0.0.1:1", folder / "ca.crt")
