"""A flood costs the one who makes it: `deploy server` with few descriptors, and devices that go on through it."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

from fl_mlmc.deploy.federation import Federation, init, split_address
from fl_mlmc.deploy.supervise import die_with_parent

MIB = 2**20

Sign = Callable[..., dict[str, str]]
Served = Callable[..., AbstractContextManager["Server"]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="descriptors and memory are counted through /proc"),
    pytest.mark.timeout(180),
]


class Server:
    """A `deploy server` with stand-ins for Flower's parts, as a process; clients 0 and 1 have keys."""

    def __init__(self, directory: Path, sign: Sign, descriptors: int, seconds: float) -> None:
        self.directory, self._log = directory, directory.parent / "server.log"
        self._sign = sign
        host = "127.0.0.1"
        init(directory, [host], f"{host}:{free_port()}", free_port(), {0: "", 1: ""})
        self.address = split_address(Federation.read(directory / "federation.toml").address)
        root = Path(__file__).parents[2]
        script = Path(__file__).parent / "stand_ins" / "server.py"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(directory), str(descriptors), str(seconds)],
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.wait(lambda: self.is_heard(0), 60.0)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()  # what it started is told so by the kernel, and goes too
            self._process.wait()

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def log(self) -> str:
        return self._log.read_text()[-5000:]

    def sign(self, client: int) -> dict[str, str]:
        """The headers of a request that this client signs."""
        return self._sign(self.directory, client)

    def is_heard(self, client: int, seconds: float = 10.0) -> bool:
        """Whether an honest device gets its answer."""
        trust = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        url = "https://{}:{}/v1/fleet/send-node-heartbeat".format(*self.address)
        content = SendNodeHeartbeatRequest(heartbeat_interval=30).SerializeToString()
        try:
            reply = httpx.post(url, content=content, headers=self.sign(client), verify=trust, timeout=seconds)
            return reply.status_code == 200
        except httpx.TransportError:
            return False

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 10.0)

    def shake_hands(self) -> ssl.SSLSocket:
        trust = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
        return trust.wrap_socket(self.connect(), server_hostname=self.address[0])

    def peak_bytes(self) -> int:
        """The most memory that the server had so far."""
        fields = Path(f"/proc/{self._process.pid}/status").read_text().split()
        return 1024 * int(fields[fields.index("VmHWM:") + 1])


@pytest.fixture
def served(tmp_path: Path, sign: Sign) -> Served:
    """`served(descriptors=512, seconds=0.0)`: a server that may open so many, with so much patience if any is given."""

    @contextmanager
    def start(descriptors: int = 512, seconds: float = 0.0) -> Iterator[Server]:
        server = Server(tmp_path / "fed", sign, descriptors, seconds)
        try:
            yield server
        finally:
            server.close()

    return start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def head(call: str, headers: dict[str, str], length: int) -> bytes:
    lines = [f"POST /v1/fleet/{call} HTTP/1.1", "host: gate", f"content-length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def seconds_until_cut_off(link: ssl.SSLSocket, drop: bytes) -> float:
    """Send a byte every tenth of a second until the other end has enough of it, for ten seconds at most."""
    start = time.monotonic()
    link.settimeout(0.1)
    while (spent := time.monotonic() - start) < 10.0:
        try:
            link.sendall(drop)
            if link.recv(4096) == b"":
                return spent
        except TimeoutError:
            continue
        except OSError:
            return spent
    return spent


def test_idle_connections_keep_neither_devices_out_nor_the_registrar_from_barring(served: Served) -> None:
    with served(descriptors=320, seconds=1.0) as server, ExitStack() as held:
        for number in range(330):
            with suppress(OSError):  # refused
                held.enter_context(server.shake_hands() if number < 20 else server.connect())
        server.wait(lambda: server.is_heard(0, 3.0), 20.0)
        (server.directory / "nodes" / "client-1.pub").unlink()
        server.wait(lambda: "unregister" in (server.directory / "asked.txt").read_text(), 10.0)
        server.wait(lambda: not server.is_heard(1, 5.0), 10.0)
        assert server.is_heard(0, 5.0)


def test_a_head_of_twenty_thousand_lines_holds_nobody_up(served: Served) -> None:
    lines = "".join(f"x-{number}: y\r\n" for number in range(20_000))
    with served() as server, server.shake_hands() as stranger:
        with suppress(OSError):  # cut off
            stranger.sendall(f"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\n{lines}\r\n".encode())
        start = time.monotonic()
        assert server.is_heard(0, 30.0)
        assert time.monotonic() - start < 5.0


@pytest.mark.parametrize("kind", ["a stranger", "a device"])
def test_bodies_of_fifteen_megabytes_do_not_fill_the_memory(served: Served, kind: str) -> None:
    with served() as server, ExitStack() as held:
        before = server.peak_bytes()
        for _ in range(13):
            link = held.enter_context(server.shake_hands())
            link.settimeout(0.5)
            with suppress(OSError):  # cut off, or not read any more
                link.sendall(head("push-object", server.sign(0) if kind == "a device" else {}, 15 * MIB))
                link.sendall(bytes(14 * MIB))
        assert server.is_heard(1, 20.0)
        assert server.peak_bytes() - before < 150 * MIB


def test_who_drips_is_cut_off(served: Served) -> None:
    with served(seconds=1.0) as server:
        with server.shake_hands() as link:  # a head without an end
            link.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: a\r\nx: ")
            assert seconds_until_cut_off(link, b"y") < 5.0
        with server.shake_hands() as link:  # a body without an end
            link.sendall(head("push-object", server.sign(0), MIB))
            assert seconds_until_cut_off(link, b"y") < 5.0
        with server.shake_hands() as link:  # a second head that never comes
            link.sendall(head("pull-messages", server.sign(0), 0))
            assert link.recv(4096).startswith(b"HTTP/1.1 200")
            assert seconds_until_cut_off(link, b"") < 5.0
        assert server.is_heard(0)
