"""Mode 5: a few low bits of every symbol as they are, and a stream of the rest, of which several share a byte.

The low bits of wide bell-shaped letters are as good as even. Deflate then sees fewer bytes.

>>> from . import decode_symbols, encode_symbols
>>> symbols = np.array([17, 2, 31, 16], np.uint8)
>>> coded = encode_low_bits(symbols, np.bincount(symbols, minlength=32), 4, encode_symbols)
>>> coded[:3].hex(" ")  # four bits, of two symbols a byte
'04 f1 02'
>>> decode_symbols(memoryview(coded)[3:], 4, 2)
array([1, 0, 1, 1], dtype=uint8)
>>> decode_low_bits(memoryview(coded), 4, 32, decode_symbols)
array([17,  2, 31, 16], dtype=uint8)
"""

import numpy as np

from ..errors import WireError
from .packed import below, decode_packed, encode_packed, packed_length
from .parts import DecodePart, EncodePart

LEAST_LETTERS = 17
"""Smaller alphabets have two symbols in a byte already."""

WIDTHS = (4, 2, 1)
"""How many bits may be set apart: so many that they fill bytes."""


def encode_low_bits(symbols: np.ndarray, counts: np.ndarray, width: int, encode_part: EncodePart) -> bytes:
    """uint8 `symbols` of more than 16 letters that occur `counts` times, their `width` low bits set apart."""
    low = encode_packed(symbols & np.uint8((1 << width) - 1), 1 << width)
    rest = merged(counts, width)
    return bytes([width]) + low + encode_part(symbols >> np.uint8(width), rest.size, rest)


def decode_low_bits(body: memoryview, count: int, alphabet: int, decode_part: DecodePart) -> np.ndarray:
    """(count,) uint8 below `alphabet`."""
    width = body[0] if body else 0
    if width not in WIDTHS:
        raise WireError(f"symbol stream sets {width} low bits apart, expected 1, 2 or 4")
    end = 1 + packed_length(count, 1 << width)
    symbols = decode_part(body[end:], count, -(-alphabet >> width)).copy()
    symbols <<= np.uint8(width)
    symbols |= decode_packed(body[1:end], count, 1 << width)
    return below(symbols, alphabet)


def merged(counts: np.ndarray, width: int) -> np.ndarray:
    """How often each letter without its `width` low bits occurs."""
    return np.add.reduceat(counts, np.arange(0, counts.size, 1 << width))
