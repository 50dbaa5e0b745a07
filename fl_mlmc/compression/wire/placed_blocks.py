"""A few coordinates whose values are blocks of their own: where they stand, and a payload of one number for each."""

import struct
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, Payload, PlacedBlock, values_seed
from ..dithered import DitherBlock
from .dither_blocks import decode_dither, without_seed
from .errors import WireError
from .floats import tensor
from .kinds import DITHER, SHARED, Body
from .limits import Budget, sparse_limit
from .rice import decode_indices, encode_indices
from .symbols import decode_symbols, encode_mask

_PLACED = struct.Struct("<BIB")  # form of the places, their number, number of blocks
_BLOCK = struct.Struct("<BI")  # kind, length of the body
_SEED = struct.Struct("<Q")
_INDICES_FORM, _SEED_FORM, _MARKS_FORM = 0, 1, 2
_MOST_BLOCKS = 255


def encode_placed(block: PlacedBlock, encode_block: Callable[[Block], tuple[int, Body]]) -> bytes:
    """The body of the block, nothing where its values are shorter as floats; ValueError unless they are finite."""
    count, values = block.values.size, block.values
    if not values.is_finite():
        raise ValueError("a payload's values must be finite; those of a placed block are not: scale the vector down")
    places, form = block.places, _form(block.places)
    if len(values.blocks) > _MOST_BLOCKS or (form == _INDICES_FORM and count > sparse_limit(block.size)):
        return b""
    seed = values_seed(places) if isinstance(places, int) else None
    coded = [_encode_value(each, seed, encode_block) for each in values.blocks]
    inner = b"".join(part for kind, body in coded for part in (_BLOCK.pack(kind, len(body)), body))
    if len(inner) >= 4 * count:
        return b""
    head = _PLACED.pack(form, count, len(coded))
    if isinstance(places, int):
        return head + _SEED.pack(places) + inner
    where = places.cpu().numpy()
    return head + inner + (encode_mask(where) if form == _MARKS_FORM else encode_indices(where, block.size))


def _form(places: Tensor | int) -> int:
    if isinstance(places, int):
        return _SEED_FORM
    return _MARKS_FORM if places.dtype == torch.bool else _INDICES_FORM


def _encode_value(
    block: Block, seed: int | None, encode_block: Callable[[Block], tuple[int, Body]]
) -> tuple[int, Body]:
    """(kind, body) of a block of the values; one that is dithered by `seed`, which the reader knows, without it."""
    # Values of values are floats.
    kind, body = encode_block(block.plain() if isinstance(block, PlacedBlock) else block)
    if kind == DITHER and isinstance(block, DitherBlock) and block.seed == seed:
        return SHARED, without_seed(body)
    return kind, body


def decode_placed(
    body: memoryview, size: int, budget: Budget, decode_body: Callable[[int, memoryview, int, Budget], Block]
) -> PlacedBlock:
    """The block in `body`; WireError if it is none, or costs too much."""
    form, count, num_blocks = _PLACED.unpack_from(body) if len(body) >= _PLACED.size else (None, 0, 0)
    most = {_INDICES_FORM: sparse_limit(size), _SEED_FORM: size, _MARKS_FORM: size}.get(form, 0)
    position = _PLACED.size + (_SEED.size if form == _SEED_FORM else 0)
    if not 0 < count <= most or position > len(body):
        raise WireError(f"placed block of {len(body)} bytes has no {count} of {size} places in form {form}")
    budget.hold({_INDICES_FORM: 8 * count, _MARKS_FORM: size}.get(form, 0))
    seed = _SEED.unpack_from(body, _PLACED.size)[0] if form == _SEED_FORM else None
    blocks: list[Block] = []
    for _ in range(num_blocks):
        kind, length = _BLOCK.unpack_from(body, position) if len(body) - position >= _BLOCK.size else (0, len(body))
        position += _BLOCK.size
        if length > len(body) - position:
            raise WireError(f"placed block has values of {length} bytes where {len(body) - position} are left")
        part = body[position : position + length]
        if kind == SHARED and seed is not None:
            blocks.append(decode_dither(part, count, budget, values_seed(seed)))
        else:
            blocks.append(decode_body(kind, part, count, budget))
        position += length
    values = Payload(count, tuple(blocks))
    if num_blocks > 1 and not values.is_finite():
        raise WireError("payload holds values that are not finite, or nearly so")
    places: Tensor | int
    if form == _INDICES_FORM:
        places = torch.from_numpy(decode_indices(body[position:], count, size))
    elif form == _MARKS_FORM:
        marks = decode_symbols(body[position:], size, 2, budget)
        if np.count_nonzero(marks) != count:
            raise WireError(f"placed block marks {np.count_nonzero(marks)} places for {count} values")
        places = tensor(marks.view(bool))
    elif position < len(body):
        raise WireError(f"placed block has {len(body) - position} bytes after its values")
    else:
        places = _SEED.unpack_from(body, _PLACED.size)[0]
    return PlacedBlock(size, places, values)
