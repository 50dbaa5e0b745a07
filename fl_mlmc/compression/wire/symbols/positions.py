"""Mode 2: of two letters, where the rare one stands, as an index code.

>>> symbols = np.ones(80, np.uint8)
>>> symbols[[3, 4, 70]] = 0
>>> coded = encode_positions(symbols, 0)
>>> coded[:5].hex(" ")  # letter 0 stands in 3 places
'00 03 00 00 00'
>>> np.flatnonzero(decode_positions(memoryview(coded), 80) == 0)
array([ 3,  4, 70])
"""

import struct

import numpy as np

from ..errors import WireError
from ..rice import decode_indices, encode_indices

_HEADER = struct.Struct("<BI")  # marked symbol, how many
_MOST_SHARE, _MOST = 8, 64  # an eighth of the symbols may be marked, or 64 of them


def encode_positions(symbols: np.ndarray, marked: int) -> bytes:
    """The places of symbol `marked` among uint8 `symbols` that are 0 and 1."""
    ones = symbols.view(bool)
    indices = np.flatnonzero(ones if marked else ~ones)
    return _HEADER.pack(marked, indices.size) + encode_indices(indices, symbols.size)


def decode_positions(body: memoryview, count: int) -> np.ndarray:
    """(count,) uint8, 0 or 1."""
    if len(body) < _HEADER.size:
        raise WireError("symbol stream ends inside its header of positions")
    marked, num_marked = _HEADER.unpack_from(body)
    if marked > 1 or num_marked > max(_MOST, count // _MOST_SHARE):
        raise WireError(f"symbol stream of {len(body)} bytes cannot mark {num_marked} of {count} positions")
    symbols = np.full(count, 1 - marked, np.uint8)
    symbols[decode_indices(body[_HEADER.size :], num_marked, count)] = marked
    return symbols
