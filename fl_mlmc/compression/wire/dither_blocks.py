"""Whole numbers under a dither that both sides know: a stream of letters for each of up to 16 sizes of the dither.

Where ξ < 0 the number is mirrored, (q, ξ) → (−q, |ξ|). What is likely then depends on |ξ| alone, whose first bits are a
context; each context's letters are a symbol stream of their own, with frequencies of their own.
"""

import math
import struct
from collections.abc import Iterator

import numpy as np

from ..dithered import SPREAD, DitherBlock
from ..kernels import LONG
from ..noise import noise
from .errors import WireError
from .floats import check_finite, tensor
from .limits import Budget, sparse_limit
from .symbols import decode_symbols, encode_symbols
from .symbols.lanes import encode_lanes, is_worth_lanes, num_steps
from .symbols.modes import LANES
from .symbols.packed import BYTE
from .words import decode_words, encode_words

_DITHER = struct.Struct("<QfBBhH")  # seed, step, bits of a context, bits of an escape, first letter, letters
_LENGTH = struct.Struct("<I")
_CONTEXT_BITS = 4
_MOST_LETTERS = 1 << 12
_STRETCH = 1 << 12  # coordinates that are sorted by context together
_MOST_NUMBER = 1 << 30  # in magnitude
_STEPS = 3.5  # of a stream, for each of its letters; a payload pays for 4
_STREAM_BITS, _LETTER_BITS = 100, 9  # about what a stream costs beyond its entropy, and a letter of it


def encode_dither(block: DitherBlock) -> bytes:
    """The body of the block, nothing if it has too many escapes; ValueError unless its values are finite."""
    check_finite(np.array(0.0 if block.is_finite() else np.inf))
    numbers = block.numbers.cpu().numpy()
    most = max(-int(numbers.min()), int(numbers.max()))
    if most >= _MOST_NUMBER:
        raise ValueError(f"a dithered number is below 2^30 in magnitude, the largest here is {most}")
    contexts, mirrored = _mirrored(block.seed, numbers)
    # One place more at both ends, for all that lies beyond.
    half = min(most, _MOST_LETTERS) + 1
    places = contexts * np.int32(2 * half + 1) + (mirrored.clip(-half, half) + half)
    counts = np.bincount(places, minlength=(2 * half + 1) << _CONTEXT_BITS).reshape(-1, 2 * half + 1)
    low, num_letters = _range(counts.sum(axis=0), most)
    first = low - half
    bits, grouped = _merged(counts, low, num_letters)
    letters = mirrored - first
    outside = np.flatnonzero((letters < 0) | (letters >= num_letters))
    if outside.size > sparse_limit(numbers.size):
        return b""
    escapes = letters[outside]
    escapes = np.where(escapes < 0, ~escapes << 1 | 1, escapes - num_letters << 1).astype("<u4")
    letters[outside] = num_letters
    width = max(int(escapes.max()).bit_length(), 1) if escapes.size else 0
    alphabet = num_letters + (width > 0)
    parts = [_DITHER.pack(block.seed, block.step, bits, width, first, num_letters)]
    letters = letters.astype(np.uint8 if alphabet <= BYTE else np.uint16)
    for stream, often in zip(_apart(letters, contexts, bits), grouped[:, :alphabet], strict=True):
        coded = _encode_stream(stream, alphabet, often, numbers.size >= LONG)
        parts += [_LENGTH.pack(len(coded)), coded]
    return b"".join([*parts, encode_words(escapes, width)])


def _encode_stream(letters: np.ndarray, alphabet: int, often: np.ndarray, is_long: bool) -> bytes:
    """The stream of `letters` that occur `often`: of a long vector in many lanes, although each stream is shorter."""
    bits = _code_bits(often)
    if is_long and is_worth_lanes(often, bits):
        coded = encode_lanes(letters, often, bits)
        if num_steps(memoryview(coded), letters.size, alphabet) <= _STEPS * letters.size:
            return bytes([LANES]) + coded
    return encode_symbols(letters, alphabet, counts=often)


