"""Signs and powers of two, perhaps with a whole number of few bits each."""

import struct

import numpy as np

from ..blocks import PowerBlock
from .errors import WireError
from .floats import check_finite, tensor
from .limits import Budget
from .symbols import decode_symbols, encode_symbols

_POWERS = struct.Struct("<ffBBI")  # scale, extra, bits of the numbers, smallest exponent, length of the signs
_LETTERS = struct.Struct("<BI")  # top letter, length of the letters
_MOST_BITS, _LAST_EXPONENT = 15, 255


def encode_powers(block: PowerBlock) -> bytes:
    """The body of the block; ValueError unless its values are finite."""
    exponents = block.exponents.cpu().numpy()
    negative, smallest, filled = block.negative.cpu().numpy(), int(exponents.min()), None
    if smallest == 0:
        filled = exponents != 0
        smallest = int(exponents[filled].min(initial=_LAST_EXPONENT))
        negative = negative[filled]
    check_finite(np.array(0.0 if block.is_finite() else np.inf))
    signs = encode_symbols(negative.view(np.uint8), 2)
    # Zeros take the letter below the smallest exponent, which keeps the alphabet short.
    letters = exponents - np.uint8(smallest - 1)
    if filled is not None:
        letters[~filled] = 0
    count = int(letters.max()) + 1
    coded = encode_symbols(letters, count)
    numbers = b""
    if block.numbers is not None:
        array = block.numbers.cpu().numpy()
        numbers = encode_symbols(array if block.bits <= 8 else array.view(np.uint16), 2**block.bits)
    head = _POWERS.pack(block.scale, block.extra, block.bits, smallest, len(signs))
    return head + signs + _LETTERS.pack(count - 1, len(coded)) + coded + numbers


def decode_powers(body: memoryview, size: int, budget: Budget) -> PowerBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    if len(body) < _POWERS.size or len(body) > 4 * size:
        raise WireError(f"power block has {len(body)} bytes, its header alone needs {_POWERS.size}")
    scale, extra, bits, smallest, signs_length = _POWERS.unpack_from(body)
    rest = body[_POWERS.size :]
    if bits > _MOST_BITS or smallest < 1 or signs_length + _LETTERS.size > len(rest):
        raise WireError(f"power block of {len(body)} bytes has no signs of {signs_length} bytes")
    budget.hold((2 + (bits > 0) + (bits > 8)) * size)
    signs, rest = rest[:signs_length], rest[signs_length:]
    last_letter, coded_length = _LETTERS.unpack_from(rest)
    rest = rest[_LETTERS.size :]
    if coded_length > len(rest) or smallest + last_letter - 1 > _LAST_EXPONENT:
        raise WireError(f"power block has {last_letter} exponents above {smallest} in {coded_length} bytes")
    exponents = decode_symbols(rest[:coded_length], size, last_letter + 1, budget).copy()
    filled = exponents != 0
    exponents += filled.view(np.uint8) * np.uint8(smallest - 1)
    negative = np.zeros(size, bool)
    negative[filled] = decode_symbols(signs, int(np.count_nonzero(filled)), 2, budget)
    del filled
    numbers = None
    if bits:
        array = decode_symbols(rest[coded_length:], size, 2**bits, budget)
        numbers = tensor(array if bits <= 8 else array.view(np.int16))
    elif coded_length != len(rest):
        raise WireError(f"power block has {len(rest) - coded_length} bytes after its exponents")
    block = PowerBlock(tensor(negative), tensor(exponents), scale, extra, numbers, bits)
    if not block.is_finite():
        raise WireError("payload holds values that are not finite")
    return block
