"""The two things that run for long: the server (SuperLink, gate and registrar) and a node."""

import signal
import socket
from functools import partial
from pathlib import Path

from .federation import (
    FEDERATION,
    NODE,
    DeployError,
    Federation,
    NodeSettings,
    check_authority,
    check_private,
    split_address,
)
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
from .limits import Limits, raise_file_limit
from .look import look
from .parts import Parts
from .registrar import Registrar
from .supervise import Supervisor, Tell, stop_on_signals

REGISTER_SECONDS = 3.0
PATIENCE_SECONDS = {"superlink": 60.0, "registrar": 180.0, "gate": 15.0}
"""How long each part may show no sign of life; a command of Flower's may take two minutes."""

REFUSED = (
    "If Flower says code 2004 above, the server does not know this node's key (is there nodes/client-N.pub in its "
    "folder, and is it of this federation?), or it takes the node for alive still, which it does for up to a minute"
)


def serve(directory: Path, tell: Tell, expose_control: bool = False) -> None:
    """Run the federation's server until SIGTERM or Ctrl-C."""
    check_flwr()
    federation = Federation.read(directory / FEDERATION)
    check_private(directory / "server.key")
    check_authority(directory)
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
    limits = limits_of(federation)
    parts = Parts(directory, tell)
    # A ServerApp outlives a crash of the SuperLink. Asked to end, a SuperLink waits for every log that is followed,
    # and a second one must not start beside it.
    superlink = Supervisor(
        command,
        neutral(home),
        environment(home),
        tell,
        is_survived=True,
        orphaned=signal.SIGKILL,
        beat=partial(parts.beat, "superlink"),
    )
    stop_on_signals(superlink.stop, parts.stop)
    parts.start("superlink", superlink.run, PATIENCE_SECONDS["superlink"])
    parts.start("registrar", partial(_register, directory, inner[1], parts, tell), PATIENCE_SECONDS["registrar"])
    try:
        if expose_control:
            while not parts.is_stopped:
                parts.wait(1.0)
        else:
            _keep_gate(directory, host, port, inner[1], limits, parts, tell)
    finally:
        superlink.stop()
        parts.stop()
        parts.join()


def limits_of(federation: Federation) -> Limits:
    """What the gate of a federation grants, with as many descriptors as this process may have."""
    return Limits(connections=federation.connections).within(raise_file_limit())


def _keep_gate(
    directory: Path, host: str, port: int, superlink_port: int, limits: Limits, parts: Parts, tell: Tell
) -> None:
    """Run the gate in this thread, the one that hears of signals, until one comes."""
    from .gate import Gate, gate_server, superlink_client  # brings flwr's parts of a server, which nodes do without
    from .signers import Keys

    tell(
        f"gate: https://{host}:{port}/v1/fleet/… -> https://127.0.0.1:{superlink_port}/v1/fleet/…, nothing else "
        f"passes; at most {limits.connections} connections"
    )
    gate = Gate(Keys(directory / "nodes"), limits, tell)

    def run() -> None:
        app = gate.app(superlink_client(directory, superlink_port, limits), partial(parts.beat, "gate"))
        gate_server(app, directory, host, port, limits).run()  # ends at SIGTERM and Ctrl-C, and passes them on

    parts.run("gate", run, PATIENCE_SECONDS["gate"])


def run_node(device: Path, settings: NodeSettings, tell: Tell) -> None:
    """Run the node of a device's folder until SIGTERM or Ctrl-C; DeployError if what it needs is not there."""
    check_flwr()
    check_private(device / "node.key")
    if not (device / "ca.crt").is_file():
        raise DeployError(f"there is no {device / 'ca.crt'}; copy the whole folder that `fl-mlmc deploy init` made")
    if settings.data_path and not Path(settings.data_path).expanduser().exists():
        # Not an error: a disk may be mounted later, and the node tells the server why it has no update.
        tell(f"WARNING: data-path {settings.data_path} is not there; until it is, this node is left out of every round")
    _check_free("127.0.0.1", settings.port, "give this node a port of its own, --port or `port` in node.toml")
    authority = device / "ca.crt"
    if trouble := look(settings.server, authority):
        tell(f"WARNING: {trouble}")
    state = device / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    home = state / "flower"
    command = supernode_command(device, settings)
    tell(spelled(command, home))
    executable(command[0])

    def advice() -> str:
        trouble = look(settings.server, authority)
        return f"WARNING: {trouble}\n{REFUSED}" if trouble else REFUSED

    node = Supervisor(command, neutral(home), environment(home), tell, advice)
    stop_on_signals(node.stop)
    node.run()


def read_node(device: Path) -> NodeSettings:
    """The settings of a device's folder."""
    return NodeSettings.read(device / NODE)


def _register(directory: Path, port: int, parts: Parts, tell: Tell) -> None:
    registrar = Registrar(directory, tell)
    seen: list[tuple[str, int]] | None = None
    said = ""
    while not parts.is_stopped:
        parts.beat("registrar")
        try:
            now = sorted((path.name, path.stat().st_mtime_ns) for path in (directory / "nodes").glob("*.pub"))
            if now != seen and _answers(port):
                registrar.reconcile()
                seen, said = now, ""
        except (DeployError, OSError) as error:
            if said != (said := str(error)):
                tell(f"could not register nodes, trying again: {error}")
        parts.wait(REGISTER_SECONDS if seen is not None else 0.5)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _check_free(host: str, port: int, advice: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeployError(f"cannot listen on {host}:{port}: {error.strerror}; {advice}") from None
