"""Mode 4: symbols of more than 256 letters as two streams, of their low bytes and of their high ones.

>>> from . import decode_symbols, encode_symbols
>>> symbols = np.array([1, 258, 3, 600], np.uint16)
>>> coded = encode_planes(symbols, 700, encode_symbols)
>>> low, high = two_parts(memoryview(coded))
>>> decode_symbols(low, 4, 256), decode_symbols(high, 4, 3)
(array([ 1,  2,  3, 88], dtype=uint8), array([0, 1, 0, 2], dtype=uint8))
>>> decode_planes(memoryview(coded), 4, 700, decode_symbols)
array([  1, 258,   3, 600], dtype=uint16)
"""

import numpy as np

from .packed import BYTE, below
from .parts import DecodePart, EncodePart, join_parts, two_parts


def encode_planes(symbols: np.ndarray, alphabet: int, encode_part: EncodePart) -> bytes:
    """uint16 `symbols` below `alphabet`, more than 256."""
    low, high = (symbols & (BYTE - 1)).astype(np.uint8), (symbols >> 8).astype(np.uint8)
    return join_parts(encode_part(low, BYTE, None), encode_part(high, -(-alphabet // BYTE), None))


def decode_planes(body: memoryview, count: int, alphabet: int, decode_part: DecodePart) -> np.ndarray:
    """(count,) uint16 below `alphabet`, more than 256."""
    low, high = two_parts(body)
    low_bytes = decode_part(low, count, BYTE)
    symbols = decode_part(high, count, -(-alphabet // BYTE)).astype(np.uint16)
    symbols <<= 8
    symbols |= low_bytes
    return below(symbols, alphabet)
