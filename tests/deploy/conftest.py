"""A federation on loopback: the server and its nodes as processes, just as a user starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from fl_mlmc.deploy.federation import NodeSettings, add_node, init
from fl_mlmc.deploy.flower import environment, neutral, supernode_command
from fl_mlmc.deploy.registrar import read_registered
from fl_mlmc.deploy.supervise import die_with_parent

ROOT = Path(__file__).parents[2]

SCENARIO = """
seed = 3
num-rounds = 5
num-clients = 3
clients-per-round = 3
engine = "flower"
device = "cpu"
dataset = "digits"
model = "mlp(hidden=(16,))"
tiers = "sensor:0.25:0.34,phone:0.5:0.33,gateway:1.0:0.33"
compressor = "MLMC(TopK(fraction=0.2))"
local-steps = 20
learning-rate = 0.2
round-timeout = 600.0
"""


class Deployment:
    """One federation and all processes of it."""

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.directory, self.runs = directory / "fed", directory / "runs"
        self.host, self.port = host, free_port()
        self._logs = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._unsupervised: set[str] = set()
        init(self.directory, [host], f"{host}:{self.port}", free_port(), {})
        (directory / "scenario.toml").write_text(SCENARIO)

    def start_server(self) -> None:
        self._start("server", [sys.executable, "-m", "fl_mlmc.deploy", "server", str(self.directory)])
        self.wait("the gate", lambda: _answers(self.host, self.port))

    def add(self, *clients: int) -> None:
        """Make keys, and wait until the server lets them in: that saves nodes their first tries."""
        for client in clients:
            add_node(self.directory, client, "")
        names = {f"client-{client}" for client in clients}
        self.wait("registration", lambda: names <= read_registered(self.directory).keys())

    def start_node(self, client: int, tier: str, *options: str, prefix: Sequence[str] = ()) -> Path:
        """Start `deploy node` for a client that has its keys; the device's folder."""
        device = self.directory / "devices" / f"client-{client}"
        options = ("--tier", tier, "--port", str(free_port()), *options)
        command = [sys.executable, "-m", "fl_mlmc.deploy", "node", str(device), *options]
        self._start(f"node-{client}", [*prefix, *command])
        return device

    def start_patched_node(self, client: int, tier: str, patch: str) -> None:
        """Start Flower's own node command with `patch` run in each of its Python processes: a node that lies."""
        device = self.directory / "devices" / f"client-{client}"
        compile(patch, "sitecustomize.py", "exec")  # Python would go on without one that it cannot read
        (device / "state").mkdir()
        (device / "patch").mkdir()
        (device / "patch" / "sitecustomize.py").write_text(patch)
        settings = NodeSettings(f"127.0.0.1:{self.port}", client, tier, port=free_port())
        home = device / "state" / "flower"
        env = {**environment(home), "PYTHONPATH": str(device / "patch")}
        self._start(f"node-{client}", supernode_command(device, settings), neutral(home), env)
        self._unsupervised.add(f"node-{client}")

    def run(self, name: str, *settings: str, timeout: float = 1200.0) -> subprocess.CompletedProcess[str]:
        """`fl-mlmc deploy run` with config keys, to its end."""
        with suppress(subprocess.TimeoutExpired):
            return self._finish(self.submit(name, *settings), timeout)
        raise AssertionError(f"the run took longer than {timeout:g} s\n{self.logs()}")

    def submit(self, name: str, *settings: str) -> "subprocess.Popen[str]":
        given = [
            part for setting in (f"run-name={name}", f"runs-dir={self.runs}", *settings) for part in ("--set", setting)
        ]
        return self._cli(str(self._logs / "scenario.toml"), *given)

    def resume(self, name: str, timeout: float = 1200.0) -> subprocess.CompletedProcess[str]:
        return self._finish(self._cli("--resume", str(self.runs / name)), timeout)

    def rows(self, name: str, file: str = "clients.jsonl") -> list[dict[str, Any]]:
        path = self.runs / name / file
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def statuses(self, name: str, client: int) -> list[str]:
        return [row["status"] for row in self.rows(name) if row["client"] == client]

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self._logs.glob("*.log")
        )

    def process(self, name: str) -> "subprocess.Popen[bytes]":
        return self._processes[name]

    def find(self, name: str, command: str) -> list[int]:
        """The processes that `name` started, and those that they did, with `command` in their command line."""
        return [pid for pid in descendants(self._processes[name].pid) if command in command_line(pid)]

    def kill(self, name: str) -> None:
        """Pull the plug of a process and of all that it started."""
        for pid in [*descendants(self._processes[name].pid), self._processes[name].pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._processes.pop(name).wait()

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            assert time.monotonic() < deadline, f"no {what} after {seconds:g} s\n{self.logs()}"
            assert not ended, f"{ended} ended while waiting for {what}\n{self.logs()}"
            time.sleep(0.1)

    def close(self) -> None:
        family = {pid for process in self._processes.values() for pid in descendants(process.pid)}
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in self._unsupervised & self._processes.keys():  # what `deploy node` does for its own
            with suppress(ProcessLookupError):
                os.killpg(self._processes[name].pid, signal.SIGKILL)
        deadline = time.monotonic() + 60.0  # Flower's processes look for their parent every few seconds
        while (left := [pid for pid in family if _is_alive(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        outlived = [f"{pid} {command_line(pid)}" for pid in left]
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not outlived, "processes of the federation outlived it"

    def _cli(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "fl_mlmc.simulations.cli", "deploy", "run", str(self.directory), *arguments]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def _finish(self, process: "subprocess.Popen[str]", timeout: float) -> subprocess.CompletedProcess[str]:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _start(self, name: str, command: Sequence[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server that runs, without nodes; the tests of a file share it."""
    federation = Deployment(tmp_path_factory.mktemp("federation"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FL_MLMC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
            federation.start_server()
        yield federation
    finally:
        federation.close()


@pytest.fixture
def make_deployment() -> type[Deployment]:
    """For tests that say where the server listens."""
    return Deployment


@pytest.fixture(scope="session")
def sign() -> Callable[..., dict[str, str]]:
    """`sign(folder, client, ahead=0.0)`: the headers of a request that a client of a federation signs."""

    def headers(folder: Path, client: int, ahead: float = 0.0) -> dict[str, str]:
        key = load_ssh_private_key((folder / "devices" / f"client-{client}" / "node.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        timestamp = (now() + timedelta(seconds=ahead)).isoformat()
        return {
            "content-type": "application/protobuf",
            "flwr-public-key": b64encode(public_key_to_bytes(key.public_key())).decode(),
            "flwr-timestamp": timestamp,
            "flwr-signature": b64encode(sign_message(key, timestamp.encode())).decode(),
        }

    return headers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
