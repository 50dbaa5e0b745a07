"""Mode 0: several symbols a byte, as many as fit: 8 of two letters, 5 of three, 3 of six, 2 of sixteen.

With more than 16 letters a byte holds one symbol, with one letter there is nothing to write. Otherwise digit r of byte
i, in base K, is symbol r · (number of bytes) + i; two letters are bits in their order.

>>> symbols = np.array([2, 0, 1, 1, 0, 2, 1], np.uint8)
>>> coded = encode_packed(symbols, 3)
>>> [int(np.base_repr(byte, 3)) for byte in coded]  # symbols 6, 4, 2, 0 and 5, 3, 1
[1012, 210]
>>> decode_packed(memoryview(coded), 7, 3)
array([2, 0, 1, 1, 0, 2, 1], dtype=uint8)
"""

import numpy as np

from ..errors import WireError

_STRETCH = 1 << 16  # symbols that are looked up together

BYTE = 256
"""Values of a byte: symbols of no more letters are uint8, those of larger alphabets uint16."""


def per_byte(alphabet: int) -> int:
    """How many symbols share a byte: the largest g with alphabet^g ≤ 256."""
    group = 1
    while alphabet > 1 and alphabet ** (group + 1) <= BYTE:
        group += 1
    return group


def packed_length(count: int, alphabet: int) -> int:
    """Bytes of `count` symbols below `alphabet`."""
    return 0 if alphabet == 1 else -(-count // per_byte(alphabet))


def encode_packed(symbols: np.ndarray, alphabet: int) -> bytes:
    """`packed_length` bytes of uint8 `symbols` below `alphabet`, at most 256."""
    group, length = per_byte(alphabet), packed_length(symbols.size, alphabet)
    if length == 0:
        return b""
    if alphabet == 2:
        return np.packbits(symbols, bitorder="little").tobytes()
    if group == 1:
        return symbols.tobytes()
    # Whole rows of digits are added, which numpy does fast; the last one is short.
    out = np.zeros(length, np.uint8)
    for start in range((group - 1) * length, -1, -length):
        row = symbols[start : start + length]
        out *= np.uint8(alphabet)
        out[: row.size] += row
    return out.tobytes()


def decode_packed(body: memoryview, count: int, alphabet: int) -> np.ndarray:
    """(count,) uint8 below `alphabet`, at most 256."""
    group, length = per_byte(alphabet), packed_length(count, alphabet)
    if len(body) != length:
        raise WireError(f"symbol stream has {len(body)} bytes, {count} symbols of {alphabet} kinds need {length}")
    if alphabet == 1:
        return np.zeros(count, np.uint8)
    octets = np.frombuffer(body, np.uint8)
    if alphabet == 2:
        return unpacked_bits(octets, count)
    if group == 1:
        return below(octets, alphabet)
    digits = np.empty((group, length), np.uint8)
    for row in digits[:-1]:
        octets, row[:] = np.divmod(octets, np.uint8(alphabet))
    digits[-1] = octets
    symbols = digits.reshape(-1)
    if symbols[count:].any():
        raise WireError("symbol stream has non-zero padding")
    return below(symbols, alphabet)[:count]


def unpacked_bits(octets: np.ndarray, count: int) -> np.ndarray:
    """(count,) uint8, 0 or 1, of bytes that hold 8 each, the lowest bit first; WireError unless the others are 0."""
    bits = np.unpackbits(octets, bitorder="little")
    if bits[count:].any():
        raise WireError("symbol stream has non-zero padding")
    return bits[:count]


def translated(symbols: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[symbol], or 0 for a symbol beyond it; faster than numpy's way, which makes indices of all symbols."""
    whole = table.tobytes().ljust(BYTE, b"\0")
    if symbols.size <= _STRETCH:
        return np.frombuffer(bytearray(symbols).translate(whole), np.uint8)
    out = np.empty(symbols.size, np.uint8)
    for start in range(0, symbols.size, _STRETCH):
        part = symbols[start : start + _STRETCH]
        out[start : start + _STRETCH] = np.frombuffer(bytearray(part).translate(whole), np.uint8)
    return out


def below(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """The symbols themselves; WireError unless all are below `alphabet`."""
    if symbols.size and symbols.max() >= alphabet:
        raise WireError(f"symbol stream has symbol {symbols.max()}, its alphabet has {alphabet}")
    return symbols
