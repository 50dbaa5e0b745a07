"""A few coordinates: sparse, lettered (many values equal), and seeded (both sides draw the indices)."""

import struct

import numpy as np
import torch
from torch import Tensor

from ..blocks import SeededBlock, SparseBlock
from .errors import WireError
from .floats import decode_floats, encode_floats, finite, words_of
from .kinds import DENSE, LETTERED, SEEDED, SPARSE
from .limits import Budget, sparse_limit
from .rice import decode_indices, encode_indices
from .symbols import decode_symbols, encode_symbols

_SPARSE = struct.Struct("<I")  # number of entries
_LETTERED = struct.Struct("<IIBI")  # number of entries, of them that have no letter, of letters, length of their stream
_MASKED = struct.Struct("<I")  # length of the mask
_SEEDED = struct.Struct("<Q")  # seed
_LEAST_SHARED = 3  # occurrences of a value that gets a letter, which costs as much as a value itself
_MOST_SHARED = 254  # values that get one
_GLANCE = 256  # values that show whether many are equal


def encode_sparse(block: SparseBlock) -> tuple[int, bytes]:
    """(kind, body), of sparse and lettered the shorter; (DENSE, nothing) if it has too many entries for both.

    ValueError unless the values are finite.
    """
    if block.indices.numel() > sparse_limit(block.size):
        return DENSE, b""
    code = encode_indices(block.indices.cpu().numpy(), block.size)
    width, values = encode_floats(block.values)
    plain = (width | SPARSE, _SPARSE.pack(block.indices.numel()) + values + code)
    if (lettered := _encode_lettered(block.values)) is None:
        return plain
    kind, body = lettered
    return min(plain, (kind, body + code), key=lambda form: len(form[1]))


def decode_sparse(body: memoryview, size: int, width: int, budget: Budget) -> SparseBlock:
    """The block of a sparse body whose values have `width` bytes; WireError if it is none, or costs too much."""
    if len(body) < _SPARSE.size:
        raise WireError(f"sparse block has {len(body)} bytes, its header alone needs {_SPARSE.size}")
    count = _SPARSE.unpack_from(body)[0]
    budget.hold(12 * count)
    values_end = _SPARSE.size + width * count
    if count > sparse_limit(size) or values_end > len(body):
        raise WireError(f"sparse block of {len(body)} bytes cannot hold {count} of {size} entries")
    indices = decode_indices(body[values_end:], count, size)
    values = decode_floats(body[_SPARSE.size : values_end], width)
    return SparseBlock(size, torch.from_numpy(indices), values)


def _encode_lettered(values: Tensor) -> tuple[int, bytes] | None:
    """Kind and body, but for the index code, where many entries are equal: then a letter each does; None elsewhere."""
    words = words_of(values)
    glance = words[:_GLANCE]
    if 2 * np.unique(glance).size > glance.size:
        return None
    distinct, counts = np.unique(words, return_counts=True)
    shared = np.sort(distinct[np.argsort(-counts, kind="stable")[:_MOST_SHARED]])
    shared = shared[np.isin(shared, distinct[counts >= _LEAST_SHARED])]
    if shared.size == 0:
        return None
    letters = np.searchsorted(shared, words).clip(max=shared.size - 1).astype(np.uint8)
    others = shared[letters] != words
    width, rest = encode_floats(values.cpu()[torch.from_numpy(others)])
    coded = encode_symbols(letters[~others], shared.size)
    head = _LETTERED.pack(words.size, int(np.count_nonzero(others)), shared.size, len(coded))
    body = head + shared.tobytes() + coded + rest
    if others.any():
        mask = encode_symbols(others.view(np.uint8), 2)
        body += _MASKED.pack(len(mask)) + mask
    return width | LETTERED, body


def decode_lettered(body: memoryview, size: int, width: int, budget: Budget) -> SparseBlock:
    """The block of a lettered body; values that are in no table have `width` bytes.

    WireError if it is none, or costs too much.
    """
    if len(body) < _LETTERED.size:
        raise WireError(f"lettered block has {len(body)} bytes, its header alone needs {_LETTERED.size}")
    count, num_others, num_shared, coded_length = _LETTERED.unpack_from(body)
    coded_start = _LETTERED.size + 4 * num_shared
    others_start = coded_start + coded_length
    mask_start = others_start + width * num_others
    budget.hold(12 * count)
    if num_shared == 0 or num_others > count or count > sparse_limit(size) or mask_start > len(body):
        raise WireError(f"lettered block of {len(body)} bytes cannot hold {count} entries with {num_shared} letters")
    is_other, code = np.zeros(count, bool), body[mask_start:]
    if num_others:
        length = _MASKED.unpack_from(code)[0] if len(code) >= _MASKED.size else len(code)
        if length > len(code) - _MASKED.size:
            raise WireError(f"lettered block has a mask of {length} bytes where {len(code)} are left")
        is_other = decode_symbols(code[_MASKED.size : _MASKED.size + length], count, 2, budget).view(bool)
        code = code[_MASKED.size + length :]
    if np.count_nonzero(is_other) != num_others:
        raise WireError(f"lettered block has {num_others} values for {np.count_nonzero(is_other)} entries without one")
    indices = decode_indices(code, count, size)
    table = np.frombuffer(body[_LETTERED.size : coded_start], "<f4")
    values = np.zeros(count, np.float32)
    letters = decode_symbols(body[coded_start:others_start], count - num_others, num_shared, budget)
    values[~is_other] = table[letters]
    values[is_other] = decode_floats(body[others_start:mask_start], width).numpy()
    return SparseBlock(size, torch.from_numpy(indices), torch.from_numpy(finite(values)))


def encode_seeded(block: SeededBlock) -> tuple[int, bytes]:
    """(kind, body): the seed and the values; ValueError unless these are finite."""
    width, values = encode_floats(block.values)
    return width | SEEDED, _SEEDED.pack(block.seed) + values


def decode_seeded(body: memoryview, size: int, width: int, budget: Budget) -> SeededBlock:
    """The block of a seeded body whose values have `width` bytes; WireError if it is none, or costs too much."""
    count, rest = divmod(len(body) - _SEEDED.size, width)
    if count < 0 or rest or count > size:
        raise WireError(
            f"seeded block has {len(body)} bytes, which is no seed and up to {size} values of {width} bytes"
        )
    budget.hold(4 * count)
    return SeededBlock(size, _SEEDED.unpack_from(body)[0], decode_floats(body[_SEEDED.size :], width))
