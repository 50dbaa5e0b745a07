"""Words of a fixed number of bits: whole bytes apart, then a stream for each bit above them.

>>> words = np.array([1, 0x234, 0x3FF], "<u4")
>>> coded = encode_words(words, 10)
>>> coded.hex(" ")  # the lowest bytes, then bit 8 of the three and bit 9
'01 34 ff 04 06'
>>> [hex(word) for word in decode_words(coded, 3, 10)]
['0x1', '0x234', '0x3ff']
"""

import numpy as np

from .errors import WireError

_STRETCH = 1 << 16  # words that stay in the cache together; a multiple of 8


def words_length(size: int, width: int) -> int:
    """Bytes of `size` words of `width` bits."""
    return width // 8 * size + width % 8 * -(-size // 8)


def encode_words(words: np.ndarray, width: int, low: int = 0, head: bytes = b"") -> memoryview:
    """`head`, then `width` bits from bit `low` on of little-endian uint32 words: their whole bytes, upper bits last."""
    size, whole = words.size, width // 8
    out = np.empty(len(head) + words_length(size, width), np.uint8)
    out[: len(head)] = np.frombuffer(head, np.uint8)
    octets = out[len(head) : len(head) + whole * size].reshape(whole, size)
    planes = out[len(head) + whole * size :].reshape(width % 8, -(-size // 8))
    for start in range(0, size, _STRETCH):
        part = words[start : start + _STRETCH] >> np.uint32(low)
        for row in octets:
            row[start : start + _STRETCH] = part  # the lowest byte
            part >>= np.uint32(8)
        upper = part.astype(np.uint8)
        for bit in range(width % 8):
            plane = np.packbits(upper & np.uint8(1 << bit), bitorder="little")
            planes[bit, start // 8 : start // 8 + plane.size] = plane
    return out.data


def decode_words(body: memoryview, size: int, width: int) -> np.ndarray:
    """(size,) little-endian uint32 below 2^width; WireError unless `body` holds them and nothing else."""
    plane_length = -(-size // 8)
    if len(body) != words_length(size, width):
        raise WireError(f"block of {len(body)} bytes does not hold {size} words of {width} bits")
    words, start = np.zeros(size, "<u4"), 0
    octets = words.view(np.uint8).reshape(-1, 4)
    for place in range(width // 8):
        octets[:, place] = np.frombuffer(body[start : start + size], np.uint8)
        start += size
    for bit in range(width // 8 * 8, width):
        plane = np.unpackbits(np.frombuffer(body[start : start + plane_length], np.uint8), bitorder="little")
        if plane[size:].any():
            raise WireError("block of words has non-zero padding")
        octets[:, bit // 8] |= plane[:size] << np.uint8(bit % 8)
        start += plane_length
    return words
