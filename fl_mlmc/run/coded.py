"""A reply whose arrays travel as an update of those that were sent: what `compressed` and `Decoding` say to each other.

The reply of a Flower ClientApp keeps its records. An array that is as it was received leaves them, and so does one of
floating point that is not: all these updates, after − before, are one payload in the record `UPDATE`. The rest travels
as it is. A `CodedUpdate` in the record `FACTS` says which is which.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from .protocol import MOST, MOST_BITS, MOST_DRAWS, ProtocolError, Record, Seconds
from .ranges import Between, ListOf, Text

UPDATE, FACTS = "fl_mlmc.update", "fl_mlmc.facts"
HINTS = "fl_mlmc"
"""The config record that `Decoding` adds to a message, where nothing in it tells the round."""
SERVER_ROUND = "server-round"
"""The key, of any config record of a message, by which Flower's strategies tell the round."""

MOST_ARRAYS = 2**20


@dataclass(frozen=True)
class CodedUpdate(Record):
    """What a client says of its update, beside the payload."""

    client: Annotated[int, Between(0, 2**64)]
    """Its number, as its node's config has it, or its node's id: the draws of the compressor are its own."""
    compressor: Annotated[str, Text(2000)]
    plain_bytes: Annotated[int, Between(0, 2**62)]
    """What the reply's records held before, by Flower's count."""
    encode_seconds: Seconds
    expected_bits: Annotated[float, Between(0, MOST_BITS)]
    levels: Annotated[list, ListOf(int, Between(1, MOST), MOST_DRAWS)]
    probabilities: Annotated[list, ListOf(float, Between(0, 1, is_open=True), MOST_DRAWS)]
    coded: Annotated[bytes, Text(MOST_ARRAYS, has_lines=True)] = b""
    """Flags of the arrays that were sent, in their order: whether the payload holds an update of the array."""
    kept: Annotated[bytes, Text(MOST_ARRAYS, has_lines=True)] = b""
    """Likewise: whether the array is as it was received, and nothing of it travels."""


def pack_flags(flags: Sequence[bool]) -> bytes:
    """A bit a flag, the first one the highest; as many bytes as that takes."""
    return np.packbits(np.array(flags, bool)).tobytes()


def unpack_flags(data: bytes, count: int) -> list[bool]:
    """`count` flags; ProtocolError unless `data` holds just as many."""
    if len(data) != (count + 7) // 8:
        raise ProtocolError(
            f"its flags take {len(data)} bytes, those of the {count} arrays sent take {(count + 7) // 8}"
        )
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(bool).tolist()


def num_bytes(records: Iterable[Mapping[str, Any]]) -> int:
    """What Flower's records hold: names, and numbers of 8 bytes, booleans of one, texts, arrays.

    Flower's own count where it has one; it has none for empty texts and lists.
    """
    return sum(len(key) + _size(value) for record in records for key, value in record.items())


def _size(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_size, value))
    if isinstance(value, bool):
        return 1
    return len(value) if isinstance(value, str | bytes) else len(value.data) if hasattr(value, "data") else 8


def counterparts(sent: Iterable[str], replied: Iterable[str]) -> dict[str, str]:
    """By name of a reply's record of arrays, the record that it answers: that of its name.

    Where one was sent and one came back, they belong together whatever they are called.
    """
    there, here = list(sent), list(replied)
    if len(there) == len(here) == 1:
        return {here[0]: there[0]}
    return {name: name for name in here if name in there}


TIERS, WIDTH = "tiers", "width"
"""Keys of `HINTS`: the run's tiers, as `Decoding` has them, and the width that the arrays have been cut to already."""
TIER = "fl_mlmc.tier"
"""The config record of a reply, by the mod `submodel`, with the `WIDTH` of what it trained."""