def decode_dither(body: memoryview, size: int, budget: Budget) -> DitherBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    if len(body) < _DITHER.size or len(body) > 4 * size:
        raise WireError(f"dithered block has {len(body)} bytes, its header alone needs {_DITHER.size}")
    seed, step, bits, width, first, num_letters = _DITHER.unpack_from(body)
    if bits > _CONTEXT_BITS or width >= 31 or not 0 < num_letters <= _MOST_LETTERS:
        raise WireError(f"dithered block has {num_letters} letters, contexts of {bits} bits, escapes of {width} bits")
    alphabet, dtype = num_letters + (width > 0), _dtype(first, num_letters, width)
    budget.hold(dtype.itemsize * size)
    streams, position = [], _DITHER.size
    for count in _context_sizes(seed, size, bits):
        length = _LENGTH.unpack_from(body, position)[0] if len(body) - position >= _LENGTH.size else len(body)
        position += _LENGTH.size
        if length > len(body) - position:
            raise WireError(f"dithered block has a stream of {length} bytes, {len(body) - position} are left")
        streams.append(decode_symbols(body[position : position + length], count, alphabet, budget))
        position += length
    num_escapes = sum(int(np.count_nonzero(stream == num_letters)) for stream in streams) if width else 0
    if num_escapes > sparse_limit(size):
        raise WireError(f"dithered block has {num_escapes} escapes of {size} numbers")
    escapes = decode_words(body[position:], num_escapes, width).astype(np.int32)
    escapes = np.where(escapes & 1, ~(escapes >> 1), num_letters + (escapes >> 1)).astype(np.int32)
    numbers = _together(streams, seed, size, bits, first, dtype, num_letters, escapes)
    block = DitherBlock(seed, step, tensor(numbers))
    if not block.is_finite():
        raise WireError("payload holds values that are not finite")
    return block


def _dtype(first: int, num_letters: int, width: int) -> np.dtype:
    """Of numbers among the letters, or beyond them by up to 2^(width − 1)."""
    most = max(abs(first), abs(first + num_letters - 1)) + (1 << width >> 1)
    return np.dtype(np.int8 if most < 1 << 7 else np.int16 if most < 1 << 15 else np.int32)


# Letters: which numbers have one, and how many contexts.


def _range(counts: np.ndarray, most: int) -> tuple[int, int]:
    """(first, number) of the neighbours that get letters, of numbers that occur `counts` times; others are escapes.

    The first and the last are not single numbers, and get none. Numbers rarer than some power of two are left out,
    whichever makes letters, code and escapes shortest.
    """
    size, inner = int(counts.sum()), counts[1:-1]
    price = _LETTER_BITS * min(1 << _CONTEXT_BITS, 1 + (size >> 13)) + size / 2**15
    best, fewest = (1, 1), np.inf
    for rare in range(int(inner.max()).bit_length()):
        kept = np.flatnonzero(inner >= 1 << rare)
        low, num_letters = int(kept[0]), int(kept[-1] - kept[0]) + 1
        letters = inner[low : low + num_letters]
        num_escapes = size - int(letters.sum())
        bits = _code_bits(np.append(letters, num_escapes)) + num_escapes * (most.bit_length() + 1) + price * num_letters
        if bits < fewest and num_letters <= _MOST_LETTERS and num_escapes <= sparse_limit(size):
            best, fewest = (1 + low, num_letters), bits
    return best


