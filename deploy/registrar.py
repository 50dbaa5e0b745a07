"""Who may take part: the public keys in DIR/nodes, registered with the SuperLink and struck off when a file goes."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .federation import DeployError
from .flower import flwr
from .supervise import Tell


@dataclass(frozen=True)
class Registered:
    """A node that the SuperLink knows: its key's digest and the SuperLink's number for it."""

    digest: str
    node_id: str


class Registrar:
    """Keeps the SuperLink's list of nodes equal to DIR/nodes."""

    def __init__(self, directory: Path, tell: Tell) -> None:
        self._directory, self._tell = directory, tell
        self._known = read_registered(directory)
        self._checked = False

    def reconcile(self) -> None:
        """Register new keys, unregister those that are gone; DeployError if the SuperLink refuses."""
        if not self._checked:  # the SuperLink's database may be younger than our list
            present = {node["node-id"] for node in list_nodes(self._directory) if node["status"] != "unregistered"}
            self._known = {name: node for name, node in self._known.items() if node.node_id in present}
            self._checked = True
        wanted = {path.stem: path for path in sorted((self._directory / "nodes").glob("*.pub"))}
        digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in wanted.items()}
        for name, node in list(self._known.items()):
            if digests.get(name) != node.digest:
                flwr(self._directory, ["supernode", "unregister", node.node_id], self._tell)
                del self._known[name]
                self._write()
        for name in sorted(wanted.keys() - self._known.keys()):
            if not wanted[name].exists():  # barred while others were let in
                continue
            arguments = ["supernode", "register", "--name", name, str(wanted[name])]
            answer = flwr(self._directory, arguments, self._tell)
            self._known[name] = Registered(digests[name], str(answer["node-id"]))
            self._write()

    def _write(self) -> None:
        path = _path(self._directory)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({name: vars(node) for name, node in self._known.items()}, indent=1) + "\n")
        os.replace(partial, path)


def read_registered(directory: Path) -> dict[str, Registered]:
    """The nodes registered so far, by name; DeployError if the file of them is damaged."""
    try:
        content = json.loads(_path(directory).read_text())
        return {name: Registered(**node) for name, node in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise DeployError(f"{_path(directory)} is damaged ({error}); delete it, and superlink.db beside it") from None


def list_nodes(directory: Path, tell: Tell | None = None) -> list[Mapping[str, str]]:
    """What `flwr supernode list` says of every node."""
    nodes: list[Mapping[str, str]] = flwr(directory, ["supernode", "list"], tell)["nodes"]
    return nodes


def _path(directory: Path) -> Path:
    return directory / "state" / "registered.json"
