"""The two things that run for long: the server (SuperLink, gate and registrar) and a node."""

import signal
import socket
import ssl
import threading
import time
from pathlib import Path

from .federation import FEDERATION, NODE, DeployError, Federation, NodeSettings, check_private, split_address
from .flower import (
    check_flwr,
    environment,
    executable,
    neutral,
    operator_home,
    spelled,
    superlink_command,
    supernode_command,
)
from .gate import gate_server
from .registrar import Registrar
from .supervise import Supervisor, Tell, stop_on_signals

REGISTER_SECONDS = 3.0
LOOK_SECONDS = 5.0

REFUSED = (
    "If Flower says code 2004 above, the server does not know this node's key (is there nodes/client-N.pub in its "
    "folder, and is it of this federation?), or it takes the node for alive still, which it does for up to a minute"
)


def serve(directory: Path, tell: Tell, expose_control: bool = False) -> None:
    """Run the federation's server until SIGTERM or Ctrl-C."""
    check_flwr()
    federation = Federation.read(directory / FEDERATION)
    check_private(directory / "server.key")
    host, port = split_address(federation.listen)
    inner = ("127.0.0.1", federation.control_port)
    if expose_control:
        tell(
            f"WARNING: the Control API is open on {federation.listen}: who reaches that port, without any key, runs "
            "code on this machine and registers nodes. Leave --expose-control-api out, or keep it behind a firewall"
        )
        inner = (host, port)
    for address in {inner, (host, port)}:
        _check_free(*address, "is a server running already?")
    operator_home(directory, inner[1])
    home = directory / "state" / "superlink"
    command = superlink_command(directory, *inner)
    tell(spelled(command, home))
    executable(command[0])
    # A ServerApp outlives a crash of the SuperLink. Asked to end, a SuperLink waits for every log that is followed,
    # and a second one must not start beside it.
    superlink = Supervisor(command, neutral(home), environment(home), tell, is_survived=True, orphaned=signal.SIGKILL)
    registrar = threading.Thread(target=_register, args=(directory, inner[1], superlink, tell), daemon=True)
    if expose_control:
        stop_on_signals(superlink.stop)
        registrar.start()
        superlink.run()
        return
    tell(
        f"gate: https://{federation.listen}/v1/fleet/… -> https://127.0.0.1:{inner[1]}/v1/fleet/…, nothing else passes"
    )
    gate = gate_server(directory, host, port, inner[1])
    thread = threading.Thread(target=superlink.run)
    thread.start()
    registrar.start()
    try:
        gate.run()  # ends on SIGTERM and Ctrl-C
    finally:
        superlink.stop()
        thread.join()


def run_node(device: Path, settings: NodeSettings, tell: Tell) -> None:
    """Run the node of a device's folder until SIGTERM or Ctrl-C."""
    check_flwr()
    check_private(device / "node.key")
    if not (device / "ca.crt").is_file():
        raise DeployError(f"there is no {device / 'ca.crt'}; copy the whole folder that `fl-mlmc deploy init` made")
    if settings.data_path and not Path(settings.data_path).expanduser().exists():
        # Not an error: a disk may be mounted later, and the node tells the server why it has no update.
        tell(f"WARNING: data-path {settings.data_path} is not there; until it is, this node is left out of every round")
    _check_free("127.0.0.1", settings.port, "give this node a port of its own, --port or `port` in node.toml")
    if trouble := _look(settings.server, device / "ca.crt"):
        tell(f"WARNING: {trouble}")
    state = device / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    home = state / "flower"
    command = supernode_command(device, settings)
    tell(spelled(command, home))
    executable(command[0])
    node = Supervisor(command, neutral(home), environment(home), tell, REFUSED)
    stop_on_signals(node.stop)
    node.run()


def read_node(device: Path) -> NodeSettings:
    """The settings of a device's folder."""
    return NodeSettings.read(device / NODE)


def _register(directory: Path, port: int, superlink: Supervisor, tell: Tell) -> None:
    registrar = Registrar(directory, tell)
    seen: list[tuple[str, int]] | None = None
    said = ""
    while True:
        now = sorted((path.name, path.stat().st_mtime_ns) for path in (directory / "nodes").glob("*.pub"))
        if now != seen and _answers(port):
            try:
                registrar.reconcile()
                seen, said = now, ""
            except (DeployError, OSError) as error:
                if said != (said := str(error)):
                    tell(f"could not register nodes, trying again: {error}")
        time.sleep(REGISTER_SECONDS if seen is not None else 0.5)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _look(server: str, authority: Path) -> str:
    """What is wrong with the server at HOST:PORT, seen from here; empty if nothing is."""
    host, port = split_address(server)
    try:
        trust = ssl.create_default_context(cafile=authority)
        with (
            socket.create_connection((host, port), LOOK_SECONDS) as link,
            trust.wrap_socket(link, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return (
            f"the server at {server} shows a certificate that {authority} does not vouch for ({error.verify_message}): "
            "is this the folder of another federation, or the server's address none that `init --host` was given?"
        )
    except OSError as error:
        return (
            f"no server answers at {server} ({error.strerror or error}); the node tries on. Is `deploy server` running?"
        )


def _check_free(host: str, port: int, advice: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeployError(f"cannot listen on {host}:{port}: {error.strerror}; {advice}") from None
