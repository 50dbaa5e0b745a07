"""The two folders of a deployment: the server's, with its authority and list of nodes, and a device's.

DIR/                     on the server, mode 0700
  federation.toml        where the server listens, and under which names devices reach it
  ca.crt  ca.key         the certificate authority; ca.key may be kept offline
  server.crt server.key
  nodes/client-N.pub     a node's public key: who has a file here may take part as client N, nobody else
  devices/client-N/      to be moved onto the device
  state/                 SuperLink's database and settings

devices/client-N/
  node.toml              server, client number, tier, data path, uplink budget
  node.key  ca.crt
  state/                 client memory and settings; survives restarts
"""

import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from .keys import create_authority, create_node_key, create_server_certificate, is_private, write_public

FEDERATION, NODE = "federation.toml", "node.toml"
DEFAULT_PORT = 9443


class DeployError(ValueError):
    """A folder, option or process of a deployment that is not as it must be: says what was seen and what to do."""


class _Settings:
    """A frozen dataclass kept as a flat TOML file with dashed keys."""

    WHOSE: ClassVar[str]
    """What folder has such a file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The settings in a file; DeployError names what does not fit."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DeployError(f"there is no {path}; give {cls.WHOSE}, as `fl-mlmc deploy init` made it") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DeployError(f"{path} is not TOML: {error}") from None
        known = {field.name.replace("_", "-"): field for field in fields(cls)}  # type: ignore[arg-type]
        for key, value in content.items():
            if key not in known:
                raise DeployError(f"{path} has unknown key {key!r}; known: {', '.join(known)}")
            if type(value) is not known[key].type:
                raise DeployError(f"{path} has {key} = {value!r}, expected {known[key].type}")
        try:
            return cls(**{key.replace("-", "_"): value for key, value in content.items()})
        except TypeError as error:
            raise DeployError(f"{path} is incomplete: {error}") from None

    def to_toml(self) -> str:
        """The text of a file that `read` reads."""
        pairs = asdict(self).items()  # type: ignore[call-overload]
        return "".join(f"{key.replace('_', '-')} = {toml(value)}\n" for key, value in pairs)


@dataclass(frozen=True)
class Federation(_Settings):
    """What the server's folder says."""

    WHOSE: ClassVar[str] = "the server's folder"

    address: str
    """HOST:PORT under which devices reach the server."""
    listen: str = f"0.0.0.0:{DEFAULT_PORT}"
    """HOST:PORT that the gate listens on."""
    control_port: int = 9444
    """Where the SuperLink itself listens, on loopback."""
    connections: int = 1024
    """Connections from devices that the gate holds at a time; a node has three or four."""


@dataclass(frozen=True)
class NodeSettings(_Settings):
    """What a device's folder says."""

    WHOSE: ClassVar[str] = "a device's folder, devices/client-N of the server's"

    server: str
    """HOST:PORT of the server."""
    client: int
    """The client number, from 0."""
    tier: str = ""
    """One of the run's tiers, or "auto"; empty: as the run assigns."""
    data_path: str = ""
    """The device's own examples: a .csv or .parquet file or a folder of images; empty: what the run says."""
    uplink_budget: int = 0
    """Bytes that an update may have in a round; 0: any."""
    port: int = 9094
    """Where the node talks to its own parts, on loopback; nodes on one machine need one each."""
    weights: str = ""
    """The folder with the weights that the run's model starts from and never sends; empty: where the run says."""

    def __post_init__(self) -> None:
        if self.client < 0 or self.uplink_budget < 0:
            raise DeployError(f"client and uplink-budget are 0 or more, got {self.client} and {self.uplink_budget}")
        split_address(self.server)


