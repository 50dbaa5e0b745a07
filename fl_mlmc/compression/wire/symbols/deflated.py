"""Mode 1: the bytes of mode 0 through deflate (RFC 1951), whose Huffman stage is near the entropy of full bytes.

>>> from .packed import encode_packed
>>> symbols = np.arange(1000, dtype=np.uint8) // 125  # 0, …, 0, 1, …, 1, to 7
>>> packed = encode_packed(symbols, 8)
>>> coded = encode_deflated(packed, zlib.Z_RLE)
>>> len(packed), len(coded) < 50
(500, True)
>>> bool((decode_deflated(memoryview(coded), 1000, 8) == symbols).all())
True
"""

import zlib

import numpy as np

from ..errors import WireError
from .packed import decode_packed, packed_length

_RAW = -15  # zlib's name for deflate without a header, over a window of 2^15 bytes
_FASTEST, _MOST_MEMORY = 1, 9
_PIECE = 1 << 20  # bytes


def encode_deflated(packed: bytes, strategy: int = zlib.Z_HUFFMAN_ONLY) -> bytes:
    """Packed symbols as a deflate stream; with `zlib.Z_RLE` as its strategy, runs of a byte are found too."""
    coder = zlib.compressobj(_FASTEST, zlib.DEFLATED, _RAW, _MOST_MEMORY, strategy)
    # By the piece: growing one output would touch memory twice.
    pieces = [coder.compress(memoryview(packed)[start : start + _PIECE]) for start in range(0, len(packed), _PIECE)]
    return b"".join([*pieces, coder.flush()])


def decode_deflated(body: memoryview, count: int, alphabet: int) -> np.ndarray:
    """(count,) uint8 below `alphabet`, at most 256."""
    return decode_packed(memoryview(_inflate(body, packed_length(count, alphabet))), count, alphabet)


def _inflate(body: memoryview, length: int) -> bytes:
    """Exactly `length` bytes, or WireError; a bomb is cut off there."""
    coder = zlib.decompressobj(_RAW)
    try:
        out = coder.decompress(body, length) if length else b""
        more = coder.decompress(coder.unconsumed_tail if length else body, 1)
    except zlib.error as error:
        raise WireError(f"symbol stream is no deflate stream: {error}") from error
    if len(out) != length or more or not coder.eof or coder.unused_data:
        raise WireError(f"symbol stream does not inflate to {length} bytes")
    return out
