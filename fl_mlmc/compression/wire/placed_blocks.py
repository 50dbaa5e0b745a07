"""A few coordinates whose values are blocks of their own: where they stand, and a payload of one number for each."""

import struct
from collections.abc import Callable

import torch
from torch import Tensor

from ..blocks import Block, Payload, PlacedBlock
from .errors import WireError
from .kinds import Body
from .limits import Budget, sparse_limit
from .rice import decode_indices, encode_indices

_PLACED = struct.Struct("<BIB")  # form of the places, their number, number of blocks
_BLOCK = struct.Struct("<BI")  # kind, length of the body
_SEED = struct.Struct("<Q")
_INDICES_FORM, _SEED_FORM = 0, 1
_MOST_BLOCKS = 255


def encode_placed(block: PlacedBlock, encode_block: Callable[[Block], tuple[int, Body]]) -> bytes:
    """The body of the block, nothing where its values are shorter as floats; ValueError unless they are finite."""
    count, values = block.values.size, block.values
    if not values.is_finite():
        raise ValueError("a payload's values must be finite; those of a placed block are not: scale the vector down")
    if len(values.blocks) > _MOST_BLOCKS or (not isinstance(block.places, int) and count > sparse_limit(block.size)):
        return b""
    # Values of values are floats.
    coded = [encode_block(each.plain() if isinstance(each, PlacedBlock) else each) for each in values.blocks]
    inner = b"".join(part for kind, body in coded for part in (_BLOCK.pack(kind, len(body)), body))
    if len(inner) >= 4 * count:
        return b""
    form = _SEED_FORM if isinstance(block.places, int) else _INDICES_FORM
    head = _PLACED.pack(form, count, len(coded))
    if isinstance(block.places, int):
        return head + _SEED.pack(block.places) + inner
    return head + inner + encode_indices(block.places.cpu().numpy(), block.size)


def decode_placed(
    body: memoryview, size: int, budget: Budget, decode_body: Callable[[int, memoryview, int, Budget], Block]
) -> PlacedBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    form, count, num_blocks = _PLACED.unpack_from(body) if len(body) >= _PLACED.size else (None, 0, 0)
    most = {_INDICES_FORM: sparse_limit(size), _SEED_FORM: size}.get(form, 0)
    position = _PLACED.size + (_SEED.size if form == _SEED_FORM else 0)
    if not 0 < count <= most or position > len(body):
        raise WireError(f"placed block of {len(body)} bytes has no {count} of {size} places in form {form}")
    budget.hold(8 * count if form == _INDICES_FORM else 0)
    blocks = []
    for _ in range(num_blocks):
        kind, length = _BLOCK.unpack_from(body, position) if len(body) - position >= _BLOCK.size else (0, len(body))
        position += _BLOCK.size
        if length > len(body) - position:
            raise WireError(f"placed block has values of {length} bytes where {len(body) - position} are left")
        blocks.append(decode_body(kind, body[position : position + length], count, budget))
        position += length
    values = Payload(count, tuple(blocks))
    if num_blocks > 1 and not values.is_finite():
        raise WireError("payload holds values that are not finite, or nearly so")
    places: Tensor | int
    if form == _INDICES_FORM:
        places = torch.from_numpy(decode_indices(body[position:], count, size))
    elif position < len(body):
        raise WireError(f"placed block has {len(body) - position} bytes after its values")
    else:
        places = _SEED.unpack_from(body, _PLACED.size)[0]
    return PlacedBlock(size, places, values)
