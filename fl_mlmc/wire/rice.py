"""Golomb-Rice code of sorted indices: gaps split into a unary quotient and `shift` low bits.

Robert F. Rice (1979), after Golomb (1966). A sorted set of k indices below d becomes k gaps
g_0 = i_0, g_j = i_j - i_{j-1} - 1. The low `shift` bits of every gap form one stream, the quotients g >> shift in
unary (that many zeros, then a one) another, so both are numpy-vectorised: the ones of the unary stream stand at
cumsum(quotient + 1) - 1.
"""

import numpy as np

from .errors import WireError

IndexArray = np.ndarray  # int64, strictly increasing


def best_shift(gaps: np.ndarray, size: int) -> int:
    """The number of low bits, 0 to 31, that makes this index set shortest."""
    if gaps.size == 0:
        return 0
    guess = max(0, int(np.log2(max(size / gaps.size, 1))))
    candidates = range(max(0, guess - 3), min(31, guess + 1) + 1)
    return min(candidates, key=lambda shift: gaps.size * (shift + 1) + int((gaps >> shift).sum()))


def encode_indices(indices: IndexArray, size: int) -> tuple[int, bytes, bytes]:
    """(shift, low-bit stream, unary stream) of strictly increasing indices below `size`."""
    gaps = np.diff(indices, prepend=-1) - 1
    shift = best_shift(gaps, size)
    bits = (gaps[:, None] >> np.arange(shift)) & 1
    low = np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    ends = np.cumsum((gaps >> shift) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    return shift, low, np.packbits(unary, bitorder="little").tobytes()


def decode_indices(count: int, size: int, shift: int, low: bytes, unary: bytes) -> IndexArray:
    """The `count` indices below `size`; WireError if the streams are not exactly what `encode_indices` writes."""
    if len(unary) * 8 > count + (size >> shift) + 7:
        raise WireError(f"index stream has {len(unary)} bytes, too many for {count} indices below {size}")
    marks = np.unpackbits(np.frombuffer(unary, np.uint8), bitorder="little")
    ends = np.flatnonzero(marks)
    if ends.size != count:
        raise WireError(f"index stream names {ends.size} indices, its header says {count}")
    if len(unary) != (0 if count == 0 else int(ends[-1]) // 8 + 1):
        raise WireError("index stream has bytes after its last index")
    bits = np.unpackbits(np.frombuffer(low, np.uint8), bitorder="little")
    if bits[count * shift :].any():
        raise WireError("index stream has non-zero padding")
    remainders = bits[: count * shift].reshape(count, shift) @ (1 << np.arange(shift, dtype=np.int64))
    gaps = ((np.diff(ends, prepend=-1) - 1) << shift) + remainders
    indices = np.cumsum(gaps + 1) - 1
    if count and indices[-1] >= size:
        raise WireError(f"index {indices[-1]} is outside a vector of {size} coordinates")
    return indices
