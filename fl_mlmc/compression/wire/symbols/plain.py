"""Mode 6: bit planes as they are, the lowest bit of every symbol first, each filled to a byte.

No code is longer than this one by more than the byte of its mode, so nothing that a writer sends is.

>>> symbols = np.array([0, 5, 2, 300], np.uint16)
>>> coded = encode_plain(symbols, 301)
>>> [format(byte, "04b")[::-1] for byte in coded]  # nine planes of four bits
['0100', '0010', '0101', '0001', '0000', '0001', '0000', '0000', '0001']
>>> decode_plain(memoryview(coded), 4, 301)
array([  0,   5,   2, 300], dtype=uint16)
"""

import numpy as np

from ..errors import WireError
from .packed import below, unpacked_bits


def plain_length(count: int, alphabet: int) -> int:
    """Bytes of `count` symbols below `alphabet`."""
    return (alphabet - 1).bit_length() * -(-count // 8)


def encode_plain(symbols: np.ndarray, alphabet: int) -> bytes:
    """`plain_length` bytes of unsigned `symbols` below `alphabet`."""
    bits = range((alphabet - 1).bit_length())
    planes = (np.packbits((symbols >> bit & 1).astype(np.uint8), bitorder="little") for bit in bits)
    return b"".join(plane.tobytes() for plane in planes)


def decode_plain(body: memoryview, count: int, alphabet: int) -> np.ndarray:
    """(count,) uint8, or uint16 above 256 letters."""
    width, length = (alphabet - 1).bit_length(), -(-count // 8)
    if len(body) != width * length:
        raise WireError(f"symbol stream has {len(body)} bytes, {count} symbols of {width} bits need {width * length}")
    dtype = np.uint16 if width > 8 else np.uint8
    symbols: np.ndarray = np.zeros(count, dtype)
    for bit in range(width):
        octets = np.frombuffer(body[bit * length : (bit + 1) * length], np.uint8)
        symbols |= np.left_shift(unpacked_bits(octets, count), bit, dtype=dtype)
    return below(symbols, alphabet)
