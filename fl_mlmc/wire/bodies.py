"""The bodies of blocks, one kind each: how a block becomes bytes and back."""

import struct
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Lattice, PowerBlock, SeededBlock, SparseBlock, SymbolBlock, Table
from .errors import WireError
from .rice import decode_indices, encode_indices
from .symbols import decode_symbols, encode_mask, encode_symbols

DENSE, SPARSE, MASKED, SEEDED, SYMBOLS, POWERS, CUT, WIDE, LETTERED = range(1, 10)
BFLOAT16 = 0x80
"""Set in a kind whose values are bfloat16: the upper halves of float32 numbers."""

_SPARSE = struct.Struct("<I")  # number of entries
_LETTERED = struct.Struct("<IIBI")  # number of entries, of them that have no letter, of letters, length of their stream
_MASKED = struct.Struct("<I")  # length of the mask
_SEEDED = struct.Struct("<Q")  # seed
_SYMBOLS = struct.Struct("<BH")  # form of the alphabet, its size
_LATTICE = struct.Struct("<ffi")  # offset, step, first
_POWERS = struct.Struct("<ffBBI")  # scale, extra, bits of the numbers, smallest exponent, length of the signs
_LATTICE_FORM, _TABLE_FORM = 0, 1
_MAX_ALPHABET = 2**15
_MOST_SHARED = 254  # values that get a letter
_GLANCE = 256  # values that show whether many are equal


def encode_block(block: Block) -> tuple[int, bytes]:
    """(kind, body) of a block, in the shortest of the forms that it can take."""
    dense_length = 4 * block.size
    kind, body = DENSE, b""
    if isinstance(block, SparseBlock):
        kind, body = _encode_sparse(block)
    elif isinstance(block, SeededBlock):
        kind, values = _encode_floats(block.values)
        kind, body = kind | SEEDED, _SEEDED.pack(block.seed) + values
    elif isinstance(block, SymbolBlock) and block.alphabet.count <= _MAX_ALPHABET:
        kind, body = SYMBOLS, _encode_symbols(block)
    elif isinstance(block, SymbolBlock) and isinstance(block.alphabet, Lattice):
        kind, body = (
            WIDE,
            _encode_wide(block.symbols.cpu().numpy(), block.alphabet),
        )
    elif isinstance(block, PowerBlock):
        kind, body = POWERS, _encode_powers(block)
    if isinstance(block, PowerBlock) and 8 * len(body) > (9 + block.bits) * block.size:
        return min((kind, body), _encode_dense(block.dense()), key=lambda form: len(form[1]))
    if body and len(body) < dense_length:
        return kind, body
    return _encode_dense(block.dense())


def decode_body(kind: int, body: memoryview, size: int, held_limit: int) -> Block:
    """The block of `size` coordinates in `body`; WireError if it is none, or would hold more bytes than allowed."""
    width = 2 if kind & BFLOAT16 else 4
    if kind == SYMBOLS:
        _allow(size, held_limit)
        return _decode_symbols(body, size, held_limit)
    if kind == POWERS:
        _allow(2 * size, held_limit)
        return _decode_powers(body, size, held_limit)
    if kind == WIDE:
        _allow(4 * size, held_limit)
        return _decode_wide(body, size)
    if kind == CUT:
        _allow(4 * size, held_limit)
        return _decode_cut(body, size)
    match kind & ~BFLOAT16:
        case _ if len(body) > 4 * size:
            raise WireError(f"block of {len(body)} bytes is longer than {size} float32 values")
        case 1:
            _allow(4 * size, held_limit)
            if len(body) != width * size:
                raise WireError(f"dense block has {len(body)} bytes, {size} coordinates need {width * size}")
            return DenseBlock(_decode_floats(body, width))
        case 2:
            return _decode_sparse(body, size, width, held_limit)
        case 3:
            _allow(4 * size, held_limit)
            return _decode_masked(body, size, width)
        case 4:
            return _decode_seeded(body, size, width, held_limit)
        case 9:
            return _decode_lettered(body, size, width, held_limit)
    raise WireError(f"payload has a block of unknown kind {kind}")


