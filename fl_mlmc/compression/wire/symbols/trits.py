r"""Mode 8: digits 0, 1 and 2 at 485 bits for 306 of them, since 3^306 is just below 2^485.

That is 1.58497 bits a digit where log2 3 is 1.58496; five in a byte take 1.6. A group of 306 is one number of 16 digits
in base 3^20, and of 16 words of 32 bits; all groups are converted together, digit by digit. Digits that are left over
stand as in mode 0.

>>> digits = np.zeros(308, np.uint8)
>>> digits[[0, 2, -1]] = 1
>>> coded = encode_trits(digits)
>>> int.from_bytes(coded[:61], "little"), coded[61:]  # 1 + 3^2, and 0 + 3 · 1
(10, b'\x03')
>>> np.flatnonzero(decode_trits(memoryview(coded), 308))
array([  0,   2, 307])
"""

import numpy as np

from ..errors import WireError
from .packed import decode_packed, encode_packed

_TRITS, _BITS = 306, 485
_BASE_TRITS, _NUM_DIGITS, _WORD = 20, 16, 32
_BASE = np.uint64(3**_BASE_TRITS)
_LOW = np.uint64(2**_WORD - 1)
_STRETCH = 1 << 11  # groups that are converted together; a multiple of 8, which fill their bytes


def encode_trits(symbols: np.ndarray) -> bytes:
    """uint8 `symbols` below 3."""
    grouped = symbols.size // _TRITS * _TRITS
    return _encode_groups(symbols[:grouped].reshape(-1, _TRITS)) + encode_packed(symbols[grouped:], 3)


def decode_trits(body: memoryview, count: int) -> np.ndarray:
    """(count,) uint8 below 3; WireError if `body` holds other ones."""
    num_groups = count // _TRITS
    grouped, end = num_groups * _TRITS, -(-num_groups * _BITS // 8)
    if len(body) < end:
        raise WireError(f"symbol stream has {len(body)} bytes, its ternary digits alone need {end}")
    symbols = np.empty(count, np.uint8)
    _decode_groups(body[:end], symbols[:grouped].reshape(-1, _TRITS))
    symbols[grouped:] = decode_packed(body[end:], count - grouped, 3)
    return symbols


def _encode_groups(groups: np.ndarray) -> bytes:
    """485 bits of every row of 306 digits, filled to a byte."""
    bits = np.empty((len(groups), _BITS), np.uint8)
    for start in range(0, len(groups), _STRETCH):
        words = _words_of(groups[start : start + _STRETCH])
        bits[start : start + _STRETCH] = np.unpackbits(words.view(np.uint8), axis=1, count=_BITS, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def _decode_groups(data: memoryview, groups: np.ndarray) -> None:
    """Fill the rows of `groups`; WireError where a number or the padding is none."""
    octets, spare = np.frombuffer(data, np.uint8), 8 * len(data) - len(groups) * _BITS
    if spare and data[-1] >> 8 - spare:
        raise WireError("stream of ternary digits has non-zero padding")
    for start in range(0, len(groups), _STRETCH):
        stop = min(start + _STRETCH, len(groups))
        part = octets[start * _BITS // 8 : -(-stop * _BITS // 8)]
        groups[start:stop] = _trits_of(_words_in(part, stop - start))


def _words_in(octets: np.ndarray, num_groups: int) -> np.ndarray:
    """(groups, 16) little-endian words of 32 bits, of 485 bits a group."""
    bits = np.unpackbits(octets, count=num_groups * _BITS, bitorder="little")
    padded = np.zeros((num_groups, _NUM_DIGITS * _WORD), np.uint8)
    padded[:, :_BITS] = bits.reshape(-1, _BITS)
    return np.packbits(padded, axis=1, bitorder="little").view("<u4")


def _words_of(groups: np.ndarray) -> np.ndarray:
    """(groups, 16) little-endian words of 32 bits, the lowest first."""
    padded = np.zeros((len(groups), _NUM_DIGITS * _BASE_TRITS), np.uint8)
    padded[:, :_TRITS] = groups
    places = padded.reshape(len(groups), _NUM_DIGITS, _BASE_TRITS)
    digits = np.zeros((_NUM_DIGITS, len(groups)), np.uint64)
    for place in reversed(range(_BASE_TRITS)):
        digits = digits * np.uint64(3) + places[:, :, place].T
    words = np.zeros((_NUM_DIGITS, len(groups)), np.uint64)
    for done, digit in enumerate(digits[::-1], start=1):
        carry = digit
        for word in words[:done]:
            product = word * _BASE + carry
            word[:] = product & _LOW
            carry = product >> np.uint64(_WORD)
    return np.ascontiguousarray(words.T.astype("<u4"))


def _trits_of(words: np.ndarray) -> np.ndarray:
    """(groups, 306) digits; WireError for numbers of 3^306 and more."""
    rest = np.ascontiguousarray(words.T).astype(np.uint64)
    digits = np.empty((_NUM_DIGITS, len(words)), np.uint32)
    for digit in range(_NUM_DIGITS):
        remainder = np.zeros(len(words), np.uint64)
        for word in rest[: _NUM_DIGITS - digit][::-1]:
            dividend = remainder << np.uint64(_WORD) | word
            word[:] = dividend // _BASE
            remainder = dividend - word * _BASE
        digits[digit] = remainder
    places = np.empty((len(words), _NUM_DIGITS, _BASE_TRITS), np.uint8)
    for place in range(_BASE_TRITS):
        digits, last = np.divmod(digits, np.uint32(3))
        places[:, :, place] = last.T
    padded = places.reshape(len(words), -1)
    if rest.any() or padded[:, _TRITS:].any():
        raise WireError("stream of ternary digits has a number beyond its digits")
    return padded[:, :_TRITS]
