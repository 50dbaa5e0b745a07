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
from .packed import translated
from .parts import DecodePart, EncodePart, join_parts, two_parts

# Places take eight bytes each. Parts in parts hold some bytes a symbol already, so many places come in stretches.
_STRETCH, _MOST_STRETCHES = 1 << 14, 32


def encode_split(symbols: np.ndarray, counts: np.ndarray, num_heads: int, encode_part: EncodePart) -> bytes:
    """uint8 `symbols` that occur `counts` times, the `num_heads` most frequent ones split off."""
    heads = np.sort(np.argsort(-counts, kind="stable")[:num_heads]).astype(np.uint8)
    if num_heads == 1:
        first = (symbols != heads[0]).view(np.uint8)
    else:
        to_letter = np.full(counts.size, num_heads, np.uint8)
        to_letter[heads] = np.arange(num_heads)
        first = translated(symbols, to_letter)
    to_number, others = np.zeros(counts.size, np.uint8), _others(heads, counts.size)
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
    num_rest = int(np.count_nonzero(first == num_heads))
    if num_heads > 1 and num_rest > count // 2:
        raise WireError(f"symbol stream escapes {num_rest} of {count} symbols")
    others = _others(heads, alphabet)
    second = translated(decode_part(second_part, num_rest, others.size), others)
    symbols, done = np.full(count, heads[0]) if num_heads == 1 else translated(first, heads), 0
    step = max(_STRETCH, count * count // max(_MOST_STRETCHES * num_rest, 1))
    for start in range(0, count, step):
        done += _put(second[done:], symbols[start : start + step], first[start : start + step] == num_heads)
    return symbols


def _put(second: np.ndarray, symbols: np.ndarray, is_rest: np.ndarray) -> int:
    """Fill symbols that are the rest with the first of `second`; how many these are."""
    places = np.flatnonzero(is_rest)
    symbols[places] = second[: places.size]
    return places.size


def _others(heads: np.ndarray, alphabet: int) -> np.ndarray:
    """The symbols below `alphabet` that are no heads, rising."""
    return np.setdiff1d(np.arange(alphabet, dtype=np.uint8), heads, assume_unique=True)
