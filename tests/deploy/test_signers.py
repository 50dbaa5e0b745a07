"""Who signed: a node with a file in the folder, from the moment that it lies there to the moment that it is gone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_mlmc.deploy import signers
from fl_mlmc.deploy.federation import add_node, init
from fl_mlmc.deploy.signers import Keys, NotSigned

Sign = Callable[..., dict[str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(signers, "LOOK_SECONDS", 0.0)
    init(tmp_path / "fed", ["127.0.0.1"], "127.0.0.1:1", 2, {0: "", 1: ""})
    return tmp_path / "fed"


def test_a_node_is_known_by_its_key(folder: Path, sign: Sign) -> None:
    keys = Keys(folder / "nodes")
    assert [keys.signer(sign(folder, client)) for client in (0, 1, 0)] == ["client-0", "client-1", "client-0"]


def test_a_key_counts_as_long_as_its_file_is_there(folder: Path, sign: Sign) -> None:
    keys = Keys(folder / "nodes")
    add_node(folder, 2, "")
    assert keys.signer(sign(folder, 2)) == "client-2"
    (folder / "nodes" / "client-2.pub").unlink()
    with pytest.raises(NotSigned, match="no file"):
        keys.signer(sign(folder, 2))


def test_a_file_that_is_no_key_bars_nobody_else(folder: Path, sign: Sign) -> None:
    (folder / "nodes" / "client-1.pub").write_text("ssh-rsa x")
    (folder / "nodes" / "client-2.pub").write_bytes(b"\xff")
    keys = Keys(folder / "nodes")
    assert keys.signer(sign(folder, 0)) == "client-0"
    with pytest.raises(NotSigned, match="no file"):
        keys.signer(sign(folder, 1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flwr-public-key": "not base64!"}, "not signed as"),
        ({"flwr-signature": ""}, "not of the key"),
        ({"flwr-timestamp": "yesterday"}, "not signed as"),
        ({"flwr-timestamp": "2026-01-01T00:00:00"}, "not signed as"),
        ({"flwr-timestamp": "２０２６-01-01T00:00:00+00:00"}, "not signed as"),
        ({"flwr-timestamp": "2026-01-01T00:00:00+00:00"}, "not of the key"),
    ],
)
def test_what_is_not_signed_as_nodes_sign_is_refused(
    folder: Path, sign: Sign, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(NotSigned, match=said):
        Keys(folder / "nodes").signer({**sign(folder, 0), **changes})


@pytest.mark.parametrize(("ahead", "is_in_time"), [(4.0, True), (6.0, False), (-300.0, True), (-306.0, False)])
def test_a_clock_is_taken_as_flower_takes_it(folder: Path, sign: Sign, ahead: float, is_in_time: bool) -> None:
    keys = Keys(folder / "nodes")
    if is_in_time:
        assert keys.signer(sign(folder, 0, ahead)) == "client-0"
    else:
        with pytest.raises(NotSigned, match="this machine's clock is"):
            keys.signer(sign(folder, 0, ahead))
