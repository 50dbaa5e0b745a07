"""All coordinates: dense, masked (many of them zero) and cut (their last bits zero)."""

import struct

import numpy as np
import torch
from torch import Tensor

from ..blocks import DenseBlock
from .errors import WireError
from .floats import encode_floats, finite, floats, words_of
from .kinds import CUT, DENSE, MASKED
from .symbols import decode_symbols, encode_mask
from .words import decode_words, encode_words

_MASKED = struct.Struct("<I")  # length of the mask


def encode_dense(values: Tensor) -> tuple[int, bytes]:
    words = words_of(values)
    width, plain = encode_floats(values)
    forms = [(width | DENSE, plain)]
    filled = words != 0
    num_filled = int(np.count_nonzero(filled))
    if (words.size - num_filled) * 32 > words.size:  # a mask costs a bit a coordinate at most
        mask = encode_mask(filled)
        width, entries = encode_floats(torch.from_numpy(words[filled].view("<f4").astype(np.float32, copy=False)))
        forms.append((width | MASKED, _MASKED.pack(len(mask)) + mask + entries))
    if kept := _num_kept_bits(words):
        forms.append((CUT, _encode_cut(words, kept)))
    return min(forms, key=lambda form: len(form[1]))


def _num_kept_bits(words: np.ndarray) -> int:
    """Upper bits without which no value would be the same, 9 to 31; 0 if these are all, or none of them are zero."""
    union = int(np.bitwise_or.reduce(words))
    num_zeros = min((union & -union).bit_length() - 1, 23) if union else 0
    return 32 - num_zeros if num_zeros else 0


def _encode_cut(words: np.ndarray, kept: int) -> bytes:
    return bytes([kept]) + encode_words(words >> np.uint32(32 - kept), kept)


def decode_cut(body: memoryview, size: int) -> DenseBlock:
    kept = body[0] if body else 0
    if not 9 <= kept < 32:
        raise WireError(f"cut block keeps {kept} bits of a float32, expected 9 to 31")
    words = decode_words(body[1:], size, kept)
    words <<= np.uint32(32 - kept)
    return DenseBlock(finite(words.view("<f4").astype(np.float32, copy=False)))


def decode_masked(body: memoryview, size: int, width: int) -> DenseBlock:
    end = _MASKED.size + (_MASKED.unpack_from(body)[0] if len(body) >= _MASKED.size else len(body))
    if end > len(body):
        raise WireError(f"masked block of {len(body)} bytes has a mask that ends at {end}")
    filled = decode_symbols(body[_MASKED.size : end], size, 2).view(bool)
    num_filled = int(np.count_nonzero(filled))
    if len(body) - end != width * num_filled:
        raise WireError(f"masked block has {len(body) - end} bytes for {num_filled} values of {width} bytes")
    values = np.zeros(size, np.float32)
    values[filled] = floats(body[end:], width)
    return DenseBlock(finite(values))