def _merged(counts: np.ndarray, low: int, num_letters: int) -> tuple[int, np.ndarray]:
    """(bits of a context that make the code shortest, how often letters and then escapes occur in each context)."""
    inside = counts[:, low : low + num_letters]
    grouped = np.column_stack([inside, counts.sum(axis=1) - inside.sum(axis=1)])
    best, fewest = (0, grouped.sum(axis=0, keepdims=True)), math.inf
    for bits in reversed(range(_CONTEXT_BITS + 1)):
        described = int(np.count_nonzero(grouped)) * _LETTER_BITS + len(grouped) * _STREAM_BITS
        total = sum(map(_code_bits, grouped)) + described
        if total < fewest:
            best, fewest = (bits, grouped), total
        grouped = grouped.reshape(-1, 2, num_letters + 1).sum(axis=1) if bits else grouped
    return best


def _code_bits(counts: np.ndarray) -> float:
    """Zeroth-order entropy of letters that occur so often, in bits for all."""
    counts = counts[counts > 0]
    return float(counts @ np.log2(counts.sum() / counts))


# Contexts: which stream a coordinate belongs to.


def _mirrored(seed: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 context below 16, int32 number) of each coordinate, mirrored where ξ < 0."""
    contexts, mirrored = np.empty(numbers.size, np.uint8), np.empty(numbers.size, np.int32)
    for start, stop, context, sign in _stretches(seed, numbers.size, _CONTEXT_BITS):
        contexts[start:stop] = context
        mirrored[start:stop] = (numbers[start:stop] ^ sign) - sign
    return contexts, mirrored


def _stretches(seed: int, size: int, bits: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """(start, stop, contexts, −1 where ξ < 0 else 0) of the coordinates, a stretch after another."""
    for start in range(0, size, _STRETCH):
        stop = min(start + _STRETCH, size)
        words = noise(seed, start, stop, size=size).numpy()
        sign = words >> np.int32(31)
        yield start, stop, ((words ^ sign) >> np.int32(31 - bits)).astype(np.uint8), sign


def _context_sizes(seed: int, size: int, bits: int) -> list[int]:
    """How many coordinates each context has."""
    if bits == 0:
        return [size]
    counts = np.zeros(1 << bits, np.int64)
    for _, _, contexts, _ in _stretches(seed, size, bits):
        counts += np.bincount(contexts, minlength=counts.size)
    return counts.tolist()


def _apart(letters: np.ndarray, contexts: np.ndarray, bits: int) -> list[np.ndarray]:
    """The letters of each context, in the order of coordinates."""
    if bits == 0:
        return [letters]
    pieces: list[list[np.ndarray]] = [[] for _ in range(1 << bits)]
    for start in range(0, letters.size, SPREAD):
        context = contexts[start : start + SPREAD] >> _CONTEXT_BITS - bits
        ordered = letters[start : start + SPREAD][np.argsort(context, kind="stable")]
        ends = np.cumsum(np.bincount(context, minlength=len(pieces)))
        for piece, part in zip(pieces, np.split(ordered, ends[:-1]), strict=True):
            piece.append(part)
    return [np.concatenate(piece) for piece in pieces]


def _together(
    streams: list[np.ndarray],
    seed: int,
    size: int,
    bits: int,
    first: int,
    dtype: np.dtype,
    num_letters: int,
    escapes: np.ndarray,
) -> np.ndarray:
    """The numbers whose letters the streams of all contexts have, and whose `escapes` come in order."""
    numbers, taken, num_escaped = np.empty(size, dtype), [0] * len(streams), 0
    for start, stop, contexts, sign in _stretches(seed, size, bits):
        counts = np.bincount(contexts, minlength=len(streams)).tolist()
        parts = [stream[done : done + count] for stream, done, count in zip(streams, taken, counts, strict=True)]
        taken = [done + count for done, count in zip(taken, counts, strict=True)]
        letters = np.empty(stop - start, np.int32)
        letters[np.argsort(contexts, kind="stable")] = np.concatenate(parts)
        places = np.flatnonzero(letters == num_letters)
        letters[places] = escapes[num_escaped : num_escaped + places.size]
        num_escaped += places.size
        numbers[start:stop] = (letters + first ^ sign) - sign
    return numbers
