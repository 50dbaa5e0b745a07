"""All coordinates: dense, masked (many of them zero) and cut (their last bits zero)."""

import struct

import numpy as np
import torch
from torch import Tensor

from ..blocks import DenseBlock
from .errors import WireError
from .floats import LOWER_HALF, bytes_of, check_floats, decode_floats, finite, floats, words_of
from .kinds import BFLOAT16, CUT, DENSE, MASKED, Body
from .limits import Budget
from .symbols import decode_symbols, encode_mask
from .words import decode_words, encode_words, words_length

_MASKED = struct.Struct("<I")  # length of the mask
_BITS, _MANTISSA = 32, 23  # of a float32


def encode_dense(values: Tensor) -> tuple[int, Body]:
    """(kind, body) of float32 values, the shortest of dense, masked and cut; ValueError unless they are finite."""
    words = words_of(values)
    check_floats(words)
    union, num_filled = int(np.bitwise_or.reduce(words)), int(np.count_nonzero(words))
    kept = _num_kept_bits(union)
    width, flag = (4, 0) if union & LOWER_HALF else (2, BFLOAT16)
    lengths = {DENSE: width * words.size}
    if (words.size - num_filled) * _BITS > words.size:  # a mask costs a bit a coordinate at most
        marks = words != 0
        mask = encode_mask(marks)
        lengths[MASKED] = _MASKED.size + len(mask) + width * num_filled
    if kept:
        lengths[CUT] = 1 + words_length(words.size, kept)
    kind = min(lengths, key=lambda each: lengths[each])
    if kind == CUT:
        return CUT, encode_words(words, kept, _BITS - kept, bytes([kept]))
    if kind == DENSE:
        return DENSE | flag, bytes_of(words, width)
    return MASKED | flag, _MASKED.pack(len(mask)) + mask + bytes_of(words[marks], width)


def _num_kept_bits(union: int) -> int:
    """Upper bits without which no value would be the same, 9 to 31; 0 if these are all, or none of them are zero."""
    num_zeros = min((union & -union).bit_length() - 1, _MANTISSA) if union else 0
    return _BITS - num_zeros if num_zeros else 0


def decode_dense(body: memoryview, size: int, width: int, budget: Budget) -> DenseBlock:
    """The block of a dense body whose values have `width` bytes; WireError if it is none, or costs too much."""
    budget.hold(4 * size)
    if len(body) != width * size:
        raise WireError(f"dense block has {len(body)} bytes, {size} coordinates need {width * size}")
    return DenseBlock(decode_floats(body, width))


def decode_cut(body: memoryview, size: int, budget: Budget) -> DenseBlock:
    """The block of a cut body; WireError if it is none, or costs too much."""
    budget.hold(4 * size)
    kept = body[0] if body else 0
    if not _BITS - _MANTISSA <= kept < _BITS:
        raise WireError(f"cut block keeps {kept} bits of a float32, expected 9 to 31")
    words = decode_words(body[1:], size, kept)
    words <<= np.uint32(_BITS - kept)
    return DenseBlock(torch.from_numpy(finite(words.view("<f4").astype(np.float32, copy=False))))


def decode_masked(body: memoryview, size: int, width: int, budget: Budget) -> DenseBlock:
    """The block of a masked body whose values have `width` bytes; WireError if it is none, or costs too much."""
    budget.hold(4 * size)
    end = _MASKED.size + (_MASKED.unpack_from(body)[0] if len(body) >= _MASKED.size else len(body))
    if end > len(body):
        raise WireError(f"masked block of {len(body)} bytes has a mask that ends at {end}")
    filled = decode_symbols(body[_MASKED.size : end], size, 2, budget).view(bool)
    num_filled = int(np.count_nonzero(filled))
    if len(body) - end != width * num_filled:
        raise WireError(f"masked block has {len(body) - end} bytes for {num_filled} values of {width} bytes")
    values = np.zeros(size, np.float32)
    values[filled] = finite(floats(body[end:], width))
    return DenseBlock(torch.from_numpy(values))
