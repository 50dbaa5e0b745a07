"""How a block becomes the body of its kind, and back; each family of kinds has a file of its own beside this one."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from ..blocks import Block, Lattice, PlacedBlock, PowerBlock, RotatedBlock, SeededBlock, SparseBlock, SymbolBlock
from ..bucketed import BucketBlock
from ..dithered import DitherBlock
from . import kinds
from .bucket_blocks import decode_bucketed, encode_bucketed
from .dense_blocks import decode_cut, decode_dense, decode_masked, encode_dense
from .dither_blocks import decode_dither, encode_dither
from .errors import WireError
from .limits import Budget
from .placed_blocks import decode_placed, encode_placed
from .power_blocks import decode_powers, encode_powers
from .rotated_blocks import decode_rotated, encode_rotated
from .sparse_blocks import decode_lettered, decode_seeded, decode_sparse, encode_seeded, encode_sparse
from .symbol_blocks import (
    MAX_ALPHABET,
    decode_symbol_block,
    decode_upper,
    decode_wide,
    encode_symbol_block,
    encode_wide,
)


def encode_block(block: Block) -> tuple[int, kinds.Body]:
    """(kind, body) of a block, in the shortest of the forms that it can take."""
    dense_length = 4 * block.size
    kind: int = kinds.DENSE
    body: kinds.Body = b""
    if isinstance(block, SparseBlock):
        kind, body = encode_sparse(block)
    elif isinstance(block, SeededBlock):
        kind, body = encode_seeded(block)
    elif isinstance(block, SymbolBlock) and block.alphabet.count <= MAX_ALPHABET:
        kind, body = kinds.SYMBOLS, encode_symbol_block(block)
    elif isinstance(block, SymbolBlock) and isinstance(block.alphabet, Lattice):
        kind, body = encode_wide(block.symbols.cpu().numpy(), block.alphabet)
    elif isinstance(block, PowerBlock):
        kind, body = kinds.POWERS, encode_powers(block)
    elif isinstance(block, RotatedBlock) and block.is_finite():
        kind, body = kinds.ROTATED, encode_rotated(block)
    elif isinstance(block, BucketBlock) and block.is_finite():
        kind, body = kinds.BUCKETED, encode_bucketed(block)
    elif isinstance(block, DitherBlock):
        kind, body = kinds.DITHER, encode_dither(block)
    elif isinstance(block, PlacedBlock):
        body = encode_placed(block, encode_block)
        if not body:  # floats are shorter
            return encode_block(block.plain())
        kind = kinds.PLACED
    if isinstance(block, PowerBlock) and 8 * len(body) > (9 + block.bits) * block.size:
        return min((kind, body), encode_dense(block.dense()), key=lambda form: len(form[1]))
    if body and len(body) < dense_length:
        return kind, body
    return encode_dense(block.dense())


def held_bytes(kind: int, block: Block) -> int:
    """Memory, in bytes, of what a reader makes of `block` written as `kind`: in a dense form that of a vector."""
    if kind & ~kinds.BFLOAT16 in (kinds.DENSE, kinds.MASKED, kinds.CUT):
        return 4 * block.size
    return block.held_bytes if kind == kinds.PLACED or not isinstance(block, PlacedBlock) else block.plain().held_bytes


def decode_body(kind: int, body: memoryview, size: int, budget: Budget, is_placed: bool = False) -> Block:
    """The block of `size` coordinates in `body`; WireError if it is none, or costs more than the budget has.

    One that is the values of a placed block is none itself.
    """
    if kind == kinds.PLACED and not is_placed:
        return decode_placed(body, size, budget, partial(decode_body, is_placed=True))
    if kind in _READERS:
        return _READERS[kind](body, size, budget)
    reader = _READERS_OF_VALUES.get(kind & ~kinds.BFLOAT16)
    if reader is None:
        raise WireError(f"payload has a block of unknown kind {kind}")
    if len(body) > 4 * size:
        raise WireError(f"block of {len(body)} bytes is longer than {size} float32 values")
    return reader(body, size, 2 if kind & kinds.BFLOAT16 else 4, budget)


_READERS: Mapping[int, Callable[[memoryview, int, Budget], Block]] = MappingProxyType(
    {
        kinds.SYMBOLS: decode_symbol_block,
        kinds.POWERS: decode_powers,
        kinds.CUT: decode_cut,
        kinds.WIDE: decode_wide,
        kinds.UPPER: decode_upper,
        kinds.ROTATED: decode_rotated,
        kinds.DITHER: decode_dither,
        kinds.BUCKETED: decode_bucketed,
    }
)

_READERS_OF_VALUES: Mapping[int, Callable[[memoryview, int, int, Budget], Block]] = MappingProxyType(
    {
        kinds.DENSE: decode_dense,
        kinds.SPARSE: decode_sparse,
        kinds.MASKED: decode_masked,
        kinds.SEEDED: decode_seeded,
        kinds.LETTERED: decode_lettered,
    }
)
"""Of kinds whose values are of 2 or 4 bytes, as bit 7 of the kind says."""
