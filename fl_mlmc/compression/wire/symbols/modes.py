"""The modes of a symbol stream: their numbers, the streams that may be in each, and how they are read back."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from ..errors import WireError
from ..limits import Budget
from .deflated import decode_deflated
from .lanes import MOST_LETTERS, decode_lanes
from .low_bits import LEAST_LETTERS, decode_low_bits
from .packed import BYTE, decode_packed
from .plain import decode_plain
from .planes import decode_planes
from .positions import decode_positions
from .rans import decode_rans
from .split import decode_split
from .trits import decode_trits

PACKED, DEFLATED, POSITIONS, SPLIT, PLANES, LOW_BITS, PLAIN, RANS, TRITS, LANES = range(10)

_ANY = 1 << 16  # letters that uint16 counts

MAX_DEPTH = 2
"""Streams that are parts of parts of a stream have no parts of modes 3 and 5."""


@dataclass(frozen=True)
class Stream:
    """What a reader knows before the first byte: `count` symbols below `alphabet`, inside `depth` streams in parts.

    `budget` is what the payload has left.
    """

    count: int
    alphabet: int
    budget: Budget
    depth: int = 0

    def decode(self, data: memoryview) -> np.ndarray:
        """(count,) uint8, or uint16 above 256 letters: the symbols in `data`; WireError if it holds other ones."""
        if not data:
            raise WireError("symbol stream is empty, expected at least its mode")
        mode = MODES.get(data[0])
        if mode is None or not mode.least <= self.alphabet <= mode.most or self.depth + mode.deeper > MAX_DEPTH:
            raise WireError(
                f"symbol stream has mode {data[0]}, which {self.alphabet} symbols at depth {self.depth} cannot have"
            )
        return mode.decode(data[1:], replace(self, depth=self.depth + mode.deeper))

    def part(self, data: memoryview, count: int, alphabet: int) -> np.ndarray:
        """The `count` symbols below `alphabet` of a stream that is a part of this one."""
        return replace(self, count=count, alphabet=alphabet).decode(data)


@dataclass(frozen=True)
class Mode:
    """One way to write symbols: for alphabets of `least` to `most` letters."""

    least: int
    most: int
    decode: Callable[[memoryview, Stream], np.ndarray]
    """Reads what follows the byte of the mode."""
    deeper: int = 0
    """1 where the parts of a stream in this mode count as inside it."""


MODES = MappingProxyType(
    {
        PACKED: Mode(1, BYTE, lambda body, of: decode_packed(body, of.count, of.alphabet)),
        DEFLATED: Mode(1, BYTE, lambda body, of: decode_deflated(body, of.count, of.alphabet)),
        POSITIONS: Mode(2, 2, lambda body, of: decode_positions(body, of.count)),
        SPLIT: Mode(3, BYTE, lambda body, of: decode_split(body, of.count, of.alphabet, of.part), deeper=1),
        PLANES: Mode(BYTE + 1, _ANY, lambda body, of: decode_planes(body, of.count, of.alphabet, of.part)),
        LOW_BITS: Mode(
            LEAST_LETTERS, BYTE, lambda body, of: decode_low_bits(body, of.count, of.alphabet, of.part), deeper=1
        ),
        PLAIN: Mode(1, _ANY, lambda body, of: decode_plain(body, of.count, of.alphabet)),
        RANS: Mode(1, BYTE, lambda body, of: decode_rans(body, of.count, of.alphabet, of.budget)),
        TRITS: Mode(3, 3, lambda body, of: decode_trits(body, of.count)),
        LANES: Mode(1, MOST_LETTERS, lambda body, of: decode_lanes(body, of.count, of.alphabet, of.budget)),
    }
)


def decode_symbols(data: memoryview, count: int, alphabet: int, budget: Budget | None = None) -> np.ndarray:
    """(count,) uint8, or uint16 above 256 letters: the symbols below `alphabet` in `data`.

    WireError if `data` holds anything else, or costs more than `budget`, which is that of `count` coordinates where
    none is given.
    """
    return Stream(count, alphabet, budget or Budget(count)).decode(data)
