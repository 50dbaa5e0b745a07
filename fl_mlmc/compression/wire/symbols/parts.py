"""Streams that are parts of another one: two, one after the other, with the length of the first in front.

>>> data = join_parts(b"first", b"second")
>>> [bytes(part) for part in two_parts(memoryview(data))]
[b'first', b'second']
"""

import struct
from collections.abc import Callable

import numpy as np

from ..errors import WireError

EncodePart = Callable[[np.ndarray, int, np.ndarray | None], bytes]
"""Codes a part: (its symbols, their alphabet, how often each letter occurs or None)."""

DecodePart = Callable[[memoryview, int, int], np.ndarray]
"""Reads a part back: (its bytes, number of symbols, their alphabet)."""

_LENGTH = struct.Struct("<I")


def join_parts(first: bytes, second: bytes) -> bytes:
    """Both parts, and what tells them apart."""
    return b"".join([_LENGTH.pack(len(first)), first, second])


def two_parts(body: memoryview) -> tuple[memoryview, memoryview]:
    """The parts that were joined; WireError if `body` ends inside the first."""
    length = _LENGTH.unpack_from(body)[0] if len(body) >= _LENGTH.size else len(body)
    if length > len(body) - _LENGTH.size:
        raise WireError(f"symbol stream has a part of {length} bytes in a body of {len(body)}")
    return body[_LENGTH.size : _LENGTH.size + length], body[_LENGTH.size + length :]
