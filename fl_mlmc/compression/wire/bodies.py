"""How a block becomes the body of its kind, and back; each family of kinds has a file of its own beside this one."""

from ..blocks import Block, DenseBlock, Lattice, PowerBlock, SeededBlock, SparseBlock, SymbolBlock
from . import kinds
from .dense_blocks import decode_cut, decode_masked, encode_dense
from .errors import WireError
from .floats import decode_floats
from .limits import allow
from .power_blocks import decode_powers, encode_powers
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
    if isinstance(block, PowerBlock) and 8 * len(body) > (9 + block.bits) * block.size:
        return min((kind, body), encode_dense(block.dense()), key=lambda form: len(form[1]))
    if body and len(body) < dense_length:
        return kind, body
    return encode_dense(block.dense())


def decode_body(kind: int, body: memoryview, size: int, held_limit: int) -> Block:
    """The block of `size` coordinates in `body`; WireError if it is none, or would hold more bytes than allowed."""
    width = 2 if kind & kinds.BFLOAT16 else 4
    if kind == kinds.SYMBOLS:
        allow(size, held_limit)
        return decode_symbol_block(body, size, held_limit)
    if kind == kinds.POWERS:
        allow(2 * size, held_limit)
        return decode_powers(body, size, held_limit)
    if kind == kinds.WIDE:
        allow(4 * size, held_limit)
        return decode_wide(body, size)
    if kind == kinds.UPPER:
        allow(4 * size, held_limit)
        return decode_upper(body, size)
    if kind == kinds.CUT:
        allow(4 * size, held_limit)
        return decode_cut(body, size)
    match kind & ~kinds.BFLOAT16:
        case _ if len(body) > 4 * size:
            raise WireError(f"block of {len(body)} bytes is longer than {size} float32 values")
        case kinds.DENSE:
            allow(4 * size, held_limit)
            if len(body) != width * size:
                raise WireError(f"dense block has {len(body)} bytes, {size} coordinates need {width * size}")
            return DenseBlock(decode_floats(body, width))
        case kinds.SPARSE:
            return decode_sparse(body, size, width, held_limit)
        case kinds.MASKED:
            allow(4 * size, held_limit)
            return decode_masked(body, size, width)
        case kinds.SEEDED:
            return decode_seeded(body, size, width, held_limit)
        case kinds.LETTERED:
            return decode_lettered(body, size, width, held_limit)
    raise WireError(f"payload has a block of unknown kind {kind}")
