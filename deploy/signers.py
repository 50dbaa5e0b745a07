"""Who signed a request: the node whose public key lies in DIR/nodes.

A node signs the time of each request with its key, and the SuperLink checks that. The gate does so before, on the head
alone: strangers never get to send a body, and a key that is taken out of DIR/nodes is worth nothing within a second.
"""

import time
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, verify_signature

from .clock import is_in_time, out_of_time

LOOK_SECONDS = 1.0

SIGNATURE = (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
"""The headers that bear a node's key, the time, and the key's signature of the time."""


class NotSigned(Exception):
    """A request that no node of the federation signed, or not in time; its text is for the node to read."""


class Keys:
    """The public keys in a folder; what is put there counts within a second, and so does what is taken away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looked = float("-inf")
        self._seen: list[tuple[str, int, int]] = []
        self._keys: dict[bytes, tuple[str, ec.EllipticCurvePublicKey]] = {}

    def signer(self, headers: Mapping[str, str]) -> str:
        """The node that signed a request with these headers, such as "client-3"; NotSigned if none did."""
        try:
            public = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            content = headers[TIMESTAMP_HEADER].encode("ascii")
            ahead = (datetime.fromisoformat(headers[TIMESTAMP_HEADER]) - now()).total_seconds()
        except (KeyError, ValueError, TypeError):  # a time without its zone is a TypeError
            raise NotSigned("the request is not signed as Flower's nodes sign theirs") from None
        self._look()
        if public not in self._keys:
            raise NotSigned("the server has no file nodes/client-N.pub with this node's public key")
        name, key = self._keys[public]
        if not verify_signature(key, content, signature):
            raise NotSigned("the signature is not of the key that is shown")
        if not is_in_time(ahead):
            raise NotSigned(out_of_time(ahead))
        return name

    def _look(self) -> None:
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        seen = []
        for path in sorted(self._folder.glob("*.pub")):
            with suppress(FileNotFoundError):  # taken away just now
                found = path.stat()
                seen.append((path.name, found.st_mtime_ns, found.st_size))
        if seen != self._seen:
            keys = {}
            for path in (self._folder / name for name, _, _ in seen):
                # What is no such key, Flower refuses to register, and the registrar says so.
                with suppress(FileNotFoundError, ValueError, UnsupportedAlgorithm):
                    key = load_ssh_public_key(path.read_bytes())
                    if isinstance(key, ec.EllipticCurvePublicKey):
                        keys[public_key_to_bytes(key)] = (path.stem, key)
            self._keys, self._seen = keys, seen
        self._looked = time.monotonic()
