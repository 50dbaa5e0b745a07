"""Mode 3: two streams, one that tells the frequent symbols from the rest, and one of the rest.

m frequent symbols, the heads, become letters 0 to m − 1; letter m stands for "the next of the other stream", which
numbers the symbols that are no heads. Huffman's code spends a bit at least on a byte, so a stream whose bytes would
carry less is split first.

>>> from . import decode_symbols, encode_symbols
>>> symbols = np.array([9, 9, 4, 9, 0, 9, 4, 9], np.uint8)
>>> coded = encode_split(symbols, np.bincount(symbols, minlength=10), 2, encode_symbols)
>>> coded[:3].hex(" ")  # two heads, 4 and 9
'02 04 09'
>>> first, second = two_parts(memoryview(coded)[3:])
>>> decode_symbols(first, 8, 3)
array([1, 1, 0, 1, 2, 1, 0, 1], dtype=uint8)
>>> decode_symbols(second, 1, 8)
array([0], dtype=uint8)
>>> decode_split(memoryview(coded), 8, 10, decode_symbols)
array([9, 9, 4, 9, 0, 9, 4, 9], dtype=uint8)
"""

import numpy as np

from ..errors import WireError
from .packed import BYTE
from .parts import DecodePart, EncodePart, join_parts, two_parts


def encode_split(symbols: np.ndarray, counts: np.ndarray, num_heads: int, encode_part: EncodePart) -> bytes:
    """uint8 `symbols` that occur `counts` times, the `num_heads` most frequent ones split off."""
    heads = np.sort(np.argsort(-counts, kind="stable")[:num_heads]).astype(np.uint8)
    if num_heads == 1:
        first = (symbols != heads[0]).view(np.uint8)
    else:
        to_letter = np.full(BYTE, num_heads, np.uint8)
        to_letter[heads] = np.arange(num_heads)
        first = _translated(symbols, to_letter)
    to_number, others = np.zeros(BYTE, np.uint8), _others(heads, counts.size)
    to_number[others] = np.arange(others.size)
    second = to_number[symbols[np.flatnonzero(first == num_heads)]]
    first_counts = np.append(counts[heads], symbols.size - counts[heads].sum())
    parts = encode_part(first, num_heads + 1, first_counts), encode_part(second, others.size, None)
    return bytes([num_heads]) + heads.tobytes() + join_parts(*parts)


def decode_split(body: memoryview, count: int, alphabet: int, decode_part: DecodePart) -> np.ndarray:
    """(count,) uint8 below `alphabet`, 3 to 256."""
    num_heads = body[0] if body else 0
    heads = np.frombuffer(body[1 : 1 + num_heads], np.uint8)
    if (
        not 0 < num_heads < alphabet
        or heads.size != num_heads
        or heads.max() >= alphabet
        or (heads[1:] <= heads[:-1]).any()
    ):
        raise WireError(f"symbol stream splits off {num_heads} of {alphabet} symbols")
    first_part, second_part = two_parts(body[1 + num_heads :])
    first = decode_part(first_part, count, num_heads + 1)
    # Of one head the rest may be most symbols, and a mask takes an eighth of the memory of their places.
    rest = first == num_heads if num_heads == 1 else np.flatnonzero(first == num_heads)
    num_rest = int(np.count_nonzero(rest)) if num_heads == 1 else rest.size
    if num_heads > 1 and num_rest > count // 2:
        raise WireError(f"symbol stream escapes {num_rest} of {count} symbols")
    second = decode_part(second_part, num_rest, alphabet - num_heads)
    to_symbol = np.zeros(BYTE, np.uint8)
    to_symbol[:num_heads] = heads
    symbols = _translated(first, to_symbol)
    symbols[rest] = _others(heads, alphabet)[second]
    return symbols


def _others(heads: np.ndarray, alphabet: int) -> np.ndarray:
    """The symbols below `alphabet` that are no heads, rising."""
    return np.setdiff1d(np.arange(alphabet, dtype=np.uint8), heads, assume_unique=True)


def _translated(symbols: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[symbol]; faster than numpy's."""
    return np.frombuffer(bytearray(symbols).translate(table.tobytes()), np.uint8)
