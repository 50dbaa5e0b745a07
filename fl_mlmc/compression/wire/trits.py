"""Digits 0, 1 and 2 at 485 bits for 306 of them, since 3^306 is just below 2^485: 1.58497 bits each, log2 3 is 1.58496.

Five in a byte take 1.6. A group is one number of 16 digits in base 3^20, and of 16 words of 32 bits; all groups are
converted together, digit by digit.
"""

import numpy as np

from .errors import WireError

_TRITS, _BITS = 306, 485
_BASE_TRITS, _NUM_DIGITS, _WORD = 20, 16, 32
_BASE = np.uint64(3**_BASE_TRITS)
_LOW = np.uint64(2**_WORD - 1)
_STRETCH = 1 << 11  # groups that are converted together


def num_grouped(size: int) -> int:
    """How many of `size` digits stand in whole groups."""
    return size // _TRITS * _TRITS


def trits_length(size: int) -> int:
    """Bytes of the whole groups among `size` digits."""
    return -(-(size // _TRITS) * _BITS // 8)


def encode_trits(symbols: np.ndarray) -> bytes:
    """The whole groups of uint8 `symbols` below 3."""
    groups = symbols[: num_grouped(symbols.size)].reshape(-1, _TRITS)
    bits = np.empty((len(groups), _BITS), np.uint8)
    for start in range(0, len(groups), _STRETCH):
        words = _words_of(groups[start : start + _STRETCH])
        bits[start : start + _STRETCH] = np.unpackbits(words.view(np.uint8), axis=1, count=_BITS, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def decode_trits(data: memoryview, size: int) -> np.ndarray:
    """The digits of the whole groups among `size`, from `trits_length(size)` bytes; WireError for other ones."""
    num_groups = size // _TRITS
    symbols, bits = np.empty((num_groups, _TRITS), np.uint8), np.frombuffer(data, np.uint8)
    spare = 8 * len(data) - num_groups * _BITS
    if spare and data[-1] >> 8 - spare:
        raise WireError("stream of ternary digits has non-zero padding")
    step = _STRETCH  # a multiple of 8 groups, which fill their bytes
    for start in range(0, num_groups, step):
        stop = min(start + step, num_groups)
        part = np.unpackbits(bits[start * _BITS // 8 : -(-stop * _BITS // 8)], bitorder="little")
        padded = np.zeros((stop - start, _NUM_DIGITS * _WORD), np.uint8)
        padded[:, :_BITS] = part[: (stop - start) * _BITS].reshape(-1, _BITS)
        symbols[start:stop] = _trits_of(np.packbits(padded, axis=1, bitorder="little").view("<u4"))
    return symbols.reshape(-1)


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
