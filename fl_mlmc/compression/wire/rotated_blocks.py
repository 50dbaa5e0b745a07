"""A letter for each coordinate of a rotated vector: the seed, the scales of the parts, and a symbol block."""

import struct

import numpy as np

from ..blocks import RotatedBlock
from ..rotation import Rotation
from .errors import WireError
from .floats import decode_floats
from .limits import Budget
from .symbol_blocks import decode_symbol_block, encode_symbol_block

_SEED = struct.Struct("<Q")


def encode_rotated(block: RotatedBlock) -> bytes:
    """The body of a block whose values are finite."""
    scales = block.scales.cpu().numpy().astype("<f4", copy=False)
    return _SEED.pack(block.seed) + scales.tobytes() + encode_symbol_block(block.letters)


def decode_rotated(body: memoryview, size: int, budget: Budget) -> RotatedBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    letters_start = _SEED.size + 4 * Rotation(size, 0).num_parts
    if len(body) <= letters_start:
        raise WireError(f"rotated block has {len(body)} bytes, its seed and scales alone need {letters_start}")
    budget.hold(letters_start - _SEED.size)
    scales = decode_floats(body[_SEED.size : letters_start], 4)
    letters = decode_symbol_block(body[letters_start:], size, budget)
    block = RotatedBlock(letters, scales, _SEED.unpack_from(body)[0])
    with np.errstate(over="ignore"):
        if not block.is_finite():
            raise WireError("payload holds values that are not finite, or would not be once they are rotated back")
    return block
