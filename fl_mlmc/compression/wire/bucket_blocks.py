"""Whole units and a digit of each coordinate, whose scale is its bucket's: the scales, and a stream of letters."""

import struct

import numpy as np

from ..bucketed import BucketBlock
from .errors import WireError
from .floats import decode_floats, tensor
from .limits import Budget
from .symbol_blocks import MAX_ALPHABET
from .symbols import decode_symbols, encode_symbols
from .symbols.packed import BYTE

_BUCKETED = struct.Struct("<fIH")  # unit, coordinates of a bucket, letters


def encode_bucketed(block: BucketBlock) -> bytes:
    """The body of a block whose values are finite."""
    symbols, scales = block.symbols.cpu().numpy(), block.scales.cpu().numpy().astype("<f4", copy=False)
    count = 2 * block.most + 1
    stream = encode_symbols(symbols if count <= BYTE else symbols.view(np.uint16), count)
    return _BUCKETED.pack(block.unit, block.bucket, count) + scales.tobytes() + stream


def decode_bucketed(body: memoryview, size: int, budget: Budget) -> BucketBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    unit, bucket, count = _BUCKETED.unpack_from(body) if len(body) > _BUCKETED.size else (0.0, 0, 0)
    if not 0 < bucket <= size or count % 2 == 0 or count > MAX_ALPHABET or len(body) > 4 * size:
        raise WireError(f"bucketed block of {len(body)} bytes has buckets of {bucket}, and {count} letters")
    end = _BUCKETED.size + 4 * -(-size // bucket)
    if end >= len(body):
        raise WireError(f"bucketed block has {len(body)} bytes, its head and scales alone need {end}")
    budget.hold((1 if count <= BYTE else 2) * size + end - _BUCKETED.size)
    scales = decode_floats(body[_BUCKETED.size : end], 4)
    symbols = decode_symbols(body[end:], size, count, budget)
    block = BucketBlock(tensor(symbols if count <= BYTE else symbols.view(np.int16)), count // 2, unit, scales, bucket)
    with np.errstate(over="ignore", invalid="ignore"):
        if not block.is_finite():
            raise WireError("payload holds values that are not finite")
    return block
