"""A device behind a bad link: 1 Mbit/s and 5 % loss, made with tc in a network namespace, or with a slow relay."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from .conftest import Deployment

RATE, LOSS, SEGMENT = 1e6, 0.05, 1448
HOST, DEVICE = "192.0.2.1", "192.0.2.2"  # TEST-NET-1, inside the namespace and its pair alone

LATE = (
    "Flower's server looks for a slow upload at pauses that grow to 10 s: a dense round took 30 % more than its bytes"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xfail(reason=LATE, strict=False)]


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


Link = tuple[Callable[[], None], list[str]]


def netem(outer: str, inner: str, inside: list[str]) -> None:
    """Shape both directions of a pair of devices."""
    for side, end in (([], outer), (inside, inner)):
        shape = ("root", "netem", "rate", f"{RATE:.0f}bit", "loss", f"{100 * LOSS:g}%")
        command(*side, "tc", "qdisc", "add", "dev", end, *shape)


@pytest.fixture
def link() -> Iterator[Link]:
    """A namespace and both ends of the pair of devices that leads to it; skipped where that is not permitted."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("needs Linux with ip and tc")
    name = f"fl{os.getpid()}"
    outer, inner = f"{name}a", f"{name}b"
    try:
        command("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"may not make network namespaces: {error.stderr.decode().strip()}")
    inside = ["ip", "netns", "exec", name]
    try:
        try:
            command("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            command("ip", "addr", "add", f"{HOST}/30", "dev", outer)
            command("ip", "link", "set", outer, "up")
            command(*inside, "ip", "addr", "add", f"{DEVICE}/30", "dev", inner)
            command(*inside, "ip", "link", "set", inner, "up")
            command(*inside, "ip", "link", "set", "lo", "up")
            netem(outer, inner, inside)
            for side, end in (([], outer), (inside, inner)):  # it is permitted; the link starts free
                command(*side, "tc", "qdisc", "del", "dev", end, "root")
                if shutil.which("ethtool"):  # without the card's help packets are lost one by one
                    for feature in ("tso", "gso", "gro"):
                        command(*side, "ethtool", "-K", end, feature, "off")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"may not shape links: {error.stderr.decode().strip()}")
        yield lambda: netem(outer, inner, inside), inside
    finally:
        subprocess.run(["ip", "link", "del", outer], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def relay() -> Iterator[Callable[[int, threading.Event], int]]:
    """Starts a relay to a local port that does to TCP what such a link does, for kernels without netem; its port.

    It passes all on at once until the event is set.
    """
    stop = threading.Event()

    def start(target: int, shaped: threading.Event) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=_relay, args=(listener, target, stop, shaped), daemon=True).start()
        return int(listener.getsockname()[1])

    yield start
    stop.set()


class _Direction:
    """Time on the wire of one direction: a segment after the other, a lost one again."""

    def __init__(self, shaped: threading.Event) -> None:
        self._lock, self._free, self._rng = threading.Lock(), 0.0, np.random.default_rng(0)
        self._shaped = shaped

    def pass_on(self, num_bytes: int) -> None:
        if not self._shaped.is_set():
            return
        with self._lock:
            tries = 1
            while self._rng.random() < LOSS:
                tries += 1
            self._free = max(self._free, time.monotonic()) + tries * 8 * num_bytes / RATE
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)


def _relay(listener: socket.socket, target: int, stop: threading.Event, shaped: threading.Event) -> None:
    up, down = _Direction(shaped), _Direction(shaped)
    listener.settimeout(0.5)
    while not stop.is_set():
        try:
            near, _ = listener.accept()
        except TimeoutError:
            continue
        far = socket.create_connection(("127.0.0.1", target))
        for end in (near, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        for source, sink, direction in ((near, far, up), (far, near, down)):
            threading.Thread(target=_pump, args=(source, sink, direction), daemon=True).start()
    listener.close()


def _pump(source: socket.socket, sink: socket.socket, direction: _Direction) -> None:
    with suppress(OSError):
        while data := source.recv(SEGMENT):
            direction.pass_on(len(data))
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def test_a_round_behind_netem_takes_as_long_as_its_bytes(
    link: Link, tmp_path: Path, make_deployment: "type[Deployment]"
) -> None:
    shape, inside = link
    federation = make_deployment(tmp_path, HOST)
    try:
        federation.start_server()
        federation.add(0)
        federation.start_node(0, "gateway", prefix=inside)
        check_rounds(federation, shape)
    finally:
        federation.close()


def test_a_round_behind_a_slow_relay_takes_as_long_as_its_bytes(
    relay: Callable[[int, threading.Event], int], deployment: "Deployment"
) -> None:
    shaped = threading.Event()
    deployment.add(0)
    deployment.start_node(0, "gateway", "--server", f"127.0.0.1:{relay(deployment.port, shaped)}")
    check_rounds(deployment, shaped.set)


def check_rounds(federation: "Deployment", shape: Callable[[], None]) -> None:
    """Seconds of a round, less those of the same round before `shape`, are its bytes over the link's rate."""
    # 0.6 million parameters, 2.5 MB each way: the link is what a round waits for.
    settings = ("num-clients=1", "clients-per-round=1", "tiers=gateway:1.0:1.0", "num-rounds=2", "local-steps=1")
    compressors = {"free": "Identity()", "dense": "Identity()", "mlmc": "MLMC(TopK(fraction=0.02))"}
    seconds, taken = {}, {}
    for name, compressor in compressors.items():
        if name == "dense":
            shape()
        given = (*settings, "model=mlp(hidden=(8192,))", f"compressor={compressor}", "round-timeout=900.0")
        done = federation.run(name, *given)
        assert done.returncode == 0, done.stderr + federation.logs()
        row = federation.rows(name, "rounds.jsonl")[-1]  # the first one also brings the app
        seconds[name], taken[name] = row["seconds"], row["uplink_bytes"] + row["downlink_bytes"]
    print(seconds, taken)
    waited = {name: seconds[name] - seconds["free"] for name in ("dense", "mlmc")}
    for name, wait in waited.items():
        assert wait == pytest.approx(8 * taken[name] / (RATE * (1 - LOSS)), rel=0.25), (seconds, taken)
    assert waited["mlmc"] / waited["dense"] == pytest.approx(taken["mlmc"] / taken["dense"], rel=0.25), (seconds, taken)
