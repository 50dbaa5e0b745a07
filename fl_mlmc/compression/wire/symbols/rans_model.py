"""What rANS of short and of long streams share: letters' rough weights, blocks of several letters, their frequencies.

Letters travel with a count's leading bits; P letters that occur are digits 0 to P − 1, several digits form a block.

>>> symbols = np.array([3, 3, 3, 0, 3, 3, 0, 3, 3, 3], np.uint8)
>>> head, model = encode_model(np.bincount(symbols, minlength=4), symbols.size, group=2)
>>> model.letters, model.weights  # 2 and 8, by their first bits
(array([0, 3]), array([2, 8]))
>>> frequencies(block_shares(model.weights, 2))  # of blocks 0 0, 3 0, 0 3 and 3 3, in 2^16
array([ 2622, 10486, 10486, 41942])
>>> read, rest = decode_model(memoryview(head + b"rest"), symbols.size, 4)
>>> read.letters, read.weights, read.group, bytes(rest)
(array([0, 3]), array([2, 8]), 2, b'rest')
"""

from dataclasses import dataclass

import numpy as np

from ..errors import WireError
from .packed import BYTE

BITS = 16  # of a block's frequency
TOTAL = 1 << BITS

# The byte of flags: letters in a block less one, bits of a count after its first, and two marks.
_GROUP = 0x07
_FINENESS_AT, _FINEST = 3, 7
_LISTED = 0x40  # letters that occur are listed, others are not described
_BY_RUN = 0x80

_MOST_GROUP = _GROUP + 1
_PAYS = 0.046  # symbols of rarer letters, a letter, that pay for half a bit of its count


@dataclass(frozen=True, eq=False)
class Model:
    """What a rANS stream says of its symbols before their code.

    `letters` that are described, rising, and their `weights`, int64 of shape (P,). A block is a `group` of letters;
    with `by_run` it is a run of the heaviest letter and one other.
    """

    letters: np.ndarray
    weights: np.ndarray
    group: int
    by_run: bool = False


def encode_model(counts: np.ndarray, size: int, group: int, by_run: bool = False) -> tuple[bytes, Model]:
    """(description, model) of `size` symbols that occur `counts` times."""
    letters = np.flatnonzero(counts)
    spare = size - int(counts.max())
    fineness = min(int(_PAYS * spare / letters.size).bit_length() + 1 >> 1, _FINEST)
    exponents, digits = _leading_bits(counts[letters], fineness, size)
    listed, head = _encode_weights(letters, exponents, digits, fineness, counts.size, size)
    flags = group - 1 | fineness << _FINENESS_AT | _LISTED * listed | _BY_RUN * by_run
    return bytes([flags]) + head, Model(letters, _weights(exponents, digits, fineness), group, by_run)


def decode_model(body: memoryview, size: int, alphabet: int) -> tuple[Model, memoryview]:
    """(model, the rest of `body`) of `size` symbols below `alphabet`; WireError if it describes none."""
    if not body or size == 0:
        raise WireError(f"rANS stream of {len(body)} bytes has no parameters for {size} symbols")
    flags = body[0]
    fineness = flags >> _FINENESS_AT & _FINEST
    letters, weights, end = _decode_weights(body[1:], bool(flags & _LISTED), fineness, alphabet, size)
    return Model(letters, weights, (flags & _GROUP) + 1, bool(flags & _BY_RUN)), body[1 + end :]


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
    """The counts that exponents and leading bits stand for."""
    widths = np.minimum(exponents, fineness)
    return (1 << widths) + digits << exponents - widths


def _encode_weights(
    present: np.ndarray, exponents: np.ndarray, digits: np.ndarray, fineness: int, alphabet: int, size: int
) -> tuple[bool, bytes]:
    """(whether they are listed, bytes) of the letters that occur and their weights, listed where that is shorter."""
    width, letter_width = _exponent_width(size), (alphabet - 1).bit_length()
    number_width = max(8, letter_width)
    listed = number_width + present.size * (letter_width + width) < alphabet * width
    if listed:
        widths = np.append(number_width, np.full(present.size, letter_width))
        names = _bits_of(np.append(present.size - 1, present), widths)
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
    number_width = max(8, letter_width)
    most = number_width + alphabet * (letter_width + width + fineness)
    bits = np.unpackbits(np.frombuffer(body[: -(-most // 8)], np.uint8), bitorder="little")
    start, letters = 0, np.arange(alphabet)
    if listed:
        num_letters = int(_numbers(bits[:number_width], 1, number_width)[0]) + 1
        start = number_width + num_letters * letter_width
        letters = _numbers(bits[number_width:start], num_letters, letter_width)
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


def group_size(num_letters: int, size: int, bits: float, most: int, loss: float) -> int:
    """Letters in a block: as many as fit `most` blocks of which the rare ones, rounded up, cost a share `loss`."""
    group = 1
    while group < _MOST_GROUP and num_letters ** (group + 1) <= min(most, TOTAL * loss * (group + 1) * bits / size):
        group += 1
    return group


def join(digits: np.ndarray, base: int, group: int) -> np.ndarray:
    """Digit r of block i is symbol r · number of blocks + i, missing ones are 0."""
    if group == 1:
        return digits
    dtype = np.dtype(np.uint8 if base**group <= BYTE else np.uint16)
    blocks: np.ndarray = np.zeros(-(-digits.size // group), dtype)
    for place in reversed(range(group)):
        start = place * blocks.size
        row = digits[start : start + blocks.size]
        blocks *= dtype.type(base)
        blocks[: row.size] += row
    return blocks


def part(blocks: np.ndarray, size: int, base: int, group: int) -> np.ndarray:
    """The `size` digits of `blocks`."""
    if group == 1:
        return blocks
    digits = np.empty((group, blocks.size), np.uint8)
    for row in digits[:-1]:
        blocks, row[:] = np.divmod(blocks, blocks.dtype.type(base))
    digits[-1] = blocks
    symbols = digits.reshape(-1)
    if symbols[size:].any():
        raise WireError("rANS stream has non-zero padding")
    return symbols[:size]


def block_shares(weights: np.ndarray, group: int) -> np.ndarray:
    """The share of each block of `group` letters: the same to the bit on every machine, as each product is rounded."""
    shares = blocks = weights / float(weights.sum())
    for _ in range(group - 1):
        blocks = (shares[:, None] * blocks).ravel()
    return blocks


def frequencies(shares: np.ndarray) -> np.ndarray:
    """(blocks,) int64: how often each is to occur in 2^16, at least once; what is left over is the heaviest's."""
    numbers = 1 + np.floor(shares * (TOTAL - shares.size)).astype(np.int64)
    numbers[shares.argmax()] += TOTAL - int(numbers.sum())
    return numbers