def init(directory: Path, hosts: Sequence[str], listen: str, control_port: int, nodes: Mapping[int, str]) -> None:
    """Make the server's folder with keys for `nodes` (client number to tier); DeployError if it holds anything."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DeployError(f"{directory} exists and is not an empty folder; keys are never written over: choose another")
    if not hosts or not all(map(_is_host, hosts)):
        raise DeployError(
            f"--host takes the IP address or the DNS name that devices reach this machine by, got {', '.join(hosts)!r}"
        )
    _, port = split_address(listen)
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    for folder in ("nodes", "devices", "state"):
        (directory / folder).mkdir(mode=0o700)
    write_public(directory / ".gitignore", b"*\n")  # it may well lie in a clone, and holds keys
    ca = directory / "ca.crt", directory / "ca.key"
    create_authority(*ca)
    # Only the names that devices use; the listening address may be all of them.
    create_server_certificate(*ca, directory / "server.crt", directory / "server.key", hosts)
    address = f"[{hosts[0]}]:{port}" if ":" in hosts[0] else f"{hosts[0]}:{port}"
    write_public(directory / FEDERATION, Federation(address, listen, control_port).to_toml().encode())
    for client, tier in nodes.items():
        add_node(directory, client, tier)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", text) is not None
    return True


def add_node(directory: Path, client: int, tier: str) -> Path:
    """Make the keys and the folder of one more device; DeployError if the client has them already."""
    federation = Federation.read(directory / FEDERATION)
    check_authority(directory)
    name = node_name(client)
    device, public = directory / "devices" / name, directory / "nodes" / f"{name}.pub"
    if device.exists() or public.exists():
        raise DeployError(f"client {client} has keys already ({public}); keys are never written over")
    device.mkdir(mode=0o700)
    settings = NodeSettings(federation.address, client, tier, port=9094 + client % 1000)
    create_node_key(device / "node.key", public)
    write_public(device / "ca.crt", (directory / "ca.crt").read_bytes())
    write_public(device / NODE, settings.to_toml().encode())
    return device


def node_name(client: int) -> str:
    """The name that a client's node is registered under. The strategy holds a node to the client in its name."""
    return f"client-{client}"


def parse_nodes(texts: Iterable[str]) -> dict[int, str]:
    """{0: "sensor", 1: ""} from "0:sensor" and "1"; DeployError if one is said twice."""
    nodes: dict[int, str] = {}
    for text in texts:
        client, _, tier = text.partition(":")
        if not client.isdecimal():
            raise DeployError(f"a node is CLIENT or CLIENT:TIER, such as 0:sensor; got {text!r}")
        if int(client) in nodes:
            raise DeployError(f"client {int(client)} is given twice, the second time as {text!r}: give each once")
        nodes[int(client)] = tier
    return nodes


def split_address(text: str) -> tuple[str, int]:
    """("10.0.0.1", 9443) from "10.0.0.1:9443", ("::1", 9443) from "[::1]:9443"; DeployError on other texts."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:]+)\]|([^\[\]:]+)):(\d{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise DeployError(f"an address is HOST:PORT, such as 192.168.1.10:{DEFAULT_PORT}; got {text!r}")
    return match[1] or match[2], int(match[3])


def check_private(*paths: Path) -> None:
    """DeployError if a private file is missing, or open to others."""
    for path in paths:
        if not path.is_file():
            raise DeployError(f"there is no {path}; copy the whole folder that `fl-mlmc deploy init` made")
        if not is_private(path):
            mode = path.stat().st_mode & 0o777
            raise DeployError(f"{path} has mode {mode:04o}, others could read it: `chmod 600 {path}`")


def check_authority(directory: Path) -> None:
    """DeployError if the authority's key is open to others; it may as well be kept elsewhere."""
    if (directory / "ca.key").exists():
        check_private(directory / "ca.key")


def toml(value: Any) -> str:
    """A string or whole number as TOML spells it; DeployError on a string that does not print."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        if not escaped.isprintable():
            raise DeployError(f"{value!r} has characters that do not print")
        return f'"{escaped}"'
    return str(value)
