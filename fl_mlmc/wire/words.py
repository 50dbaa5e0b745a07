"""Words of a fixed number of bits: whole bytes apart, then a stream for each bit above them."""

import numpy as np

from .errors import WireError


def encode_words(words: np.ndarray, width: int) -> bytes:
    """Little-endian uint32 words of `width` bits: their whole bytes, upper bits last and each as a stream."""
    octets = words.view(np.uint8).reshape(-1, 4)
    whole = [octets[:, place].tobytes() for place in range(width // 8)]
    upper = octets[:, width // 8].copy()
    planes = (np.packbits(upper & np.uint8(1 << bit), bitorder="little") for bit in range(width % 8))
    return b"".join([*whole, *(plane.tobytes() for plane in planes)])


def decode_words(body: memoryview, size: int, width: int) -> np.ndarray:
    plane_length = -(-size // 8)
    if len(body) != width // 8 * size + width % 8 * plane_length:
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
