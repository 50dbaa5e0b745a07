"""A device behind a bad link: 1 Mbit/s and 5 % loss, made with tc in a network namespace."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Deployment

RATE, LOSS = 1e6, 0.05
HOST, DEVICE = "192.0.2.1", "192.0.2.2"  # TEST-NET-1, inside the namespace and its pair alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[tuple[str, list[str]]]:
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
            shape = ("root", "netem", "rate", f"{RATE:.0f}bit", "loss", f"{100 * LOSS:g}%")
            for side, end in (([], outer), (inside, inner)):
                # Without the card's help packets have their real size, and are lost one by one.
                command(*side, "tc", "qdisc", "add", "dev", end, *shape)
                for feature in ("tso", "gso", "gro"):
                    if shutil.which("ethtool"):
                        command(*side, "ethtool", "-K", end, feature, "off")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"may not shape links: {error.stderr.decode().strip()}")
        yield name, inside
    finally:
        subprocess.run(["ip", "link", "del", outer], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_round_takes_as_long_as_its_bytes(
    link: tuple[str, list[str]], tmp_path: Path, make_deployment: "type[Deployment]"
) -> None:
    _, inside = link
    federation = make_deployment(tmp_path, HOST)
    try:
        federation.start_server()
        federation.add(0)
        federation.start_node(0, "gateway", prefix=inside)
        # 1.2 million parameters, 4.9 MB each way: the link is what a round waits for.
        settings = ("num-clients=1", "clients-per-round=1", "tiers=gateway:1.0:1.0", "num-rounds=2", "local-steps=1")
        large, small = "model=mlp(hidden=(16384,))", "model=mlp(hidden=(16,))"
        compressors = {"dense": "Identity()", "mlmc": "MLMC(TopK(fraction=0.02))"}
        runs = [(name, large, compressor) for name, compressor in compressors.items()]
        seconds, taken = {}, {}
        for name, model, compressor in [("idle", small, "Identity()"), *runs]:
            done = federation.run(name, *settings, model, f"compressor={compressor}", "round-timeout=900.0")
            assert done.returncode == 0, done.stderr + federation.logs()
            row = federation.rows(name, "rounds.jsonl")[-1]  # the first one also brings the app
            seconds[name], taken[name] = row["seconds"], row["uplink_bytes"] + row["downlink_bytes"]
        print(seconds, taken)
        for name in compressors:
            expected = 8 * taken[name] / (RATE * (1 - LOSS))
            assert seconds[name] - seconds["idle"] == pytest.approx(expected, rel=0.25), (seconds, taken)
        saved = (seconds["mlmc"] - seconds["idle"]) / (seconds["dense"] - seconds["idle"])
        assert saved == pytest.approx(taken["mlmc"] / taken["dense"], rel=0.25), (seconds, taken)
    finally:
        federation.close()
