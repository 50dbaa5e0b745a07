"""A device behind a bad link: 1 Mbit/s and 5 % loss, on real packets between two network namespaces."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Deployment

RATE, LOSS = 1e6, 0.05
PACKET, SEGMENT = 1514, 1448  # an Ethernet frame, and what it carries of a TCP stream
HOST, DEVICE = "198.18.7.1", "198.18.7.2"  # of the range for benchmarks (RFC 2544), on the pair of devices alone

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(1500)]


def command(*words: str, given: str = "") -> None:
    subprocess.run(words, check=True, capture_output=True, input=given, text=True)


@dataclass(frozen=True)
class Link:
    """A pair of network devices, one end of which is the only way out of a namespace."""

    outer: str
    inner: str
    inside: list[str]
    """What to put before a command that is to run behind the link."""

    @property
    def ends(self) -> list[tuple[list[str], str]]:
        return [([], self.outer), (self.inside, self.inner)]

    def shape(self) -> float:
        """Make both directions slow and lossy; bytes of TCP streams that pass in a second if they never pause."""
        share = SEGMENT / PACKET
        try:
            for side, end in self.ends:
                rate = f"{RATE:.0f}bit"
                command(*side, "tc", "qdisc", "add", "dev", end, "root", "netem", "rate", rate, "loss", f"{LOSS:%}")
            return RATE / 8 * share  # netem loses packets before they take time
        except subprocess.CalledProcessError:
            for side, end in self.ends:
                self._slow(side, end)
                self._lossy(side, end)
            return RATE / 8 * share * (1 - LOSS)

    def free(self) -> None:
        for side, end in self.ends:
            with suppress(subprocess.CalledProcessError):
                command(*side, "tc", "qdisc", "del", "dev", end, "root")
            with suppress(subprocess.CalledProcessError):
                command(*side, "nft", "delete", "table", "netdev", end)

    def _slow(self, side: list[str], end: str) -> None:
        """A bucket of two packets, and a queue of a second, as long as those of home routers."""
        bucket = ("rate", f"{RATE:.0f}bit", "burst", str(2 * PACKET), "limit", f"{RATE / 8:.0f}")
        command(*side, "tc", "qdisc", "add", "dev", end, "root", "tbf", *bucket)

    def _lossy(self, side: list[str], end: str) -> None:
        """Packets are lost where they arrive, when they have taken their time."""
        drop = f"numgen random mod {1 / LOSS:.0f} 0 drop"
        chain = f"chain loss {{ type filter hook ingress device {end} priority 0; {drop}; }}"
        command(*side, "nft", "-f", "-", given=f"table netdev {end} {{\n{chain}\n}}\n")


@pytest.fixture
def link() -> Iterator[Link]:
    """A free link that can be shaped; skipped where that is not permitted."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("tc"):
        pytest.skip("needs Linux with ip and tc")
    name = f"fl{os.getpid()}"
    link = Link(f"{name}a", f"{name}b", ["ip", "netns", "exec", name])
    try:
        command("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"may not make network namespaces: {error.stderr.strip()}")
    try:
        try:
            command("ip", "link", "add", link.outer, "type", "veth", "peer", "name", link.inner, "netns", name)
            for (side, end), address in zip(link.ends, (HOST, DEVICE), strict=True):
                command(*side, "ip", "addr", "add", f"{address}/30", "dev", end)
                command(*side, "ip", "link", "set", end, "gso_max_segs", "1", "up")  # packets are lost one by one
            command(*link.inside, "ip", "link", "set", "lo", "up")
            link.shape()  # it is permitted
            link.free()
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
            pytest.skip(f"may not shape links with netem, nor with tbf and nft: {said}")
        yield link
    finally:
        subprocess.run(["ip", "link", "del", link.outer], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_round_on_a_bad_link_takes_as_long_as_its_bytes(
    link: Link, tmp_path: Path, make_deployment: "type[Deployment]"
) -> None:
    federation = make_deployment(tmp_path, HOST)
    compressors = {"dense": "Identity()", "mlmc": "MLMC(TopK(fraction=0.02))"}
    waited, asked, taken = {}, {}, {}
    try:
        federation.start_server()
        federation.add(0)
        federation.start_node(0, "gateway", prefix=link.inside)
        for name, compressor in compressors.items():
            # 1.2 million parameters, 4.9 MB each way: the link is what a round waits for.
            one = ("num-clients=1", "clients-per-round=1", "tiers=gateway:1.0:1.0", "num-rounds=5", "local-steps=1")
            run = federation.submit(name, *one, "model=mlp(hidden=(16384,))", f"compressor={compressor}")
            federation.wait("free rounds", lambda: len(federation.rows(name, "rounds.jsonl")) == 3, 600.0)  # noqa: B023
            with paused(federation.find("node-0", "flower-supernode")):  # nothing moves until the link is bad
                goodput = link.shape()
            _, errors = run.communicate(timeout=600.0)
            assert run.returncode == 0, errors + federation.logs()
            link.free()
            rounds = federation.rows(name, "rounds.jsonl")
            # What else runs on this machine only adds; the first round also brings the app.
            free, bad = (min(each["seconds"] for each in part) for part in (rounds[1:3], rounds[3:]))
            taken[name] = sum(each["uplink_bytes"] + each["downlink_bytes"] for each in rounds[3:]) / 2
            waited[name], asked[name] = bad - free, taken[name] / goodput
            print({"compressor": name, "free": free, "bad": bad, "asked": asked[name]})
    finally:
        link.free()
        federation.close()
    for name, wait in waited.items():
        assert wait == pytest.approx(asked[name], rel=0.25), (waited, asked)
    assert waited["mlmc"] / waited["dense"] == pytest.approx(taken["mlmc"] / taken["dense"], rel=0.25), (waited, taken)


@contextmanager
def paused(processes: list[int]) -> Iterator[None]:
    """Processes that stand still meanwhile."""
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
