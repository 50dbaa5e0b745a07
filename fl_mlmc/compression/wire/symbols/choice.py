"""Which mode a stream is written in: the shortest, or nearly, among those that are fast at its length.

Several symbols share a byte, and deflate's Huffman stage shortens the bytes. A Huffman code spends at least one bit on
each, so a stream whose bytes would carry less information than that is split first. Rare marks are written as
positions. Where the description of a code would weigh, as in short streams, rANS takes their place: a step in Python
for some symbols, and no more than a few bytes beyond the entropy. Long streams go into many lanes.
"""

import zlib
from functools import partial

import numpy as np
import torch

from ...pointwise import tally
from .deflated import encode_deflated
from .lanes import MOST_LETTERS, encode_lanes, is_worth_lanes
from .low_bits import LEAST_LETTERS, WIDTHS, encode_low_bits, merged
from .modes import DEFLATED, LANES, LOW_BITS, MAX_DEPTH, PACKED, PLAIN, PLANES, POSITIONS, RANS, SPLIT, TRITS
from .packed import BYTE, encode_packed, per_byte
from .parts import EncodePart
from .plain import encode_plain, plain_length
from .planes import encode_planes
from .positions import encode_positions
from .rans import encode_rans
from .split import encode_split
from .trits import encode_trits

_LONG = 1 << 20  # symbols from which many lanes pay for themselves, compiled or not
_SHORT = 64  # symbols that no Huffman code pays for
_MANY_TRITS = 4000  # digits from which the bits saved beside five a byte are worth long numbers
_RARE = 0.1  # positions of fewer ones than this are shorter than packed bits
_HEAVY = 0.98  # share of a symbol whose exceptions are better named by where they stand
_EVEN = 0.98  # share of an alphabet's log2 that is not worth a code
_UNIFORM = 0.007  # share of the bits that low bits may lose by being sent as they are
_FULL_BITS = 7.85  # information of a byte that is not worth a code
_GOOD_BITS = 3.3  # information a byte must carry for Huffman's code to be tight
_NEAR, _FEW_BITS = 1.03, 64  # streams beyond this share of their entropy and so many bits are worth slower steps
_NUM_HEADS = (15, 5, 2)  # with the letter for the rest two, three and five of them fill a byte
_MANY_LETTERS, _MOSTLY_HEADS = 32, 0.97  # of more letters, heads that are so large a share are split off anyway


def most_together(size: int) -> int:
    """Letters of the largest alphabet that `size` symbols are coded in; low and high bytes of larger ones go apart."""
    return MOST_LETTERS if size >= _LONG else BYTE


def encode_symbols(symbols: np.ndarray, alphabet: int, counts: np.ndarray | None = None, depth: int = 0) -> bytes:
    """The stream of uint8 `symbols` below `alphabet`, or uint16 ones above 256 letters.

    `counts`, of shape (alphabet,), is how often each letter occurs, for a caller who knows. A part of a stream has the
    `depth` of that stream plus one.
    """
    if alphabet == 1 or symbols.size == 0:
        coded = bytes([PACKED])
    elif alphabet > most_together(symbols.size):
        coded = _in_planes(symbols, alphabet, depth)
    else:
        signed = symbols if alphabet <= BYTE else symbols.view(np.int16)
        counts = tally(torch.from_numpy(signed), alphabet) if counts is None else counts
        coded = _encode_counted(symbols, counts, depth)
    if len(coded) > 1 + plain_length(symbols.size, alphabet):
        return bytes([PLAIN]) + encode_plain(symbols, alphabet)
    return coded


def encode_mask(marks: np.ndarray) -> bytes:
    """A stream of two letters for bool `marks` that may come in runs, as the zeros of units that never fire do."""
    runs = bytes([DEFLATED]) + encode_deflated(encode_packed(marks, 2), zlib.Z_RLE)
    num_marks = int(np.count_nonzero(marks))
    if 8 * len(runs) <= marks.size * _entropy(np.array([marks.size - num_marks, num_marks])):
        return runs
    return min(runs, encode_symbols(marks.view(np.uint8), 2), key=len)


