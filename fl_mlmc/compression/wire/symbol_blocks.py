"""A letter for each coordinate: symbols of up to 32768 letters, entropy-coded, and wide ones of a larger lattice."""

import struct
from dataclasses import replace

import numpy as np

from ..blocks import Lattice, SymbolBlock, Table
from .errors import WireError
from .floats import check_finite, tensor
from .kinds import UPPER, WIDE, Body
from .limits import Budget
from .symbols import decode_symbols, encode_symbols
from .symbols.packed import BYTE
from .words import decode_words, encode_words

MAX_ALPHABET = 2**15
"""Letters of the largest alphabet that symbol blocks have; those of larger lattices are wide."""

_SYMBOLS = struct.Struct("<BH")  # form of the alphabet, its size
_LATTICE = struct.Struct("<ffi")  # offset, step, first
_LATTICE_FORM, _TABLE_FORM = 0, 1
_LOW_BITS = 16  # of a wide lattice's letters, which are as good as even
_MOST_UPPER = 12  # bits above them that are coded
_LEAST_WIDTH, _MOST_WIDTH = 16, 31  # bits of a wide lattice's letters
_NOT_FINITE = "payload holds values that are not finite"


def encode_symbol_block(block: SymbolBlock) -> bytes:
    """The body of a block of at most `MAX_ALPHABET` letters; ValueError unless its values are finite."""
    alphabet, counts = block.alphabet, block.counts
    check_finite(np.array(0.0 if alphabet.is_finite() else np.inf))
    symbols = block.symbols.cpu().numpy()
    if isinstance(alphabet, Lattice) and alphabet.count > BYTE:
        low, high = int(symbols.min()), int(symbols.max())
        if high - low < BYTE:  # few neighbours of many letters are an alphabet of one byte
            alphabet, counts = replace(alphabet, count=high - low + 1, first=alphabet.first + low), None
            symbols = (symbols - low).astype(np.uint8)
    if isinstance(alphabet, Lattice):
        form, letters = _LATTICE_FORM, _LATTICE.pack(alphabet.offset, alphabet.step, alphabet.first)
    else:
        form, letters = _TABLE_FORM, alphabet.values().astype("<f4").tobytes()
    if symbols.dtype == np.int16:
        symbols = symbols.view(np.uint16)
    return _SYMBOLS.pack(form, alphabet.count) + letters + encode_symbols(symbols, alphabet.count, counts=counts)


def decode_symbol_block(body: memoryview, size: int, budget: Budget) -> SymbolBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    if len(body) < _SYMBOLS.size:
        raise WireError(f"symbol block has {len(body)} bytes, its header alone needs {_SYMBOLS.size}")
    form, count = _SYMBOLS.unpack_from(body)
    letters_end = _SYMBOLS.size + (_LATTICE.size if form == _LATTICE_FORM else 4 * count)
    if (
        form not in (_LATTICE_FORM, _TABLE_FORM)
        or not 0 < count <= MAX_ALPHABET
        or letters_end >= len(body)
        or len(body) > 4 * size
    ):
        raise WireError(f"symbol block of {len(body)} bytes has no alphabet of {count} letters in form {form}")
    budget.hold((2 if count > BYTE else 1) * size + (4 * count if form == _TABLE_FORM else 0))
    letters = body[_SYMBOLS.size : letters_end]
    alphabet: Lattice | Table
    if form == _LATTICE_FORM:
        offset, step, first = _LATTICE.unpack(letters)
        alphabet = Lattice(count, step, first, offset)
    else:
        with np.errstate(invalid="ignore"):
            alphabet = Table(np.frombuffer(letters, "<f4").astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        if not alphabet.is_finite():
            raise WireError(_NOT_FINITE)
    symbols = decode_symbols(body[letters_end:], size, count, budget)
    return SymbolBlock(tensor(symbols if count <= BYTE else symbols.view(np.int16)), alphabet)


def encode_wide(symbols: np.ndarray, alphabet: Lattice) -> tuple[int, Body]:
    """(kind, body), whichever is shorter: all bits as they are, or those above the lowest 16 coded.

    `symbols` are int32 of shape (size,); ValueError unless the values of `alphabet` are finite.
    """
    check_finite(np.array(0.0 if alphabet.is_finite() else np.inf))
    width = (alphabet.count - 1).bit_length()
    words = symbols.astype("<i4", copy=False).view("<u4")
    head = _LATTICE.pack(alphabet.offset, alphabet.step, alphabet.first) + bytes([width])
    if _LOW_BITS < width <= _LOW_BITS + _MOST_UPPER:
        upper = words.view("<u2")[1::2].astype(np.uint8 if width <= _LOW_BITS + 8 else np.uint16)
        coded = encode_symbols(upper, 1 << width - _LOW_BITS)
        if 8 * len(coded) < (width - _LOW_BITS) * words.size:
            out = np.empty(len(head) + len(coded) + 2 * words.size, np.uint8)
            out[: -2 * words.size] = np.frombuffer(head + coded, np.uint8)
            out[-2 * words.size :].view("<u2")[:] = words.view("<u2")[::2]
            return UPPER, out.data
    return WIDE, encode_words(words, width, head=head)


def decode_wide(body: memoryview, size: int, budget: Budget) -> SymbolBlock:
    """The block whose letters `body` holds as they are; WireError if it is none, or costs too much."""
    budget.hold(4 * size)
    alphabet, width = _decode_lattice(body)
    return _wide_block(decode_words(body[_LATTICE.size + 1 :], size, width), alphabet)


def decode_upper(body: memoryview, size: int, budget: Budget) -> SymbolBlock:
    """The block of whose letters `body` codes the bits above the lowest 16; WireError if it is none, or costs much."""
    budget.hold(4 * size)
    alphabet, width = _decode_lattice(body)
    end = len(body) - 2 * size
    if not _LOW_BITS < width <= _LOW_BITS + _MOST_UPPER or end <= _LATTICE.size:
        raise WireError(f"wide block of {len(body)} bytes has no symbols of {width} bits whose upper ones are coded")
    upper = decode_symbols(body[_LATTICE.size + 1 : end], size, 1 << width - _LOW_BITS, budget)
    words = np.empty(size, "<u4")
    words.view("<u2")[::2] = np.frombuffer(body[end:], "<u2")
    words.view("<u2")[1::2] = upper
    return _wide_block(words, alphabet)


def _decode_lattice(body: memoryview) -> tuple[Lattice, int]:
    """(alphabet, bits of a letter) at the beginning of `body`."""
    width = body[_LATTICE.size] if len(body) > _LATTICE.size else 0
    if not _LEAST_WIDTH <= width <= _MOST_WIDTH:
        raise WireError(f"wide block has symbols of {width} bits, expected 16 to 31")
    offset, step, first = _LATTICE.unpack_from(body)
    alphabet = Lattice(2**width, step, first, offset)
    if not alphabet.is_finite():
        raise WireError(_NOT_FINITE)
    return alphabet, width


def _wide_block(words: np.ndarray, alphabet: Lattice) -> SymbolBlock:
    """The block of uint32 letters."""
    return SymbolBlock(tensor(words.astype(np.uint32, copy=False).view(np.int32)), alphabet)
