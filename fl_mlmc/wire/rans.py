"""Range asymmetric numeral system (rANS) for short streams: a few bytes beyond the entropy, no code book to describe.

Jarek Duda (2013), arXiv 1311.2540; the byte-aligned form is Fabian Giesen's. Letters travel with rough weights, a
count's leading bits; several letters form a block, and a state holds the blocks coded so far as one large number.
Every step waits for the one before, so longer streams are left to faster codes.
"""

import struct

import numpy as np

from .errors import WireError

MOST_BLOCKS = 1 << 16
"""Longer streams are refused: their steps would take a reader's time out of proportion to their bytes."""

_BITS = 16  # of a block's frequency
_TOTAL = 1 << _BITS
_WORD = 32  # bits that leave the state together
_FULL = 64
_LISTED = 0x40  # flag: letters that occur are listed, others are not described
_BY_RUN = 0x80  # flag: blocks are runs of the heaviest letter, not a number of letters
_FINEST = 7  # most leading bits of a count after its first
_LOSS = 0.002  # share of the bits that rare blocks may take from frequent ones


def encode_rans(symbols: np.ndarray, counts: np.ndarray, bits: float) -> bytes | None:
    """The code of uint8 `symbols` that occur `counts` times, `bits` of entropy in all; None where it takes too long."""
    size, present = symbols.size, np.flatnonzero(counts)
    spare = size - int(counts.max())
    group = _group(present.size, size, bits)
    run = _longest_run(present.size)
    by_run = present.size > 1 and spare + (size - spare) // run < size // group
    if present.size > 1 and (spare + (size - spare) // run if by_run else size // group) >= MOST_BLOCKS:
        return None
    fineness = min(int(0.046 * spare / present.size).bit_length() + 1 >> 1, _FINEST)
    exponents, digits = _leading_bits(counts[present], fineness, size)
    weights = _weights(exponents, digits, fineness)
    listed, head = _encode_weights(present, exponents, digits, fineness, counts.size, size)
    flags = group - 1 | fineness << 3 | _LISTED * listed | _BY_RUN * by_run
    if present.size == 1:
        return bytes([flags]) + head
    order = np.argsort(-weights, kind="stable")
    rank = np.zeros(256, np.uint8)
    rank[present[order]] = np.arange(present.size)
    ranks = np.frombuffer(symbols.tobytes().translate(rank.tobytes()), np.uint8)
    blocks = _join_runs(ranks, present.size) if by_run else _join(ranks, present.size, group)
    frequencies, _ = _blocks(weights[order], 0 if by_run else group)
    return bytes([flags]) + head + _push(blocks, frequencies)


def decode_rans(body: memoryview, size: int, alphabet: int) -> np.ndarray:
    """The `size` uint8 symbols below `alphabet` in `body`; WireError if it holds other ones."""
    if not body or size == 0:
        raise WireError(f"rANS stream of {len(body)} bytes has no parameters for {size} symbols")
    flags = body[0]
    group, fineness, by_run = (flags & 7) + 1, flags >> 3 & 7, bool(flags & _BY_RUN)
    present, weights, end = _decode_weights(body[1:], bool(flags & _LISTED), fineness, alphabet, size)
    body = body[1 + end :]
    if present.size == 1 and not body:
        return np.full(size, present[0], np.uint8)
    if present.size == 1 or (not by_run and (present.size**group > 256 or -(-size // group) > MOST_BLOCKS)):
        raise WireError(f"rANS stream has {group} of {present.size} letters a block for {size} symbols")
    order = np.argsort(-weights, kind="stable")
    blocks = _pop(body, size, *_blocks(weights[order], 0 if by_run else group))
    ranks = _part_runs(blocks, size, present.size) if by_run else _part(blocks, size, present.size, group)
    letters = np.zeros(256, np.uint8)
    letters[: present.size] = present[order]
    return np.frombuffer(bytearray(ranks).translate(letters.tobytes()), np.uint8)


# Weights of letters: the leading bits of their counts.


def _leading_bits(counts: np.ndarray, fineness: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(exponent, the bits after the first) of each count, rounded."""
    exponents = np.frexp(counts.astype(np.float64))[1].astype(np.int64) - 1
    widths = np.minimum(exponents, fineness)
    digits = np.rint(counts / 2.0 ** (exponents - widths)).astype(np.int64) - (1 << widths)
    over = digits == 1 << widths
    may_grow = exponents < size.bit_length() - 1
    exponents, digits = exponents + (over & may_grow), np.where(over, np.where(may_grow, 0, digits - 1), digits)
    return exponents, digits


def _weights(exponents: np.ndarray, digits: np.ndarray, fineness: int) -> np.ndarray:
    widths = np.minimum(exponents, fineness)
    return (1 << widths) + digits << exponents - widths


def _encode_weights(
    present: np.ndarray, exponents: np.ndarray, digits: np.ndarray, fineness: int, alphabet: int, size: int
) -> tuple[bool, bytes]:
    """(whether they are listed, bytes) of the letters that occur and their weights, listed where that is shorter."""
    width, letter_width = _exponent_width(size), (alphabet - 1).bit_length()
    listed = 8 + present.size * (letter_width + width) < alphabet * width
    if listed:
        names = _bits_of(np.append(present.size - 1, present), np.append(8, np.full(present.size, letter_width)))
        codes = exponents + 1
    else:
        names, codes = _NO_BITS, np.zeros(alphabet, np.int64)
        codes[present] = exponents + 1
    parts = names, _bits_of(codes, np.full(codes.size, width)), _bits_of(digits, np.minimum(exponents, fineness))
    return listed, np.packbits(np.concatenate(parts), bitorder="little").tobytes()


def _decode_weights(
    body: memoryview, listed: bool, fineness: int, alphabet: int, size: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(letters, their weights, length in bytes)."""
    width, letter_width = _exponent_width(size), (alphabet - 1).bit_length()
    most = 8 + alphabet * (letter_width + width + fineness)
    bits = np.unpackbits(np.frombuffer(body[: -(-most // 8)], np.uint8), bitorder="little")
    start, letters = 0, np.arange(alphabet)
    if listed:
        num_letters = int(_numbers(bits[:8], 1, 8)[0]) + 1 if bits.size else 0
        start = 8 + num_letters * letter_width
        letters = _numbers(bits[8:start], num_letters, letter_width)
    end = start + letters.size * width
    codes = _numbers(bits[start:end], letters.size, width)
    present = letters if listed else letters[codes > 0]
    exponents = codes - 1 if listed else codes[codes > 0] - 1
    if (
        present.size == 0
        or present[-1] >= alphabet
        or (present[1:] <= present[:-1]).any()
        or exponents.min() < 0
        or exponents.max() >= size.bit_length()
    ):
        raise WireError(f"rANS stream has no weights for {alphabet} letters of {size} symbols")
    widths = np.minimum(exponents, fineness)
    stop = end + int(widths.sum())
    length = -(-stop // 8)
    if bits.size < 8 * length or bits[stop : 8 * length].any():
        raise WireError("rANS stream ends inside its weights, or has non-zero padding there")
    places = np.arange(end, stop) - np.repeat(end + np.cumsum(widths) - widths, widths)
    digits = np.bincount(np.repeat(np.arange(widths.size), widths), bits[end:stop] << places, widths.size)
    return present, _weights(exponents, digits.astype(np.int64), fineness), length


_NO_BITS = np.zeros(0, np.uint8)


def _exponent_width(size: int) -> int:
    """Bits of an exponent of a count up to `size`, one more than itself, or of 0: does not occur."""
    return size.bit_length().bit_length()


def _bits_of(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The low bits of each number, lowest first, one after another."""
    places = np.arange(int(widths.sum())) - np.repeat(np.cumsum(widths) - widths, widths)
    return (np.repeat(numbers, widths) >> places & 1).astype(np.uint8)


def _numbers(bits: np.ndarray, count: int, width: int) -> np.ndarray:
    """The `count` numbers of `width` bits each; WireError if there are fewer bits."""
    if bits.size != count * width:
        raise WireError("rANS stream ends inside its weights")
    return bits.reshape(count, width) @ (1 << np.arange(width))


# Blocks of several letters.


def _group(num_letters: int, size: int, bits: float) -> int:
    """Letters in a block: as many as fit 256 blocks of which the rare ones, rounded up, cost next to nothing."""
    group = 1
    while group < 8 and num_letters ** (group + 1) <= min(256, _TOTAL * _LOSS * (group + 1) * bits / size):
        group += 1
    return group


def _join(digits: np.ndarray, base: int, group: int) -> np.ndarray:
    """Digit r of block i is symbol r · number of blocks + i, missing ones are 0."""
    if group == 1:
        return digits
    blocks = np.zeros(-(-digits.size // group), np.uint8)
    for place in reversed(range(group)):
        start = place * blocks.size
        row = digits[start : start + blocks.size]
        blocks *= np.uint8(base)
        blocks[: row.size] += row
    return blocks


def _part(blocks: np.ndarray, size: int, base: int, group: int) -> np.ndarray:
    if group == 1:
        return blocks
    digits = np.empty((group, blocks.size), np.uint8)
    for row in digits:
        row[:] = blocks % base
        blocks = blocks // base
    symbols = digits.reshape(-1)
    if symbols[size:].any():
        raise WireError("rANS stream has non-zero padding")
    return symbols[:size]


def _longest_run(num_letters: int) -> int:
    """Of the heaviest letter before another one, so that there are 256 blocks at most; one more stands for itself."""
    return 255 // max(num_letters - 1, 1)


def _join_runs(ranks: np.ndarray, num_letters: int) -> np.ndarray:
    """Block 0 is a longest run of letter 0; block 1 + r · (num_letters − 1) + l one of r, then letter l + 1."""
    run, others = _longest_run(num_letters), np.flatnonzero(ranks)
    whole, rest = np.divmod(np.diff(others, prepend=-1) - 1, run)
    after = ranks.size - 1 - int(others[-1])
    blocks = np.zeros(others.size + int(whole.sum()) + -(-after // run), np.uint8)
    blocks[np.cumsum(whole + 1) - 1] = rest * (num_letters - 1) + ranks[others]
    return blocks


def _part_runs(blocks: np.ndarray, size: int, num_letters: int) -> np.ndarray:
    ends = np.cumsum(np.array(_run_lengths(num_letters), np.int32)[blocks], dtype=np.int32)[blocks > 0]
    if ends.size and ends[-1] > size:
        raise WireError(f"rANS stream has a letter beyond its {size} symbols")
    ranks = np.zeros(size, np.uint8)
    ranks[ends - 1] = (blocks[blocks > 0] - 1) % np.uint8(num_letters - 1) + 1
    return ranks


def _run_lengths(num_letters: int) -> list[int]:
    run = _longest_run(num_letters)
    return [run, *np.repeat(np.arange(1, run + 1), num_letters - 1).tolist()]


def _blocks(weights: np.ndarray, group: int) -> tuple[list[int], list[int]]:
    """(how often each block is to occur in 2^16, its letters); `group` 0: blocks are runs.

    The same to the bit on every machine: products of two in float64, each rounded.
    """
    shares = weights / float(weights.sum())
    if group:
        blocks = shares
        for _ in range(group - 1):
            blocks = (shares[:, None] * blocks).ravel()
        lengths = [group] * blocks.size
    else:
        runs = np.multiply.accumulate(np.append(1.0, np.full(_longest_run(weights.size), shares[0])))
        blocks = np.append(runs[-1], runs[:-1, None] * shares[1:])
        lengths = _run_lengths(weights.size)
    frequencies = 1 + np.floor(blocks * (_TOTAL - blocks.size)).astype(np.int64)
    frequencies[0] += _TOTAL - int(frequencies.sum())
    return frequencies.tolist(), lengths


# The state.


def _push(blocks: np.ndarray, frequencies: list[int]) -> bytes:
    starts = np.cumsum([0, *frequencies[:-1]]).tolist()
    limits = [frequency << _FULL - _BITS for frequency in frequencies]
    state, words = 1, []
    for block in reversed(blocks.tobytes()):
        frequency = frequencies[block]
        if state >= limits[block]:
            words.append(state & 0xFFFFFFFF)
            state >>= _WORD
        state = (state // frequency << _BITS) + state % frequency + starts[block]
    words.reverse()
    return state.to_bytes(-(-state.bit_length() // 8), "little") + struct.pack(f"<{len(words)}I", *words)


def _pop(body: memoryview, size: int, frequencies: list[int], lengths: list[int]) -> np.ndarray:
    """The blocks that make up `size` letters."""
    head = len(body) if len(body) <= 8 else 5 + (len(body) - 5) % 4
    if head == 0 or body[head - 1] == 0:
        raise WireError(f"rANS stream has no state in its {len(body)} bytes")
    state = int.from_bytes(body[:head], "little")
    words = np.frombuffer(body[head:], "<u4").astype(np.uint32).data
    starts = np.cumsum([0, *frequencies[:-1]]).tolist()
    block_of = np.repeat(np.arange(len(frequencies), dtype=np.uint8), frequencies).tobytes()
    blocks, position, num_words = bytearray(), 0, len(words)
    for _ in range(MOST_BLOCKS):
        slot = state & 0xFFFF
        block = block_of[slot]
        blocks.append(block)
        state = frequencies[block] * (state >> _BITS) + slot - starts[block]
        if state < 0x100000000 and position < num_words:
            state = state << _WORD | words[position]
            position += 1
        size -= lengths[block]
        if size <= 0:
            break
    if size > 0 or state != 1 or position != num_words:
        raise WireError("rANS stream does not end at the state that it starts from")
    return np.frombuffer(blocks, np.uint8)