def sparse_limit(size: int) -> int:
    """The most entries of a sparse block: decoding more would take more memory than two dense vectors."""
    return min(size, max(size // 8, 1024))


def _allow(held_bytes: int, limit: int) -> None:
    if held_bytes > limit:
        raise WireError(f"payload's blocks hold more than one dense vector: {held_bytes} bytes where {limit} are left")


# Dense values, and dense values with many zeros.


def _encode_dense(values: Tensor) -> tuple[int, bytes]:
    words = _words(values)
    width, plain = _encode_floats(values)
    forms = [(width | DENSE, plain)]
    filled = words != 0
    num_filled = int(np.count_nonzero(filled))
    if (words.size - num_filled) * 32 > words.size:  # a mask costs a bit a coordinate at most
        mask = encode_mask(filled)
        width, entries = _encode_floats(torch.from_numpy(words[filled].view("<f4").astype(np.float32, copy=False)))
        forms.append((width | MASKED, _MASKED.pack(len(mask)) + mask + entries))
    if kept := _num_kept_bits(words):
        forms.append((CUT, _encode_cut(words, kept)))
    return min(forms, key=lambda form: len(form[1]))


def _num_kept_bits(words: np.ndarray) -> int:
    """Upper bits without which no value would be the same, 9 to 31; 0 if these are all, or none of them are zero."""
    union = int(np.bitwise_or.reduce(words))
    num_zeros = min((union & -union).bit_length() - 1, 23) if union else 0
    return 32 - num_zeros if num_zeros else 0


def _words(values: Tensor) -> np.ndarray:
    return values.detach().cpu().contiguous().numpy().astype("<f4", copy=False).view("<u4")


def _encode_cut(words: np.ndarray, kept: int) -> bytes:
    return bytes([kept]) + _encode_words(words >> np.uint32(32 - kept), kept)


def _decode_cut(body: memoryview, size: int) -> DenseBlock:
    kept = body[0] if body else 0
    if not 9 <= kept < 32:
        raise WireError(f"cut block keeps {kept} bits of a float32, expected 9 to 31")
    words = _decode_words(body[1:], size, kept)
    words <<= np.uint32(32 - kept)
    return DenseBlock(_finite(words.view("<f4").astype(np.float32, copy=False)))


def _encode_words(words: np.ndarray, width: int) -> bytes:
    """Little-endian uint32 words of `width` bits: their whole bytes, upper bits last and each as a stream."""
    octets = words.view(np.uint8).reshape(-1, 4)
    whole = [octets[:, place].tobytes() for place in range(width // 8)]
    upper = octets[:, width // 8].copy()
    planes = (np.packbits(upper & np.uint8(1 << bit), bitorder="little") for bit in range(width % 8))
    return b"".join([*whole, *(plane.tobytes() for plane in planes)])


def _decode_words(body: memoryview, size: int, width: int) -> np.ndarray:
    plane_length = -(-size // 8)
    if len(body) != width // 8 * size + width % 8 * plane_length:
        raise WireError(f"block of {len(body)} bytes does not hold {size} words of {width} bits")
    words, start = np.zeros(size, "<u4"), 0
    octets = words.view(np.uint8).reshape(-1, 4)
    for place in range(width // 8):
        octets[:, place] = np.frombuffer(body[start : start + size], np.uint8)
        start += size
    for bit in range(width // 8 * 8, width):
        plane = np.unpackbits(np.frombuffer(body[start : start + plane_length], np.uint8), bitorder="little")
        if plane[size:].any():
            raise WireError("block of words has non-zero padding")
        octets[:, bit // 8] |= plane[:size] << np.uint8(bit % 8)
        start += plane_length
    return words


def _decode_masked(body: memoryview, size: int, width: int) -> DenseBlock:
    end = _MASKED.size + (_MASKED.unpack_from(body)[0] if len(body) >= _MASKED.size else len(body))
    if end > len(body):
        raise WireError(f"masked block of {len(body)} bytes has a mask that ends at {end}")
    filled = decode_symbols(body[_MASKED.size : end], size, 2).view(bool)
    num_filled = int(np.count_nonzero(filled))
    if len(body) - end != width * num_filled:
        raise WireError(f"masked block has {len(body) - end} bytes for {num_filled} values of {width} bytes")
    values = np.zeros(size, np.float32)
    values[filled] = _floats(body[end:], width)
    return DenseBlock(_finite(values))


# Sparse values, with indices that travel and with indices that both sides draw.


def _encode_sparse(block: SparseBlock) -> tuple[int, bytes]:
    if block.indices.numel() > sparse_limit(block.size):
        return DENSE, b""
    code = encode_indices(block.indices.cpu().numpy(), block.size)
    width, values = _encode_floats(block.values)
    plain = (width | SPARSE, _SPARSE.pack(block.indices.numel()) + values + code)
    if (lettered := _encode_lettered(block.values)) is None:
        return plain
    kind, body = lettered
    return min(plain, (kind, body + code), key=lambda form: len(form[1]))


def _decode_sparse(body: memoryview, size: int, width: int, held_limit: int) -> SparseBlock:
    if len(body) < _SPARSE.size:
        raise WireError(f"sparse block has {len(body)} bytes, its header alone needs {_SPARSE.size}")
    count = _SPARSE.unpack_from(body)[0]
    _allow(12 * count, held_limit)
    values_end = _SPARSE.size + width * count
    if count > sparse_limit(size) or values_end > len(body):
        raise WireError(f"sparse block of {len(body)} bytes cannot hold {count} of {size} entries")
    indices = decode_indices(body[values_end:], count, size)
    values = _decode_floats(body[_SPARSE.size : values_end], width)
    return SparseBlock(size, torch.from_numpy(indices), values)


def _encode_lettered(values: Tensor) -> tuple[int, bytes] | None:
    """Kind and body, but for the index code, where many entries are equal: then a letter each does; None elsewhere."""
    words = _words(values)
    glance = words[:_GLANCE]
    if 2 * np.unique(glance).size > glance.size:
        return None
    distinct, counts = np.unique(words, return_counts=True)
    shared = np.sort(distinct[np.argsort(-counts, kind="stable")[:_MOST_SHARED]])
    shared = shared[np.isin(shared, distinct[counts > 2])]  # a letter costs as much as a value
    if shared.size == 0:
        return None
    letters = np.searchsorted(shared, words).clip(max=shared.size - 1).astype(np.uint8)
    others = shared[letters] != words
    width, rest = _encode_floats(values.cpu()[torch.from_numpy(others)])
    coded = encode_symbols(letters[~others], shared.size)
    head = _LETTERED.pack(words.size, int(np.count_nonzero(others)), shared.size, len(coded))
    if others.any():
        mask = encode_symbols(others.view(np.uint8), 2)
        rest += _MASKED.pack(len(mask)) + mask
    return width | LETTERED, head + shared.tobytes() + coded + rest


def _decode_lettered(body: memoryview, size: int, width: int, held_limit: int) -> SparseBlock:
    if len(body) < _LETTERED.size:
        raise WireError(f"lettered block has {len(body)} bytes, its header alone needs {_LETTERED.size}")
    count, num_others, num_shared, coded_length = _LETTERED.unpack_from(body)
    coded_start = _LETTERED.size + 4 * num_shared
    others_start = coded_start + coded_length
    mask_start = others_start + width * num_others
    _allow(12 * count, held_limit)
    if num_shared == 0 or num_others > count or count > sparse_limit(size) or mask_start > len(body):
        raise WireError(f"lettered block of {len(body)} bytes cannot hold {count} entries with {num_shared} letters")
    is_other, code = np.zeros(count, bool), body[mask_start:]
    if num_others:
        length = _MASKED.unpack_from(code)[0] if len(code) >= _MASKED.size else len(code)
        if length > len(code) - _MASKED.size:
            raise WireError(f"lettered block has a mask of {length} bytes where {len(code)} are left")
        is_other = decode_symbols(code[_MASKED.size : _MASKED.size + length], count, 2).view(bool)
        code = code[_MASKED.size + length :]
    if np.count_nonzero(is_other) != num_others:
        raise WireError(f"lettered block has {num_others} values for {np.count_nonzero(is_other)} entries without one")
    indices = decode_indices(code, count, size)
    table = np.frombuffer(body[_LETTERED.size : coded_start], "<f4")
    values = np.zeros(count, np.float32)
    values[~is_other] = table[decode_symbols(body[coded_start:others_start], count - num_others, num_shared)]
    values[is_other] = _decode_floats(body[others_start:mask_start], width).numpy()
    return SparseBlock(size, torch.from_numpy(indices), _finite(values))


def _decode_seeded(body: memoryview, size: int, width: int, held_limit: int) -> SeededBlock:
    count, rest = divmod(len(body) - _SEEDED.size, width)
    if count < 0 or rest or count > size:
        raise WireError(
            f"seeded block has {len(body)} bytes, which is no seed and up to {size} values of {width} bytes"
        )
    _allow(4 * count, held_limit)
    return SeededBlock(size, _SEEDED.unpack_from(body)[0], _decode_floats(body[_SEEDED.size :], width))


# Symbols of a small alphabet.


def _encode_symbols(block: SymbolBlock) -> bytes:
    alphabet, counts = block.alphabet, block.counts
    _check_finite(np.array(0.0 if alphabet.is_finite() else np.inf))
    symbols = block.symbols.cpu().numpy()
    if isinstance(alphabet, Lattice) and alphabet.count > 256:
        low, high = int(symbols.min()), int(symbols.max())
        if high - low < 256:  # few neighbours of many letters are an alphabet of one byte
            alphabet, counts = replace(alphabet, count=high - low + 1, first=alphabet.first + low), None
            symbols = (symbols - low).astype(np.uint8)
    if isinstance(alphabet, Lattice):
        form, letters = _LATTICE_FORM, _LATTICE.pack(alphabet.offset, alphabet.step, alphabet.first)
    else:
        form, letters = _TABLE_FORM, alphabet.values().astype("<f4").tobytes()
    if alphabet.count > 256:
        symbols = symbols.astype(np.uint16)
    return _SYMBOLS.pack(form, alphabet.count) + letters + encode_symbols(symbols, alphabet.count, counts=counts)


def _decode_symbols(body: memoryview, size: int, held_limit: int) -> SymbolBlock:
    if len(body) < _SYMBOLS.size:
        raise WireError(f"symbol block has {len(body)} bytes, its header alone needs {_SYMBOLS.size}")
    form, count = _SYMBOLS.unpack_from(body)
    letters_end = _SYMBOLS.size + (_LATTICE.size if form == _LATTICE_FORM else 4 * count)
    if (
        form not in (_LATTICE_FORM, _TABLE_FORM)
        or not 0 < count <= _MAX_ALPHABET
        or letters_end >= len(body)
        or len(body) > 4 * size
    ):
        raise WireError(f"symbol block of {len(body)} bytes has no alphabet of {count} letters in form {form}")
    _allow((2 if count > 256 else 1) * size + (4 * count if form == _TABLE_FORM else 0), held_limit)
    letters = body[_SYMBOLS.size : letters_end]
    alphabet: Lattice | Table
    if form == _LATTICE_FORM:
        offset, step, first = _LATTICE.unpack(letters)
        alphabet = Lattice(count, step, first, offset)
    else:
        alphabet = Table(np.frombuffer(letters, "<f4").astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        if not alphabet.is_finite():
            raise WireError("payload holds values that are not finite")
    symbols = decode_symbols(body[letters_end:], size, count)
    return SymbolBlock(_tensor(symbols if count <= 256 else symbols.view(np.int16)), alphabet)


def _encode_wide(symbols: np.ndarray, alphabet: Lattice) -> bytes:
    _check_finite(np.array(0.0 if alphabet.is_finite() else np.inf))
    width = (alphabet.count - 1).bit_length()
    head = _LATTICE.pack(alphabet.offset, alphabet.step, alphabet.first)
    return head + bytes([width]) + _encode_words(symbols.astype("<i4", copy=False).view("<u4"), width)


def _decode_wide(body: memoryview, size: int) -> SymbolBlock:
    width = body[_LATTICE.size] if len(body) > _LATTICE.size else 0
    if not 16 <= width <= 31:
        raise WireError(f"wide block has symbols of {width} bits, expected 16 to 31")
    offset, step, first = _LATTICE.unpack_from(body)
    alphabet = Lattice(2**width, step, first, offset)
    if not alphabet.is_finite():
        raise WireError("payload holds values that are not finite")
    words = _decode_words(body[_LATTICE.size + 1 :], size, width)
    return SymbolBlock(_tensor(words.astype(np.uint32, copy=False).view(np.int32)), alphabet)


# Signs and powers of two.


def _encode_powers(block: PowerBlock) -> bytes:
    exponents = block.exponents.cpu().numpy()
    negative, smallest, filled = block.negative.cpu().numpy(), int(exponents.min()), None
    if smallest == 0:
        filled = exponents != 0
        smallest = int(exponents[filled].min(initial=255))
        negative = negative[filled]
    _check_finite(np.array(0.0 if block.is_finite() else np.inf))
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
    return head + signs + struct.pack("<BI", count - 1, len(coded)) + coded + numbers


def _decode_powers(body: memoryview, size: int, held_limit: int) -> PowerBlock:
    if len(body) < _POWERS.size or len(body) > 4 * size:
        raise WireError(f"power block has {len(body)} bytes, its header alone needs {_POWERS.size}")
    scale, extra, bits, smallest, signs_length = _POWERS.unpack_from(body)
    rest = body[_POWERS.size :]
    if bits > 15 or smallest < 1 or signs_length + 5 > len(rest):
        raise WireError(f"power block of {len(body)} bytes has no signs of {signs_length} bytes")
    _allow((2 + (bits > 0) + (bits > 8)) * size, held_limit)
    signs, rest = rest[:signs_length], rest[signs_length:]
    last_letter, coded_length = struct.unpack_from("<BI", rest)
    rest = rest[5:]
    if coded_length > len(rest) or smallest + last_letter - 1 > 255:
        raise WireError(f"power block has {last_letter} exponents above {smallest} in {coded_length} bytes")
    exponents = decode_symbols(rest[:coded_length], size, last_letter + 1).copy()
    filled = exponents != 0
    exponents += filled.view(np.uint8) * np.uint8(smallest - 1)
    negative = np.zeros(size, bool)
    negative[filled] = decode_symbols(signs, int(np.count_nonzero(filled)), 2)
    numbers = None
    if bits:
        array = decode_symbols(rest[coded_length:], size, 2**bits)
        numbers = _tensor(array if bits <= 8 else array.view(np.int16))
    elif coded_length != len(rest):
        raise WireError(f"power block has {len(rest) - coded_length} bytes after its exponents")
    block = PowerBlock(_tensor(negative), _tensor(exponents), scale, extra, numbers, bits)
    if not block.is_finite():
        raise WireError("payload holds values that are not finite")
    return block


# Numbers.


def _encode_floats(values: Tensor) -> tuple[int, bytes]:
    """(BFLOAT16 if every value is one, else 0; the bytes)."""
    array = values.detach().cpu().contiguous().numpy()
    if array.size:
        _check_finite(np.array([array.min(), array.max()]))
    words = array.astype("<f4", copy=False).view("<u4")
    if words.size and not int(np.bitwise_or.reduce(words)) & 0xFFFF:
        return BFLOAT16, words.view("<u2")[1::2].tobytes()
    return 0, words.tobytes()


def _decode_floats(body: memoryview, width: int) -> Tensor:
    values = _floats(body, width)
    return _finite(values if values.flags.writeable else values.astype(np.float32))


def _floats(body: memoryview, width: int) -> np.ndarray:
    """The values in `body`, `width` bytes each; those of four bytes are not copied."""
    if width == 4:
        return np.frombuffer(body, "<f4")
    values = np.zeros(len(body) // width, "<f4")
    values.view("<u2")[1::2] = np.frombuffer(body, "<u2")
    return values


def _finite(values: np.ndarray) -> Tensor:
    if values.size and not np.isfinite([values.min(), values.max()]).all():
        raise WireError("payload holds values that are not finite")
    return torch.from_numpy(values)


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(
            "a payload's values must be finite; rescaled, these leave float32's range: scale the vector down"
        )


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())
