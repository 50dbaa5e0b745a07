"""Whole numbers under a dither that both sides know: a stream of letters for each of up to 16 sizes of the dither.

Where ξ < 0 the number is mirrored, (q, ξ) → (−q, |ξ|). What is likely then depends on |ξ| alone, whose first bits are a
context; each context's letters are a symbol stream of their own, with frequencies of their own.
"""

import math
import struct
from collections.abc import Iterator

import numpy as np

from ..dithered import SPREAD, DitherBlock
from ..kernels import LONG, kernel_for
from ..noise import noise
from .errors import WireError
from .floats import check_finite, tensor
from .kinds import Body
from .limits import Budget, sparse_limit
from .symbols import decode_symbols, encode_symbols
from .symbols.lanes import encode_lanes, is_worth_lanes
from .symbols.modes import LANES
from .symbols.packed import BYTE
from .words import decode_words, encode_words, words_length

_DITHER = struct.Struct("<QfBBhH")  # seed, step, bits of a context, bits of an escape, first letter, letters
_LENGTH = struct.Struct("<I")
_SEED_BYTES = 8
_CONTEXT_BITS = 4
_MOST_LETTERS = 1 << 12
_LEAST_STRETCH = 1 << 12
_MOST_NUMBER = 1 << 30  # in magnitude
_STEPS = 1.9  # of a stream, for each of its letters; a payload pays for 4
_STREAM_BITS, _LETTER_BITS = 100, 9  # about what a stream costs beyond its entropy, and a letter of it


def encode_dither(block: DitherBlock) -> bytes:
    """The body of the block, nothing if it has too many escapes; ValueError unless its values are finite.

    Never longer than that of letters of some bits each as they are, for which `longest_dither` has a bound.
    """
    check_finite(np.array(0.0 if block.is_finite() else np.inf))
    numbers = block.numbers.cpu().numpy()
    most = max(-int(numbers.min()), int(numbers.max()))
    if most >= _MOST_NUMBER:
        raise ValueError(f"a dithered number is below 2^30 in magnitude, the largest here is {most}")
    # One place more at both ends, for all that lies beyond.
    half = min(most, _MOST_LETTERS) + 1
    places = _places(block.seed, numbers, half)
    counts = _tally(places, (2 * half + 1) << _CONTEXT_BITS).reshape(-1, 2 * half + 1)
    low, num_letters = _range(counts.sum(axis=0), most)
    bits, grouped = _merged(counts, low, num_letters)
    body = _encode_letters(block, places, half, low, num_letters, bits, grouped, numbers.size >= LONG)
    sure, width = _shortest_plain(counts.sum(axis=0), most)
    if sure is not None and (not body or sure < len(body)):
        num_letters, low = 2 * width + 1, half - width
        inside = counts.sum(axis=0)[low : low + num_letters]
        grouped = np.append(inside, numbers.size - inside.sum())[None]
        body = _encode_letters(block, places, half, low, num_letters, 0, grouped, in_lanes=False)
    return body


def _encode_letters(
    block: DitherBlock,
    places: np.ndarray,
    half: int,
    low: int,
    num_letters: int,
    bits: int,
    grouped: np.ndarray,
    in_lanes: bool,
) -> bytes:
    """The body with letters for so many places from `low` on, in contexts of `bits`; nothing if others are too many.

    `grouped` says how often letters, and then others, occur in each context; `in_lanes` that the vector is a long one.
    """
    numbers, width_of_context = block.numbers.cpu().numpy(), 2 * half + 1
    num_escapes = int(grouped[:, num_letters].sum())
    if num_escapes > sparse_limit(numbers.size):
        return b""
    letters, outside = _apart(places, width_of_context, low, num_letters, bits, grouped.sum(axis=1), num_escapes)
    away = np.abs(numbers[outside].astype(np.int64)) * np.sign(
        places[outside].astype(np.int64) % width_of_context - half
    )
    away += half - low
    escapes = np.where(away < 0, ~away << 1 | 1, away - num_letters << 1).astype("<u4")
    width = max(int(escapes.max()).bit_length(), 1) if escapes.size else 0
    alphabet = num_letters + (width > 0)
    parts, start = [_DITHER.pack(block.seed, block.step, bits, width, low - half, num_letters)], 0
    for often in grouped[:, :alphabet]:
        stop = start + int(often.sum())
        coded = _encode_stream(letters[start:stop], alphabet, often, in_lanes)
        parts += [_LENGTH.pack(len(coded)), coded]
        start = stop
    return b"".join([*parts, encode_words(escapes, width)])


def _encode_stream(letters: np.ndarray, alphabet: int, often: np.ndarray, in_lanes: bool) -> bytes:
    """The stream of `letters` that occur `often`: of a long vector in many lanes, although each stream is shorter."""
    bits = _code_bits(often)
    if in_lanes and is_worth_lanes(often, bits):
        return bytes([LANES]) + encode_lanes(letters, often, bits, _STEPS)
    return encode_symbols(letters, alphabet, counts=often)


