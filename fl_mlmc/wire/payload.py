"""The payload format: `encode_payload` and `decode_payload`. FORMAT.md beside this file describes every byte.

Codecs lose nothing: decoding gives back the very blocks that were encoded. A decoder checks every length against
what the receiver expects before it allocates; bytes that break a rule raise `WireError`.
"""

import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Payload, SparseBlock
from .errors import WireError
from .rice import decode_indices, encode_indices

MAGIC = b"MLMC"
VERSION = 1
MAX_SIZE = 2**32 - 1

_HEADER = struct.Struct("<4sBBII")  # magic, version, number of blocks, size, CRC-32
_BLOCK = struct.Struct("<BI")  # kind, length of the body
_SPARSE = struct.Struct("<IB")  # number of entries, Rice shift
_DENSE_KIND, _SPARSE_KIND = 1, 2


def sparse_limit(size: int) -> int:
    """The most entries of a sparse block: decoding more would take more memory than two dense vectors."""
    return min(size, max(size // 8, 1024))


def encode_payload(payload: Payload) -> bytes:
    """The bytes of a payload, the same on every machine."""
    if not 0 < payload.size <= MAX_SIZE:
        raise ValueError(f"a payload holds 1 to {MAX_SIZE} coordinates, this one has {payload.size}")
    if len(payload.blocks) > 255:
        raise ValueError(f"a payload holds at most 255 blocks, this one has {len(payload.blocks)}")
    body = b"".join(map(_encode_block, payload.blocks))
    head = _HEADER.pack(MAGIC, VERSION, len(payload.blocks), payload.size, 0)
    return _HEADER.pack(MAGIC, VERSION, len(payload.blocks), payload.size, _checksum(head, body)) + body


def decode_payload(data: bytes, size: int) -> Payload:
    """The payload in `data`, which the receiver expects to hold `size` coordinates; WireError if it does not."""
    if len(data) < _HEADER.size:
        raise WireError(f"payload has {len(data)} bytes, its header alone needs {_HEADER.size}")
    magic, version, num_blocks, declared, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"payload begins with {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise WireError(f"payload has format version {version}, this reader knows {VERSION}")
    if declared != size:
        raise WireError(f"payload describes {declared} coordinates, expected {size}")
    body = memoryview(data)[_HEADER.size :]
    if checksum != _checksum(_HEADER.pack(magic, version, num_blocks, declared, 0), body):
        raise WireError("payload's checksum does not match its bytes")
    blocks, position = [], 0
    for _ in range(num_blocks):
        if len(body) - position < _BLOCK.size:
            raise WireError("payload ends inside a block header")
        kind, length = _BLOCK.unpack_from(body, position)
        position += _BLOCK.size
        if length > len(body) - position:
            raise WireError(f"block declares {length} bytes, {len(body) - position} are left")
        blocks.append(_decode_block(kind, body[position : position + length], size))
        position += length
    if position != len(body):
        raise WireError(f"payload has {len(body) - position} bytes after its last block")
    return Payload(size, tuple(blocks))


def _checksum(head: bytes, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(head))


def _encode_block(block: Block) -> bytes:
    dense_length = 4 * block.size
    if isinstance(block, SparseBlock) and block.indices.numel() <= sparse_limit(block.size):
        body = _encode_sparse(block)
        if len(body) < dense_length:
            return _BLOCK.pack(_SPARSE_KIND, len(body)) + body
    return _BLOCK.pack(_DENSE_KIND, dense_length) + _float_bytes(block.dense())


def _encode_sparse(block: SparseBlock) -> bytes:
    shift, low, unary = encode_indices(block.indices.cpu().numpy(), block.size)
    return _SPARSE.pack(block.indices.numel(), shift) + _float_bytes(block.values) + low + unary


def _decode_block(kind: int, body: memoryview, size: int) -> Block:
    if kind == _DENSE_KIND:
        if len(body) != 4 * size:
            raise WireError(f"dense block has {len(body)} bytes, {size} coordinates need {4 * size}")
        return DenseBlock(_floats(body))
    if kind == _SPARSE_KIND:
        return _decode_sparse(body, size)
    raise WireError(f"payload has a block of unknown kind {kind}")


def _decode_sparse(body: memoryview, size: int) -> SparseBlock:
    if not _SPARSE.size <= len(body) < max(4 * size, _SPARSE.size + 1):
        raise WireError(f"sparse block has {len(body)} bytes, more than a dense one or less than its header")
    count, shift = _SPARSE.unpack_from(body)
    values_end = _SPARSE.size + 4 * count
    low_end = values_end + (count * shift + 7) // 8
    if count > sparse_limit(size) or low_end > len(body):
        raise WireError(f"sparse block of {len(body)} bytes cannot hold {count} entries of shift {shift}")
    indices = decode_indices(count, size, shift, bytes(body[values_end:low_end]), bytes(body[low_end:]))
    return SparseBlock(size, torch.from_numpy(indices), _floats(body[_SPARSE.size : values_end]))


def _float_bytes(values: Tensor) -> bytes:
    if values.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(values))).all()):
        raise ValueError(
            "a payload's values must be finite; rescaled, these leave float32's range: scale the vector down"
        )
    return values.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()


def _floats(body: memoryview) -> Tensor:
    values = np.frombuffer(body, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise WireError("payload holds values that are not finite")
    return torch.from_numpy(values)
