"""The payload format: `encode_payload` and `decode_payload`. FORMAT.md beside this file describes every byte.

Codecs lose nothing: decoding gives back the very values that were encoded. A decoder checks every length against
what the receiver expects before it allocates; bytes that break a rule raise `WireError`.

>>> import torch
>>> from fl_mlmc.compression.blocks import SparseBlock
>>> entries = SparseBlock(1000, torch.tensor([3, 500]), torch.tensor([0.5, -2.0]))
>>> data = encode_payload(Payload(1000, (entries,)))
>>> data[:10].hex(" ")  # magic, version 1, one block, 1000 coordinates; then the checksum
'4d 4c 4d 43 01 01 e8 03 00 00'
>>> data[14:].hex(" ")  # kind 2 with bfloat16 values, 12 bytes: two entries, 0.5, -2, where they stand
'82 0c 00 00 00 02 00 00 00 00 3f 00 c0 07 03 38 11'
>>> decode_payload(data, 1000).blocks[0].indices
tensor([  3, 500])
>>> decode_payload(data, 999)
Traceback (most recent call last):
fl_mlmc.compression.wire.errors.WireError: payload describes 1000 coordinates, expected 999
"""

import struct

from ..blocks import Block, DenseBlock, Payload
from .bodies import decode_body, encode_block, held_bytes
from .errors import WireError
from .limits import Budget, work_limit

try:
    from zlib_ng.zlib_ng import crc32  # zlib's number, sooner: extra `fast`
except ImportError:
    from zlib import crc32

MAGIC = b"MLMC"
VERSION = 1
MAX_SIZE = 2**32 - 1
MAX_BLOCKS = 255

_HEADER = struct.Struct("<4sBBII")  # magic, version, number of blocks, size, CRC-32
_BLOCK = struct.Struct("<BI")  # kind, length of the body


def encode_payload(payload: Payload) -> bytes:
    """The bytes of a payload; never longer than those of one dense block.

    ValueError unless it has 1 to `MAX_SIZE` coordinates, at most `MAX_BLOCKS` blocks, and finite values.
    """
    if not 0 < payload.size <= MAX_SIZE:
        raise ValueError(f"a payload holds 1 to {MAX_SIZE} coordinates, this one has {payload.size}")
    if len(payload.blocks) > MAX_BLOCKS:
        raise ValueError(f"a payload holds at most {MAX_BLOCKS} blocks, this one has {len(payload.blocks)}")
    if sum(block.held_bytes for block in payload.blocks) > work_limit(payload.size):
        payload = Payload(payload.size, (DenseBlock(payload.dense()),))
    blocks = [encode_block(block) for block in payload.blocks]
    if len(blocks) > 1:
        # A block that is shorter in a dense form holds more there.
        held = sum(held_bytes(kind, block) for (kind, _), block in zip(blocks, payload.blocks, strict=True))
        length = sum(_BLOCK.size + len(body) for _, body in blocks)
        if length > 4 * payload.size or held > work_limit(payload.size):
            blocks = [encode_block(DenseBlock(payload.dense()))]
        elif not payload.is_finite():
            raise ValueError("a payload's values must be finite; the sum of its blocks is not: scale the vector down")
    parts = [part for kind, body in blocks for part in (_BLOCK.pack(kind, len(body)), body)]
    head = _HEADER.pack(MAGIC, VERSION, len(blocks), payload.size, 0)
    checksum = crc32(head)
    for part in parts:
        checksum = crc32(part, checksum)
    head = _HEADER.pack(MAGIC, VERSION, len(blocks), payload.size, checksum)
    return b"".join([head, *parts])


def decode_payload(data: bytes, size: int) -> Payload:
    """The payload in `data`, which the receiver expects to hold `size` coordinates; WireError if it does not."""
    if len(data) < _HEADER.size:
        raise WireError(f"payload has {len(data)} bytes, its header alone needs {_HEADER.size}")
    magic, version, num_blocks, declared, stated = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"payload begins with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"payload has format version {version}, this reader knows {VERSION}")
    if declared != size or size < 1:
        raise WireError(f"payload describes {declared} coordinates, expected {size}")
    body = memoryview(data)[_HEADER.size :]
    if stated != crc32(body, crc32(_HEADER.pack(magic, version, num_blocks, declared, 0))):
        raise WireError("payload's checksum does not match its bytes")
    payload = Payload(size, tuple(_read_blocks(body, num_blocks, size)))
    if num_blocks > 1 and not payload.is_finite():
        raise WireError("payload's blocks sum to values that are not finite, or nearly so")
    return payload


def _read_blocks(body: memoryview, num_blocks: int, size: int) -> list[Block]:
    """The blocks that fill `body`."""
    blocks: list[Block] = []
    position, budget = 0, Budget(size)
    for _ in range(num_blocks):
        if len(body) - position < _BLOCK.size:
            raise WireError("payload ends inside a block header")
        kind, length = _BLOCK.unpack_from(body, position)
        position += _BLOCK.size
        if length > len(body) - position:
            raise WireError(f"block declares {length} bytes, {len(body) - position} are left")
        blocks.append(decode_body(kind, body[position : position + length], size, budget))
        position += length
    if position != len(body):
        raise WireError(f"payload has {len(body) - position} bytes after its last block")
    return blocks