def _shortest_plain(often: np.ndarray, most: int) -> tuple[int | None, int]:
    """(bytes, m) of the shortest body of letters −m to m, and one for escapes, that take their bits as they are.

    `often` is how often each number occurs, from −half to half, of magnitudes up to `most`. (None, 0) where all have
    too many escapes.
    """
    half, size = often.size // 2, int(often.sum())
    beyond = size - np.cumsum(np.append(often[half], often[half + 1 :] + often[:half][::-1]))
    best: tuple[int | None, int] = (None, 0)
    for bits in range(1, _MOST_LETTERS.bit_length()):
        width = (1 << bits - 1) - 1
        num_escapes = int(beyond[width]) if width < beyond.size else 0
        length = _plain_body(size, bits, num_escapes, most)
        if num_escapes <= sparse_limit(size) and (best[0] is None or length < best[0]):
            best = length, min(width, half - 1)
        if num_escapes == 0:
            break
    return best


def _plain_body(size: int, bits: int, num_escapes: int, most: int) -> int:
    """Bytes of letters of `bits` each and escapes among them, up to the magnitude `most`."""
    width = max(2 * (most - (1 << bits - 1)) + 1, 1).bit_length() if num_escapes else 0
    return _DITHER.size + _LENGTH.size + 1 + bits * -(-size // 8) + words_length(num_escapes, width)


def longest_dither(size: int, unit: float) -> int:
    """The most bytes of a body of `size` numbers whose step is `unit` root mean squares, whatever vector and noise.

    A number q of v/Δ = x has |q| < |x| + 1, and Σx² = size / unit²: so at most size / (unit · m)² of them are beyond
    ±m, and none beyond √size / unit + 1.
    """
    unit = unit * (1 - 1e-5)  # what float32 may add to x
    most, best = int(math.sqrt(size) / unit) + 1, 4 * size
    for bits in range(2, _MOST_LETTERS.bit_length()):
        num_escapes = int(size / (unit * ((1 << bits - 1) - 1)) ** 2)
        if num_escapes <= sparse_limit(size):
            best = min(best, _plain_body(size, bits, num_escapes, most))
    return best


def without_seed(body: Body) -> Body:
    """A body for a reader who knows the seed."""
    return body[_SEED_BYTES:]


def decode_dither(body: memoryview, size: int, budget: Budget, known_seed: int | None = None) -> DitherBlock:
    """The block in `body`; WireError if it is none, or costs too much. One whose seed is known has none in its body."""
    start = 0 if known_seed is None else _SEED_BYTES
    if len(body) < _DITHER.size - start or len(body) > 4 * size:
        raise WireError(f"dithered block has {len(body)} bytes, its header alone needs {_DITHER.size - start}")
    head = bytes(start) + body[: _DITHER.size - start]
    seed, step, bits, width, first, num_letters = _DITHER.unpack(head)
    seed = seed if known_seed is None else known_seed
    if bits > _CONTEXT_BITS or width >= 31 or not 0 < num_letters <= _MOST_LETTERS:
        raise WireError(f"dithered block has {num_letters} letters, contexts of {bits} bits, escapes of {width} bits")
    alphabet, dtype = num_letters + (width > 0), _dtype(first, num_letters, width)
    budget.hold(dtype.itemsize * size)
    letters, position = np.empty(size, np.uint8 if alphabet <= BYTE else np.uint16), _DITHER.size - start
    sizes, start = _context_sizes(seed, size, bits), 0
    for count in sizes.tolist():
        length = _LENGTH.unpack_from(body, position)[0] if len(body) - position >= _LENGTH.size else len(body)
        position += _LENGTH.size
        if length > len(body) - position:
            raise WireError(f"dithered block has a stream of {length} bytes, {len(body) - position} are left")
        letters[start : start + count] = decode_symbols(body[position : position + length], count, alphabet, budget)
        position, start = position + length, start + count
    num_escapes = int(np.count_nonzero(letters == num_letters)) if width else 0
    if num_escapes > sparse_limit(size):
        raise WireError(f"dithered block has {num_escapes} escapes of {size} numbers")
    escapes = decode_words(body[position:], num_escapes, width).astype(np.int32)
    escapes = np.where(escapes & 1, ~(escapes >> 1), num_letters + (escapes >> 1)).astype(np.int32)
    numbers = _together(letters, sizes, seed, bits, first, num_letters, escapes, dtype)
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
        if num_letters > _MOST_LETTERS:  # those that occur most
            sums = np.append(0, np.cumsum(inner))
            low, num_letters = int((sums[_MOST_LETTERS:] - sums[:-_MOST_LETTERS]).argmax()), _MOST_LETTERS
        letters = inner[low : low + num_letters]
        num_escapes = size - int(letters.sum())
        bits = _code_bits(np.append(letters, num_escapes)) + num_escapes * (most.bit_length() + 1) + price * num_letters
        if bits < fewest and num_escapes <= sparse_limit(size):
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


def _words(seed: int, size: int, stretch: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(coordinates, their noise), a stretch after another; several of them share a call for the noise."""
    for start in range(0, size, SPREAD):
        stop = min(start + SPREAD, size)
        words = noise(seed, start, stop, size=size).numpy()
        for begin in range(start, stop, stretch):
            end = min(begin + stretch, stop)
            yield slice(begin, end), words[begin - start : end - start]


def _stretch(size: int) -> int:
    """Coordinates that a reader sorts by context together, so few that they take little memory beside the vector."""
    return min(max(_LEAST_STRETCH, size // 32), SPREAD)


def _places(seed: int, numbers: np.ndarray, half: int) -> np.ndarray:
    """context · (2 half + 1) + half + the number, mirrored where ξ < 0, no further from zero than `half`."""
    width = 2 * half + 1
    places = np.empty(numbers.size, np.uint16 if width << _CONTEXT_BITS <= 1 << 16 else np.int32)
    compiled = kernel_for("context_places", numbers.size)
    for part, words in _words(seed, numbers.size, SPREAD):
        if compiled is not None:
            compiled(words, numbers[part], places[part], np.int32(half))
            continue
        sign = words >> np.int32(31)
        near = ((numbers[part] ^ sign) - sign).clip(-half, half)
        places[part] = ((words ^ sign) >> np.int32(31 - _CONTEXT_BITS)) * np.int32(width) + near + half
    return places


def _tally(places: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64 how often each place occurs."""
    compiled = kernel_for("tally", places.size)
    if compiled is None:
        return np.bincount(places, minlength=count)
    lanes = np.zeros((4, count), np.int32)
    compiled(places, lanes)
    return lanes.sum(axis=0, dtype=np.int64)


def _apart(
    places: np.ndarray, width: int, low: int, num_letters: int, bits: int, sizes: np.ndarray, num_escapes: int
) -> tuple[np.ndarray, np.ndarray]:
    """(the letters of all streams, one stream after another, each in the order of coordinates, where escapes are)."""
    contexts, values = np.divmod(np.arange(width << _CONTEXT_BITS), width)
    letter_of = np.where((values < low) | (values >= low + num_letters), num_letters, values - low)
    codes = ((contexts >> _CONTEXT_BITS - bits << 16) + letter_of).astype(np.uint32)
    letters = np.empty(places.size, np.uint8 if num_letters + (num_escapes > 0) <= BYTE else np.uint16)
    ends, outside = (np.cumsum(sizes) - sizes).astype(np.uint64), np.empty(num_escapes, np.int64)
    compiled = kernel_for("apart", places.size)
    if compiled is not None:
        compiled(places, codes, np.uint16(num_letters), ends, letters, outside)
        return letters, outside
    for start in range(0, places.size, SPREAD):
        part = codes[places[start : start + SPREAD]]
        streams = (part >> np.uint32(16)).astype(np.uint8)
        ordered, counts = part[np.argsort(streams, kind="stable")], np.bincount(streams, minlength=ends.size)
        for end, some in zip(ends.tolist(), np.split(ordered, np.cumsum(counts)[:-1]), strict=True):
            letters[end : end + some.size] = some
        ends += counts.astype(np.uint64)
    if num_escapes:
        outside[:] = np.flatnonzero((letter_of == num_letters)[places])
    return letters, outside


def _context_sizes(seed: int, size: int, bits: int) -> np.ndarray:
    """(contexts,) int64 how many coordinates each context has."""
    if bits == 0:
        return np.array([size])
    lanes, compiled = np.zeros((4, 1 << bits), np.int64), kernel_for("count_contexts", size)
    for _, words in _words(seed, size, _stretch(size) if compiled is None else SPREAD):
        if compiled is not None:
            compiled(words, lanes, np.int32(31 - bits))
        else:
            lanes[0] += np.bincount((words ^ words >> np.int32(31)) >> np.int32(31 - bits), minlength=1 << bits)
    return lanes.sum(axis=0)


def _together(
    letters: np.ndarray,
    sizes: np.ndarray,
    seed: int,
    bits: int,
    first: int,
    escape: int,
    escapes: np.ndarray,
    dtype: np.dtype,
) -> np.ndarray:
    """The numbers whose letters come one stream after another, and whose `escapes` in the order of coordinates."""
    numbers, ends, taken = np.empty(letters.size, dtype), np.cumsum(sizes) - sizes, 0
    compiled = kernel_for("together", letters.size)
    for part, words in _words(seed, letters.size, _stretch(letters.size) if compiled is None else SPREAD):
        if compiled is not None:
            shift, less, mark = np.int32(31 - bits), np.int32(first), np.int32(escape)
            taken = compiled(words, letters, ends, shift, less, mark, escapes, taken, numbers[part])
            continue
        sign = words >> np.int32(31)
        contexts = ((words ^ sign) >> np.int32(31 - bits)).astype(np.uint8)
        counts = np.bincount(contexts, minlength=sizes.size)
        some = [letters[end : end + count] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]
        ends += counts
        here = np.empty(words.size, np.int32)
        here[np.argsort(contexts, kind="stable")] = np.concatenate(some)
        marked = np.flatnonzero(here == escape)
        here[marked] = escapes[taken : taken + marked.size]
        taken += marked.size
        here += np.int32(first)
        here ^= sign
        here -= sign
        numbers[part] = here
    return numbers
