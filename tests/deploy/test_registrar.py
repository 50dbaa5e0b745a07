"""The SuperLink's list of nodes follows the folder of keys."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fl_mlmc.deploy import registrar
from fl_mlmc.deploy.federation import DeployError, add_node, init
from fl_mlmc.deploy.registrar import Registered, Registrar, read_registered


class FakeLink:
    """`flwr supernode register | unregister | list`, and what was asked of it."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.asked: list[str] = []

    def __call__(self, directory: Path, arguments: Sequence[str], tell: object = None) -> dict[str, Any]:
        _, verb, *rest = arguments
        self.asked.append(" ".join([verb, *rest[:2]]) if verb == "register" else " ".join([verb, *rest]))
        if verb == "register":
            node_id = str(100 + len(self.asked))
            self.nodes[node_id] = "registered"
            return {"node-id": node_id}
        if verb == "unregister":
            self.nodes[rest[0]] = "unregistered"
        return {"nodes": [{"node-id": node, "status": status} for node, status in self.nodes.items()]}

    def changes(self) -> list[str]:
        """What was asked since the last look, but for lists."""
        asked, self.asked = [text for text in self.asked if text != "list"], []
        return asked


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> FakeLink:
    link = FakeLink()
    monkeypatch.setattr(registrar, "flwr", link)
    return link


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {0: "", 1: ""})
    return tmp_path / "fed"


def test_new_keys_are_registered_once_and_those_that_are_gone_are_struck_off(folder: Path, link: FakeLink) -> None:
    keeper = Registrar(folder, print)
    keeper.reconcile()
    assert link.changes() == ["register --name client-0", "register --name client-1"]
    add_node(folder, 2, "")
    (folder / "nodes" / "client-0.pub").unlink()
    barred = read_registered(folder)["client-0"].node_id
    keeper.reconcile()
    assert link.changes() == [f"unregister {barred}", "register --name client-2"]
    assert read_registered(folder).keys() == {"client-1", "client-2"}
    keeper.reconcile()
    assert link.changes() == []


def test_another_key_of_the_same_client_takes_the_place_of_the_old_one(folder: Path, link: FakeLink) -> None:
    Registrar(folder, print).reconcile()
    link.changes()
    old = read_registered(folder)["client-0"].node_id
    (folder / "nodes" / "client-0.pub").write_bytes((folder / "nodes" / "client-1.pub").read_bytes() + b"\n")
    Registrar(folder, print).reconcile()
    assert link.changes() == [f"unregister {old}", "register --name client-0"]


def test_a_list_older_than_the_superlinks_database_is_not_believed(folder: Path, link: FakeLink) -> None:
    Registrar(folder, print).reconcile()
    link.nodes.clear()
    link.changes()
    Registrar(folder, print).reconcile()
    assert link.changes() == ["register --name client-0", "register --name client-1"]


def test_a_refusal_half_way_loses_nobody(folder: Path, link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(directory: Path, arguments: Sequence[str], tell: object = None) -> dict[str, Any]:
        if "client-1" in arguments:
            raise DeployError("no")
        return link(directory, arguments, tell)

    monkeypatch.setattr(registrar, "flwr", refusing)
    keeper = Registrar(folder, print)
    with pytest.raises(DeployError, match="no"):
        keeper.reconcile()
    monkeypatch.setattr(registrar, "flwr", link)
    link.changes()
    keeper.reconcile()
    assert link.changes() == ["register --name client-1"]
    assert all(isinstance(node, Registered) for node in read_registered(folder).values())


def test_a_damaged_list_is_named(folder: Path) -> None:
    (folder / "state" / "registered.json").write_text("{")
    with pytest.raises(DeployError, match=r"registered.json is damaged .*; delete it, and superlink.db beside it"):
        Registrar(folder, print)