def _encode_counted(symbols: np.ndarray, counts: np.ndarray, depth: int) -> bytes:
    """`symbols` that occur `counts` times: in lanes if they are many, as letters of a Huffman code, or by rANS."""
    alphabet, bits = counts.size, symbols.size * _entropy(counts)
    if symbols.size >= _LONG and counts.max() < _HEAVY * symbols.size:
        if alphabet <= BYTE and per_byte(alphabet) * bits >= _FULL_BITS * symbols.size:
            return _encode_even(symbols, alphabet)
        if bits < _EVEN * np.log2(alphabet) * symbols.size and is_worth_lanes(counts, bits):
            if depth < MAX_DEPTH and (width := _num_low_bits(counts)):
                return bytes([LOW_BITS]) + encode_low_bits(symbols, counts, width, _inside(depth))
            return bytes([LANES]) + encode_lanes(symbols, counts, bits)
    if alphabet > BYTE:
        return _in_planes(symbols, alphabet, depth)
    coded = _encode_letters(symbols, counts, depth)
    if depth == 0 and 8 * len(coded) > _NEAR * bits + _FEW_BITS:
        short = encode_rans(symbols, counts, bits)
        coded = coded if short is None else min(coded, bytes([RANS]) + short, key=len)
    return coded


def _encode_letters(symbols: np.ndarray, counts: np.ndarray, depth: int) -> bytes:
    """Up to 256 letters by Huffman's code, after what makes it tight."""
    alphabet = counts.size
    if symbols.size < _SHORT:
        return bytes([PACKED]) + encode_packed(symbols, alphabet)
    if alphabet == 2 and counts.min() < _RARE * symbols.size:
        return bytes([POSITIONS]) + encode_positions(symbols, int(counts.argmin()))
    information = per_byte(alphabet) * _entropy(counts)
    if depth < MAX_DEPTH and (num_heads := _num_heads(counts, information)):
        return bytes([SPLIT]) + encode_split(symbols, counts, num_heads, _inside(depth))
    if depth < MAX_DEPTH and (width := _num_low_bits(counts)):
        return bytes([LOW_BITS]) + encode_low_bits(symbols, counts, width, _inside(depth))
    if information >= _FULL_BITS:
        return _encode_even(symbols, alphabet)
    packed = encode_packed(symbols, alphabet)
    deflated = encode_deflated(packed)
    return bytes([DEFLATED]) + deflated if len(deflated) < len(packed) else bytes([PACKED]) + packed


def _encode_even(symbols: np.ndarray, alphabet: int) -> bytes:
    """Symbols that no entropy code shortens."""
    if alphabet == 3 and symbols.size >= _MANY_TRITS:
        return bytes([TRITS]) + encode_trits(symbols)
    return bytes([PACKED]) + encode_packed(symbols, alphabet)


def _in_planes(symbols: np.ndarray, alphabet: int, depth: int) -> bytes:
    """Low and high bytes apart; these parts may be split as often as the stream itself."""
    return bytes([PLANES]) + encode_planes(symbols, alphabet, partial(encode_symbols, depth=depth))


def _inside(depth: int) -> EncodePart:
    """Codes the parts of a stream at `depth`."""
    return partial(encode_symbols, depth=depth + 1)


def _num_heads(counts: np.ndarray, information: float) -> int:
    """How many of the most frequent symbols to split off, 0 for none; a byte carries so much `information`, in bits."""
    frequent, most = np.sort(counts)[::-1], _NUM_HEADS[0]
    are_heads = counts.size > _MANY_LETTERS and frequent[:most].sum() > _MOSTLY_HEADS * counts.sum()
    if information >= _GOOD_BITS and not are_heads:
        return 0
    for num_heads in _NUM_HEADS:
        heads = np.append(frequent[:num_heads], frequent[num_heads:].sum())
        if num_heads < counts.size - 1 and per_byte(num_heads + 1) * _entropy(heads) >= _GOOD_BITS:
            return num_heads
    return int(counts.size > 2)


def _num_low_bits(counts: np.ndarray) -> int:
    """How many low bits are as good as uniform, so that what is left packs several symbols a byte; 0 for none."""
    if not LEAST_LETTERS <= counts.size <= BYTE:
        return 0
    entropy = _entropy(counts)
    for width in WIDTHS:
        high = merged(counts, width)
        if high.size > 2 and width + _entropy(high) <= (1 + _UNIFORM) * entropy:
            return width
    return 0


def _entropy(counts: np.ndarray) -> float:
    """Zeroth-order entropy in bits a symbol."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
