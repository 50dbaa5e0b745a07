"""Golomb-Rice code of sorted indices: gaps split into a unary quotient and a few low bits.

Robert F. Rice (1979), after Golomb (1966). A sorted set of k indices below d becomes k gaps
g_0 = i_0, g_j = i_j - i_{j-1} - 1. Every 4096 gaps choose how many low bits they have, since large entries of real
updates stand in clusters. The low bits form one stream, the quotients in unary (that many zeros, then a one) another,
so both are numpy-vectorised: the ones of the unary stream stand at cumsum(quotient + 1) - 1.

>>> indices = np.array([3, 4, 20])  # gaps 3, 0, 15
>>> coded = encode_indices(indices, 32)
>>> [format(byte, "08b")[::-1] for byte in coded]  # a shift of 2; the low bits 3, 0, 3; the quotients 0, 0, 3 in unary
['01000000', '11001100', '11000100']
>>> decode_indices(memoryview(coded), 3, 32)
array([ 3,  4, 20])
"""

import numpy as np

from .errors import WireError

IndexArray = np.ndarray  # int64, strictly increasing

_CHUNK = 4096  # gaps that share a shift; a multiple of 8, so that every chunk but the last fills its bytes
_MOST_BITS = 31  # of a shift
_WORD = 32  # bits of a gap in memory


def encode_indices(indices: IndexArray, size: int) -> bytes:
    """The index code of strictly increasing indices below `size`; the reader must know their number."""
    if indices.size == 0:
        return b""
    gaps = np.diff(indices, prepend=-1) - 1
    shifts = _best_shifts(gaps)
    quotients = gaps >> np.repeat(shifts, _CHUNK)[: gaps.size]
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 1
    chunks = zip(range(0, gaps.size, _CHUNK), shifts.tolist(), strict=True)
    low = b"".join(_pack_low(gaps[start : start + _CHUNK], shift) for start, shift in chunks)
    return shifts.astype(np.uint8).tobytes() + low + np.packbits(unary, bitorder="little").tobytes()


def decode_indices(data: memoryview, count: int, size: int) -> IndexArray:
    """The `count` indices below `size` in `data`; WireError if it is not exactly what `encode_indices` writes."""
    num_chunks = -(-count // _CHUNK)
    shifts = np.frombuffer(data[:num_chunks], np.uint8)
    if shifts.size != num_chunks or shifts.max(initial=0) > _MOST_BITS:
        raise WireError(f"index stream of {len(data)} bytes has no shifts for {count} gaps")
    lengths = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
    sizes = [(length * shift + 7) // 8 for length, shift in zip(lengths, shifts.tolist(), strict=True)]
    unary = data[num_chunks + sum(sizes) :]
    if len(unary) * 8 > count + size + 7:
        raise WireError(f"index stream has {len(unary)} bytes of quotients, too many for {count} indices below {size}")
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(unary, np.uint8), bitorder="little"))
    if ends.size != count:
        raise WireError(f"index stream names {ends.size} indices, its header says {count}")
    if len(unary) != (0 if count == 0 else int(ends[-1]) // 8 + 1):
        raise WireError("index stream has bytes after its last index")
    gaps = ends  # in place: first quotients, then gaps, then indices
    gaps[1:] -= gaps[:-1].copy()
    gaps[1:] -= 1
    position = num_chunks
    for start, shift, taken in zip(range(0, count, _CHUNK), shifts.tolist(), sizes, strict=True):
        part = gaps[start : start + _CHUNK]
        part <<= shift
        part += _unpack_low(data[position : position + taken], part.size, shift)
        position += taken
    gaps += 1
    indices = np.cumsum(gaps, out=gaps)
    indices -= 1
    if count and not 0 <= indices[-1] < size:
        raise WireError(f"index {indices[-1]} is outside a vector of {size} coordinates")
    return indices


def _best_shifts(gaps: np.ndarray) -> np.ndarray:
    """For each chunk the number of low bits that makes it shortest."""
    starts = np.arange(0, gaps.size, _CHUNK)
    lengths = np.diff(starts, append=gaps.size)
    means = np.add.reduceat(gaps, starts) / lengths
    guess = np.log2(np.maximum(means, 1)).astype(np.int64)
    best, fewest = guess, np.full(starts.size, np.inf)
    for step in (-2, -1, 0, 1):
        shifts = np.clip(guess + step, 0, _MOST_BITS)
        quotients = gaps >> np.repeat(shifts, _CHUNK)[: gaps.size]
        bits = np.add.reduceat(quotients, starts) + lengths * (shifts + 1)
        best, fewest = np.where(bits < fewest, shifts, best), np.minimum(bits, fewest)
    return best


def _pack_low(gaps: np.ndarray, shift: int) -> bytes:
    """The low `shift` bits of each gap, the lowest first, filled to a byte."""
    octets = gaps.astype("<u4").view(np.uint8).reshape(-1, 4)
    bits = np.unpackbits(octets, axis=1, count=shift, bitorder="little")
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def _unpack_low(low: memoryview, count: int, shift: int) -> np.ndarray | int:
    """(count,) the low bits of each gap; WireError if there are fewer, or the padding is not zero."""
    if shift == 0:
        return 0
    bits = np.unpackbits(np.frombuffer(low, np.uint8), bitorder="little")
    if bits[count * shift :].any() or bits.size < count * shift:
        raise WireError("index stream has non-zero padding, or ends inside its low bits")
    padded = np.zeros((count, _WORD), np.uint8)
    padded[:, :shift] = bits[: count * shift].reshape(count, shift)
    return np.packbits(padded, bitorder="little").view("<u4")
