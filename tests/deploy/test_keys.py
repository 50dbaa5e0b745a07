"""Keys: who can read them, what they vouch for, and that none is ever written over."""

import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from fl_mlmc.deploy.cli import app
from fl_mlmc.deploy.federation import (
    DeployError,
    Federation,
    NodeSettings,
    add_node,
    check_private,
    init,
    parse_nodes,
    split_address,
)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    before = os.umask(0o000)  # the most careless
    try:
        init(tmp_path / "fed", ["192.0.2.7", "fl.example.org"], "0.0.0.0:9443", 9444, {0: "sensor", 1: ""})
    finally:
        os.umask(before)
    return tmp_path / "fed"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_files_are_their_owners_alone(made: Path) -> None:
    private = [*made.rglob("*.key")]
    assert {path.relative_to(made).as_posix() for path in private} == {
        "ca.key",
        "server.key",
        "devices/client-0/node.key",
        "devices/client-1/node.key",
    }
    assert {mode(path) for path in private} == {0o600}
    assert {mode(path) for path in (made, made / "state", made / "devices", made / "devices" / "client-0")} == {0o700}


def test_keys_in_a_clone_are_not_committed(made: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=made.parent, check=True)
    done = subprocess.run(["git", "status", "--short"], cwd=made.parent, check=True, capture_output=True, text=True)
    assert done.stdout == ""


def test_the_certificate_is_for_the_names_given_and_loopback_and_tls_trusts_it(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(made / "ca.crt"))
    server.load_cert_chain(made / "server.crt", made / "server.key")
    assert shake_hands(server, client, "fl.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"Hostname mismatch|doesn't match"):
        shake_hands(server, client, "evil.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, ssl.create_default_context(), "fl.example.org")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = set(ends)
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.discard(end)
            except ssl.SSLWantReadError:
                pass
    return not waiting


def test_node_keys_are_the_kind_that_flower_takes(made: Path) -> None:
    private = serialization.load_ssh_private_key((made / "devices/client-0/node.key").read_bytes(), password=None)
    public = serialization.load_ssh_public_key((made / "nodes/client-0.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.public_key() == public
    assert private.curve.name == "secp384r1"


def test_nothing_is_written_over(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    with pytest.raises(DeployError, match="exists and is not an empty folder; keys are never written over"):
        init(made, ["192.0.2.7"], "0.0.0.0:9443", 9444, {})
    with pytest.raises(DeployError, match="client 0 has keys already"):
        add_node(made, 0, "phone")
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_bad_name_leaves_nothing_behind(tmp_path: Path) -> None:
    for hosts in ([], ["bücher.example"], ["a b"], [""]):
        with pytest.raises(DeployError, match="--host"):
            init(tmp_path / "fed", hosts, "0.0.0.0:9443", 9444, {})
        assert not (tmp_path / "fed").exists()


def test_one_more_device(made: Path) -> None:
    add_node(made, 7, "gateway")
    settings = NodeSettings.read(made / "devices/client-7/node.toml")
    assert settings == NodeSettings("192.0.2.7:9443", 7, "gateway", port=9101)
    assert Federation.read(made / "federation.toml") == Federation("192.0.2.7:9443", "0.0.0.0:9443", 9444)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("server = 3", "server = 3, expected <class 'str'>"),
        ('server = "h:1"', "is incomplete"),
        ('server = "h:1"\nclient = 1\nteir = "x"', "unknown key 'teir'; known: server, client, tier"),
        ('server = "h"\nclient = 1', "an address is HOST:PORT"),
        ('server = "h:1"\nclient = -1', "client and uplink-budget are 0 or more"),
        ('server = "h:1"\nclient = true', "client = True, expected"),
        ("server =", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(DeployError, match=reason):
        NodeSettings.read(tmp_path / "node.toml")


def test_addresses_and_nodes_as_text() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("fl.example.org:9443") == ("fl.example.org", 9443)
    assert parse_nodes(["3:phone", "0"]) == {3: "phone", 0: ""}
    for text in ("x", "-1:a", ":a"):
        with pytest.raises(DeployError, match="CLIENT or CLIENT:TIER"):
            parse_nodes([text])
    with pytest.raises(DeployError, match="client 3 is given twice, the second time as '03:sensor'"):
        parse_nodes(["3:phone", "03:sensor"])
    for text in ("host", "host:0", "host:65536", "a:b:1", "host:"):
        with pytest.raises(DeployError, match="an address is HOST:PORT"):
            split_address(text)


def test_a_key_that_others_can_read_is_not_used(made: Path) -> None:
    check_private(made / "server.key")
    (made / "server.key").chmod(0o640)
    with pytest.raises(DeployError, match="mode 0640, others could read it: `chmod 600"):
        check_private(made / "server.key")


def test_the_command_reports_mistakes_in_one_line(made: Path) -> None:
    for arguments in (
        ["init", str(made), "--host", "x"],
        ["server", "/nowhere"],
        ["node", "/nowhere"],
        ["unit", "x", "."],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2
        assert done.output.startswith("error: ")


def test_units_run_the_commands_of_this_folder(made: Path) -> None:
    for kind in ("server", "node"):
        done = CliRunner().invoke(app, ["unit", kind, str(made), "--user", "fl"])
        assert f'-m fl_mlmc.deploy {kind} "{made}"' in done.output
        assert "User=fl" in done.output
        assert "$" not in done.output


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("kind", ["server", "node"])
def test_systemd_takes_the_units(made: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"fl-mlmc-{kind}.service"
    path.write_text(CliRunner().invoke(app, ["unit", kind, str(made), "--user", "root"]).output)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    # It also looks at what the machine's own units say, and exits with 0 at a key that it does not know.
    assert done.returncode == 0, done.stderr
    assert path.name not in done.stderr, done.stderr
