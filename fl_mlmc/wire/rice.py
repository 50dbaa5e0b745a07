"""Golomb-Rice code of sorted indices: gaps split into a unary quotient and `shift` low bits.

Robert F. Rice (1979), after Golomb (1966). A sorted set of k indices below d becomes k gaps
g_0 = i_0, g_j = i_j - i_{j-1} - 1. The low `shift` bits of every gap form one stream, the quotients g >> shift in
unary (that many zeros, then a one) another, so both are numpy-vectorised: the ones of the unary stream stand at
cumsum(quotient + 1) - 1.
"""

import numpy as np

from .errors import WireError

IndexArray = np.ndarray  # int64, strictly increasing


_CHUNK = 1 << 16  # gaps unpacked to bits at a time


def largest_shift(count: int, size: int) -> int:
    """No sensible code of `count` gaps below `size` has more low bits than this."""
    return min(31, (size // max(count, 1)).bit_length() + 1)


def best_shift(gaps: np.ndarray, size: int) -> int:
    """The number of low bits that makes this index set shortest."""
    if gaps.size == 0:
        return 0
    top = largest_shift(gaps.size, size)
    candidates = range(max(0, top - 4), top + 1)
    return min(candidates, key=lambda shift: gaps.size * (shift + 1) + int((gaps >> shift).sum()))


def encode_indices(indices: IndexArray, size: int) -> tuple[int, bytes, bytes]:
    """(shift, low-bit stream, unary stream) of strictly increasing indices below `size`."""
    gaps = np.diff(indices, prepend=-1) - 1
    shift = best_shift(gaps, size)
    ends = np.cumsum((gaps >> shift) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if ends.size else 0, np.uint8)
    unary[ends] = 1
    return shift, _pack_low(gaps, shift), np.packbits(unary, bitorder="little").tobytes()


def decode_indices(count: int, size: int, shift: int, low: bytes, unary: bytes) -> IndexArray:
    """The `count` indices below `size`; WireError if the streams are not exactly what `encode_indices` writes."""
    if shift > largest_shift(count, size):
        raise WireError(f"index stream has {shift} low bits, {count} of {size} indices take fewer")
    if len(low) != (count * shift + 7) // 8:
        raise WireError(f"index stream has {len(low)} bytes of low bits, {count} gaps of {shift} bits are not that")
    if len(unary) * 8 > count + (size >> shift) + 7:
        raise WireError(f"index stream has {len(unary)} bytes, too many for {count} indices below {size}")
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(unary, np.uint8), bitorder="little"))
    if ends.size != count:
        raise WireError(f"index stream names {ends.size} indices, its header says {count}")
    if len(unary) != (0 if count == 0 else int(ends[-1]) // 8 + 1):
        raise WireError("index stream has bytes after its last index")
    gaps = _unpack_low(low, count, shift)
    if count:
        gaps[0] += int(ends[0]) << shift
        ends[1:] -= ends[:-1].copy()
        ends[1:] -= 1
        gaps[1:] += ends[1:] << shift
    gaps += 1
    indices = np.cumsum(gaps, out=gaps)
    indices -= 1
    if count and indices[-1] >= size:
        raise WireError(f"index {indices[-1]} is outside a vector of {size} coordinates")
    return indices


def _pack_low(gaps: np.ndarray, shift: int) -> bytes:
    if shift == 0:
        return b""
    parts = []
    for start in range(0, gaps.size, _CHUNK):  # a multiple of 8, so that every part but the last fills its bytes
        octets = gaps[start : start + _CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4)
        bits = np.unpackbits(octets, axis=1, count=shift, bitorder="little")
        parts.append(np.packbits(bits.ravel(), bitorder="little").tobytes())
    return b"".join(parts)


def _unpack_low(low: bytes, count: int, shift: int) -> np.ndarray:
    gaps = np.zeros(count, np.int64)
    if shift == 0:
        return gaps
    octets = np.frombuffer(low, np.uint8)
    for start in range(0, count, _CHUNK):
        part = gaps[start : start + _CHUNK]
        first = start * shift // 8
        bits = np.unpackbits(octets[first : first + (part.size * shift + 7) // 8], bitorder="little")
        if bits[part.size * shift :].any():
            raise WireError("index stream has non-zero padding")
        padded = np.zeros((part.size, 32), np.uint8)
        padded[:, :shift] = bits[: part.size * shift].reshape(part.size, shift)
        part[:] = np.packbits(padded, bitorder="little").view("<u4")
    return gaps
