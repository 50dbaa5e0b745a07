"""The keys of a federation: its own certificate authority, the server's certificate and one key pair a node.

Private files are made with mode 0600, and nothing that exists is ever written over.
"""

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ALWAYS = ("localhost", "127.0.0.1")
"""Names that every server certificate has, for the operator's commands and the gate."""

DAYS = 825  # what strict TLS clients accept for a server certificate
CA_DAYS = 3650

CURVE = ec.SECP384R1  # Flower takes NIST curves only


def create_authority(certificate: Path, key: Path) -> None:
    """A certificate authority that signs nothing but this federation's servers."""
    private = ec.generate_private_key(CURVE())
    name = _name("fl-mlmc federation CA")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    signed = (
        _builder(name, name, private.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA384())
    )
    write_private(key, _pem(private))
    write_public(certificate, signed.public_bytes(serialization.Encoding.PEM))


def create_server_certificate(
    authority: Path, authority_key: Path, certificate: Path, key: Path, hosts: Sequence[str]
) -> None:
    """A certificate for a server reached under `hosts` (DNS names or IP addresses), and on loopback."""
    issuer = x509.load_pem_x509_certificate(authority.read_bytes())
    issuer_key = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    private = ec.generate_private_key(CURVE())
    names = [_general_name(host) for host in dict.fromkeys((*hosts, *ALWAYS))]
    signed = (
        _builder(_name((*hosts, "localhost")[0]), issuer.subject, private.public_key(), DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    write_private(key, _pem(private))
    write_public(certificate, signed.public_bytes(serialization.Encoding.PEM))


def create_node_key(key: Path, public: Path) -> None:
    """The key pair of one node, in OpenSSH's formats, as Flower reads them."""
    private = ec.generate_private_key(CURVE())
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_private(key, text)
    line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    write_public(public, line + b"\n")


def write_private(path: Path, content: bytes) -> None:
    """Make a file that only its owner reads; FileExistsError if it is there."""
    _create(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Make a file that all may read; FileExistsError if it is there."""
    _create(path, content, 0o644)


def is_private(path: Path) -> bool:
    """Whether nobody but the owner has any right to the file."""
    return path.stat().st_mode & 0o077 == 0


def _create(path: Path, content: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # boards without a battery wake up in the past
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
