"""Flower's own commands, as a deployment runs them: each is printed as it could be typed."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .federation import FEDERATION, DeployError, Federation, NodeSettings, split_address, toml
from .supervise import Tell

LEAST_FLWR = (1, 40)
"""Since then nodes speak HTTP, which the gate passes on; nodes have names since 1.38."""

CONNECTION = "federation"
"""The name of the SuperLink in the operator's settings."""


INSTALL = "`pip install -r clients/requirements-edge.txt` on a device, `pip install --editable .` on the server"

SETTINGS = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    # An upload that takes longer than 30 s is given up and sent again; two of these pass at 20 kB/s.
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": "262144",
}
"""What Flower's processes are told by their environment, beside FLWR_HOME."""


def check_flwr() -> None:
    """DeployError if flwr is missing, or older than what this deployment speaks."""
    least = ".".join(map(str, LEAST_FLWR))
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise DeployError(f"flwr is not installed in {sys.prefix}, {least} or newer is needed: {INSTALL}") from None
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < LEAST_FLWR:
        raise DeployError(f"flwr {found} is installed in {sys.prefix}, {least} or newer is needed: {INSTALL}")


def environment(home: Path) -> dict[str, str]:
    """The environment of Flower's commands, their settings and apps under `home`."""
    scripts = str(Path(sys.executable).parent)
    own = {
        "FLWR_HOME": str(home),
        "PATH": os.pathsep.join((scripts, os.environ.get("PATH", os.defpath))),  # Flower starts its parts by name
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the app comes as a bundle
    return {**inherited, **SETTINGS, **own}


def neutral(home: Path) -> Path:
    """An empty folder to run in: Flower's processes import from where they are started."""
    empty = home / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    return empty


def superlink_command(directory: Path, host: str, port: int) -> list[str]:
    """The SuperLink with TLS and node authentication."""
    files = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.crt", "--ssl-keyfile": "server.key"}
    tls = [part for option, name in files.items() for part in (option, str(directory / name))]
    database = str(directory / "state" / "superlink.db")
    where = ["--host", host, "--port", str(port)]
    return ["flower-superlink", *where, *tls, "--enable-supernode-auth", "--database", database]


def supernode_command(device: Path, settings: NodeSettings) -> list[str]:
    """The SuperNode of a device; its node config is written beside its state."""
    state = device / "state"
    config = {"partition-id": settings.client, "state-path": str(state / "memory")}
    if settings.tier:
        config["tier"] = settings.tier
    if settings.data_path:
        config["data-path"] = str(Path(settings.data_path).expanduser())
    if settings.weights:
        config["weights"] = str(Path(settings.weights).expanduser())
    if settings.uplink_budget:
        config["uplink-budget"] = settings.uplink_budget
    path = state / "node-config.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in config.items()), encoding="utf-8")
    identity = ["--root-certificates", str(device / "ca.crt"), "--auth-supernode-private-key", str(device / "node.key")]
    local = ["--host", "127.0.0.1", "--port", str(settings.port)]
    return ["flower-supernode", "--superlink", settings.server, *identity, *local, "--node-config", str(path)]


def operator_home(directory: Path, port: int | None = None) -> Path:
    """The FLWR_HOME of the operator's commands; with `port`, made anew for a SuperLink there."""
    home = directory / "state" / "operator"
    settings = home / "config.toml"
    if port is not None or not settings.exists():
        home.mkdir(parents=True, exist_ok=True)
        port = port or Federation.read(directory / FEDERATION).control_port
        link = f'address = "127.0.0.1:{port}"\nroot-certificates = {toml(str(directory / "ca.crt"))}\n'
        text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n{link}'
        settings.write_text(text, encoding="utf-8")
    return home


def wait_for_superlink(directory: Path, seconds: float = 60.0) -> None:
    """Return once the SuperLink of the federation answers; DeployError if it does not."""
    settings = tomllib.loads((operator_home(directory) / "config.toml").read_text(encoding="utf-8"))
    address = settings["superlink"][CONNECTION]["address"]
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(split_address(address), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise DeployError(
                    f"no SuperLink answers on {address} ({error.strerror or error}); is `fl-mlmc deploy server "
                    f"{directory}` running?"
                ) from None
            time.sleep(0.2)


def flwr(directory: Path, arguments: Sequence[str], tell: Tell | None = None) -> dict[str, Any]:
    """What `flwr ARGUMENTS --format json` answers on the federation in `directory`; DeployError if it fails."""
    home = operator_home(directory)
    command = ["flwr", *arguments, CONNECTION, "--format", "json"]
    if tell is not None:
        tell(spelled(command, home))
    try:
        done = subprocess.run(
            command,
            executable=executable("flwr"),
            cwd=neutral(home),
            env=environment(home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120.0,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeployError(f"`{shlex.join(command)}` did not end in two minutes") from None
    answer = _last_object(done.stdout)
    if not answer.get("success"):
        said = answer.get("error-message") or _plain(done.stdout + done.stderr)
        raise DeployError(f"`{shlex.join(command)}` exited with code {done.returncode}: {said.strip()}")
    return answer


def spelled(command: Sequence[str], home: Path) -> str:
    """A command as one could type it."""
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in {"FLWR_HOME": str(home), **SETTINGS}.items())
    return f"{settings} {shlex.join(command)}"


def executable(name: str) -> str:
    """Where Flower's command `name` is; DeployError if it is not installed."""
    found = shutil.which(name, path=environment(Path())["PATH"])
    if found is None:
        raise DeployError(f"no `{name}` beside {sys.executable} nor on PATH; install clients/requirements-edge.txt")
    return found


def _last_object(text: str) -> dict[str, Any]:
    # Some commands greet before they answer.
    plain = _plain(text)
    start = plain.find("{")
    try:
        answer = json.loads(plain[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
