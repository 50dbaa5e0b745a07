"""Exact code of a long stream of small integers, within a few percent of its zeroth-order entropy.

Several symbols share a byte (8 of two kinds, 5 of three, …), and deflate's Huffman stage (RFC 1951; zlib, in the
standard library) shortens the bytes. A Huffman code spends at least one bit on each, so a stream whose bytes would
carry less information than that is split first: into a stream that tells the frequent symbols from the rest, and the
rest. Rare marks are written as Rice-coded positions. Where the description of a code would weigh, as in short streams,
rANS takes their place: a step in Python for some symbols, and no more than a few bytes beyond the entropy.
"""

import struct
import zlib

import numpy as np
import torch

from ..pointwise import tally
from .errors import WireError
from .rans import decode_rans, encode_rans
from .rans_lanes import MOST_LETTERS, decode_lanes, encode_lanes, is_worth_lanes
from .rice import decode_indices, encode_indices
from .trits import decode_trits, encode_trits, num_grouped, trits_length

PACKED, DEFLATED, POSITIONS, SPLIT, PLANES, LOW_BITS, PLAIN, RANS, TRITS, LANES = range(10)

_POSITIONS = struct.Struct("<BI")  # marked symbol, how many
_LENGTH = struct.Struct("<I")
_MAX_DEPTH = 2  # of splits inside splits
_RARE = 0.1  # positions of fewer ones than this are shorter than packed bits
_GOOD_BITS = 3.3  # information a byte must carry for Huffman's code to be tight
_FULL_BITS = 7.85  # information of a byte that is not worth a code
_MANY_TRITS = 4000  # digits from which the bits saved beside five a byte are worth long numbers
_PIECE = 1 << 20
_LONG = 1 << 20  # symbols from which many lanes pay for themselves, compiled or not
_HEAVY = 0.98  # share of a symbol whose exceptions are better named by where they stand
_EVEN = 0.98  # share of an alphabet's log2 that is not worth a code
_NEAR, _FEW_BITS = 1.03, 64  # streams beyond this share of their entropy and so many bits are worth slower steps
_UNIFORM = 0.007  # share of the bits that low bits may lose by being sent as they are


def most_together(size: int) -> int:
    """Letters of the largest alphabet that `size` symbols are coded in; low and high bytes of larger ones go apart."""
    return MOST_LETTERS if size >= _LONG else 256


def encode_symbols(symbols: np.ndarray, alphabet: int, depth: int = 0, counts: np.ndarray | None = None) -> bytes:
    """The bytes of uint8 or uint16 `symbols` below `alphabet`; the reader must know their number and `alphabet`.

    `counts` is how often each occurs, for a caller who knows.
    """
    if alphabet == 1 or symbols.size == 0:
        coded = bytes([PACKED])
    elif alphabet > most_together(symbols.size):
        coded = _encode_pages(symbols, alphabet, depth)
    else:
        signed = symbols if alphabet <= 256 else symbols.view(np.int16)
        counts = tally(torch.from_numpy(signed), alphabet) if counts is None else counts
        coded = _encode_counted(symbols, alphabet, depth, counts)
    plain_length = 1 + (alphabet - 1).bit_length() * -(-symbols.size // 8)
    return _encode_plain(symbols, alphabet) if len(coded) > plain_length else coded


def _encode_counted(symbols: np.ndarray, alphabet: int, depth: int, counts: np.ndarray) -> bytes:
    bits = symbols.size * _entropy(counts)
    if symbols.size >= _LONG and counts.max() < _HEAVY * symbols.size:
        if alphabet <= 256 and _per_byte(alphabet) * bits >= _FULL_BITS * symbols.size:
            return _encode_even(symbols, alphabet)
        if bits < _EVEN * np.log2(alphabet) * symbols.size and is_worth_lanes(counts, bits):
            width = _num_low_bits(counts) if depth < _MAX_DEPTH else 0
            if width:
                return _encode_low_bits(symbols, alphabet, counts, width, depth)
            return bytes([LANES]) + encode_lanes(symbols, counts, bits)
    if alphabet > 256:
        return _encode_pages(symbols, alphabet, depth)
    coded = _encode_letters(symbols, alphabet, depth, counts)
    if depth == 0 and 8 * len(coded) > _NEAR * bits + _FEW_BITS:
        short = encode_rans(symbols, counts, bits)
        coded = coded if short is None else min(coded, bytes([RANS]) + short, key=len)
    return coded


def _encode_even(symbols: np.ndarray, alphabet: int) -> bytes:
    if alphabet == 3 and symbols.size >= _MANY_TRITS:
        return bytes([TRITS]) + encode_trits(symbols) + _pack(symbols[num_grouped(symbols.size) :], 3)
    return bytes([PACKED]) + _pack(symbols, alphabet)


def encode_mask(marks: np.ndarray) -> bytes:
    """A stream of two letters for bool `marks` that may come in runs, as the zeros of units that never fire do."""
    packed = _pack(marks, 2)
    runs = bytes([DEFLATED]) + _deflate(packed, zlib.Z_RLE)
    num_marks = int(np.count_nonzero(marks))
    if 8 * len(runs) <= marks.size * _entropy(np.array([marks.size - num_marks, num_marks])):
        return runs
    return min(runs, encode_symbols(marks.view(np.uint8), 2), key=len)


def _encode_pages(symbols: np.ndarray, alphabet: int, depth: int) -> bytes:
    low = encode_symbols((symbols & 255).astype(np.uint8), 256, depth)
    high = encode_symbols((symbols >> 8).astype(np.uint8), (alphabet + 255) // 256, depth)
    return bytes([PLANES]) + _LENGTH.pack(len(low)) + low + high


def _encode_plain(symbols: np.ndarray, alphabet: int) -> bytes:
    bits = range((alphabet - 1).bit_length())
    planes = (np.packbits((symbols >> bit & 1).astype(np.uint8), bitorder="little") for bit in bits)
    return bytes([PLAIN]) + b"".join(plane.tobytes() for plane in planes)


def _encode_letters(symbols: np.ndarray, alphabet: int, depth: int, counts: np.ndarray) -> bytes:
    if symbols.size < 64:
        return bytes([PACKED]) + _pack(symbols, alphabet)
    information = _per_byte(alphabet) * _entropy(counts)
    if alphabet == 2 and counts.min() < _RARE * symbols.size:
        return bytes([POSITIONS]) + _encode_positions(symbols, int(counts.argmin()))
    if depth < _MAX_DEPTH and (num_heads := _num_heads(counts, information)):
        return _encode_split(symbols, alphabet, counts, num_heads, depth)
    if depth < _MAX_DEPTH and (width := _num_low_bits(counts)):
        return _encode_low_bits(symbols, alphabet, counts, width, depth)
    if information >= _FULL_BITS:
        return _encode_even(symbols, alphabet)
    packed = _pack(symbols, alphabet)
    deflated = _deflate(packed)
    return bytes([DEFLATED]) + deflated if len(deflated) < len(packed) else bytes([PACKED]) + packed


def decode_symbols(data: memoryview, count: int, alphabet: int, depth: int = 0) -> np.ndarray:
    """The `count` symbols below `alphabet` in `data`, uint8, or uint16 above 256; WireError if it holds other ones."""
    if not data:
        raise WireError("symbol stream is empty, expected at least its mode")
    mode, body = data[0], data[1:]
    if mode == PLAIN:
        return _decode_plain(body, count, alphabet)
    if mode == PACKED and alphabet <= 256:
        return _unpack(bytes(body), count, alphabet)
    if mode == DEFLATED and alphabet <= 256:
        return _unpack(_inflate(body, _packed_length(count, alphabet)), count, alphabet)
    if mode == RANS and alphabet <= 256:
        return decode_rans(body, count, alphabet)
    if mode == LANES and alphabet <= MOST_LETTERS:
        return decode_lanes(body, count, alphabet)
    if mode == TRITS and alphabet == 3:
        return _decode_trits(body, count)
    if mode == POSITIONS and alphabet == 2:
        return _decode_positions(body, count)
    if mode == SPLIT and depth < _MAX_DEPTH and 2 < alphabet <= 256:
        return _decode_split(body, count, alphabet, depth)
    if mode == LOW_BITS and depth < _MAX_DEPTH and 16 < alphabet <= 256:
        return _decode_low_bits(body, count, alphabet, depth)
    if mode == PLANES and alphabet > 256:
        low_part, high_part = _two_parts(body)
        symbols = decode_symbols(high_part, count, (alphabet + 255) // 256, depth).astype(np.uint16)
        symbols <<= 8
        symbols |= decode_symbols(low_part, count, 256, depth)
        return _below(symbols, alphabet)
    raise WireError(f"symbol stream has mode {mode}, which {alphabet} symbols at depth {depth} cannot have")


def _decode_plain(body: memoryview, count: int, alphabet: int) -> np.ndarray:
    width, length = (alphabet - 1).bit_length(), -(-count // 8)
    if len(body) != width * length:
        raise WireError(f"symbol stream has {len(body)} bytes, {count} symbols of {width} bits need {width * length}")
    dtype = np.uint16 if alphabet > 256 else np.uint8
    symbols: np.ndarray = np.zeros(count, dtype)
    for bit in range(width):
        octets = np.frombuffer(body[bit * length : (bit + 1) * length], np.uint8)
        plane = np.unpackbits(octets, bitorder="little")
        if plane[count:].any():
            raise WireError("symbol stream has non-zero padding")
        symbols |= np.left_shift(plane[:count], bit, dtype=dtype)
    return _below(symbols, alphabet)


def _num_heads(counts: np.ndarray, information: float) -> int:
    """How many of the most frequent symbols to split off, 0 for none."""
    frequent = np.sort(counts)[::-1]
    if information >= _GOOD_BITS and not (counts.size > 32 and frequent[:15].sum() > 0.97 * counts.sum()):
        return 0
    for num_heads in (15, 5, 2):  # with an escape these fill a byte well: two, three and five of them
        heads = np.append(frequent[:num_heads], frequent[num_heads:].sum())
        if num_heads < counts.size - 1 and _per_byte(num_heads + 1) * _entropy(heads) >= _GOOD_BITS:
            return num_heads
    return int(counts.size > 2)


def _num_low_bits(counts: np.ndarray) -> int:
    """How many low bits are as good as uniform, so that what is left packs several symbols a byte; 0 for none."""
    if not 16 < counts.size <= 256:
        return 0
    entropy = _entropy(counts)
    for width in (4, 2, 1):  # that fill bytes
        high = np.add.reduceat(counts, np.arange(0, counts.size, 1 << width))
        if high.size > 2 and width + _entropy(high) <= (1 + _UNIFORM) * entropy:
            return width
    return 0


def _encode_low_bits(symbols: np.ndarray, alphabet: int, counts: np.ndarray, width: int, depth: int) -> bytes:
    low = _pack(symbols & np.uint8((1 << width) - 1), 1 << width)
    merged = np.add.reduceat(counts, np.arange(0, alphabet, 1 << width))
    return bytes([LOW_BITS, width]) + low + encode_symbols(symbols >> np.uint8(width), merged.size, depth + 1, merged)


def _decode_low_bits(body: memoryview, count: int, alphabet: int, depth: int) -> np.ndarray:
    width = body[0] if body else 0
    if width not in (1, 2, 4):
        raise WireError(f"symbol stream sets {width} low bits apart, expected 1, 2 or 4")
    end = 1 + _packed_length(count, 1 << width)
    symbols = decode_symbols(body[end:], count, -(-alphabet >> width), depth + 1).copy()
    symbols <<= np.uint8(width)
    symbols |= _unpack(bytes(body[1:end]), count, 1 << width)
    return _below(symbols, alphabet)


def _encode_split(symbols: np.ndarray, alphabet: int, counts: np.ndarray, num_heads: int, depth: int) -> bytes:
    heads = np.sort(np.argsort(-counts, kind="stable")[:num_heads])
    to_head, to_tail = _split_tables(heads, alphabet)
    if num_heads == 1:
        head = (symbols != heads[0]).view(np.uint8)
    else:
        head = np.frombuffer(bytearray(symbols).translate(to_head.tobytes()), np.uint8)
    tail = to_tail[symbols[np.flatnonzero(head == num_heads)]]
    head_counts = np.append(counts[heads], symbols.size - counts[heads].sum())
    coded = encode_symbols(head, num_heads + 1, depth + 1, head_counts)
    names = bytes([num_heads]) + heads.astype(np.uint8).tobytes()
    return (
        bytes([SPLIT])
        + names
        + _LENGTH.pack(len(coded))
        + coded
        + encode_symbols(tail, alphabet - num_heads, depth + 1)
    )


def _decode_split(body: memoryview, count: int, alphabet: int, depth: int) -> np.ndarray:
    num_heads = body[0] if body else 0
    heads = np.frombuffer(body[1 : 1 + num_heads], np.uint8)
    if (
        not 0 < num_heads < alphabet
        or len(heads) != num_heads
        or heads.max() >= alphabet
        or (heads[1:] <= heads[:-1]).any()
    ):
        raise WireError(f"symbol stream splits off {num_heads} of {alphabet} symbols")
    head_part, tail_part = _two_parts(body[1 + num_heads :])
    symbols = decode_symbols(head_part, count, num_heads + 1, depth + 1)
    escaped = np.flatnonzero(symbols == num_heads) if num_heads > 1 else None
    rest = symbols == num_heads if escaped is None else escaped
    num_rest = int(rest.sum()) if escaped is None else escaped.size
    if num_rest > count // 2 and escaped is not None:
        raise WireError(f"symbol stream escapes {num_rest} of {count} symbols")
    tail = decode_symbols(tail_part, num_rest, alphabet - num_heads, depth + 1)
    others = np.setdiff1d(np.arange(alphabet, dtype=np.uint8), heads, assume_unique=True)
    to_symbol = np.zeros(256, np.uint8)
    to_symbol[:num_heads] = heads
    out = np.frombuffer(bytearray(symbols).translate(to_symbol.tobytes()), np.uint8)
    out[rest] = others[tail]
    return out


def _split_tables(heads: np.ndarray, alphabet: int) -> tuple[np.ndarray, np.ndarray]:
    to_head = np.full(256, heads.size, np.uint8)
    to_head[heads] = np.arange(heads.size)
    to_tail = np.zeros(256, np.uint8)
    others = np.setdiff1d(np.arange(alphabet), heads, assume_unique=True)
    to_tail[others] = np.arange(others.size)
    return to_head, to_tail


def _decode_trits(body: memoryview, count: int) -> np.ndarray:
    end, grouped = trits_length(count), num_grouped(count)
    if len(body) < end:
        raise WireError(f"symbol stream has {len(body)} bytes, its ternary digits alone need {end}")
    symbols = np.empty(count, np.uint8)
    symbols[:grouped] = decode_trits(body[:end], count)
    symbols[grouped:] = _unpack(bytes(body[end:]), count - grouped, 3)
    return symbols


def _encode_positions(symbols: np.ndarray, marked: int) -> bytes:
    marks = symbols.view(bool)
    indices = np.flatnonzero(marks if marked else ~marks)
    return _POSITIONS.pack(marked, indices.size) + encode_indices(indices, symbols.size)


def _decode_positions(body: memoryview, count: int) -> np.ndarray:
    if len(body) < _POSITIONS.size:
        raise WireError("symbol stream ends inside its header of positions")
    marked, num_marked = _POSITIONS.unpack_from(body)
    if marked > 1 or num_marked > max(64, count // 8):
        raise WireError(f"symbol stream of {len(body)} bytes cannot mark {num_marked} of {count} positions")
    symbols = np.full(count, 1 - marked, np.uint8)
    symbols[decode_indices(body[_POSITIONS.size :], num_marked, count)] = marked
    return symbols


def _per_byte(alphabet: int) -> int:
    """How many symbols share a byte: the largest g with alphabet ** g ≤ 256."""
    group = 1
    while alphabet > 1 and alphabet ** (group + 1) <= 256:
        group += 1
    return group


def _packed_length(count: int, alphabet: int) -> int:
    return 0 if alphabet == 1 else -(-count // _per_byte(alphabet))


def _pack(symbols: np.ndarray, alphabet: int) -> bytes:
    group, length = _per_byte(alphabet), _packed_length(symbols.size, alphabet)
    if alphabet == 2:
        return np.packbits(symbols, bitorder="little").tobytes()
    if group == 1:
        return symbols.tobytes()
    # Digit r of byte i is symbol r · length + i: whole rows are added, which numpy does fast. The last one is short.
    out = np.zeros(length, np.uint8)
    for start in range((group - 1) * length, -1, -length):
        row = symbols[start : start + length]
        out *= np.uint8(alphabet)
        out[: row.size] += row
    return out.tobytes()


def _unpack(packed: bytes, count: int, alphabet: int) -> np.ndarray:
    group, length = _per_byte(alphabet), _packed_length(count, alphabet)
    if len(packed) != length:
        raise WireError(f"symbol stream has {len(packed)} bytes, {count} symbols of {alphabet} kinds need {length}")
    if alphabet == 1:
        return np.zeros(count, np.uint8)
    octets = np.frombuffer(packed, np.uint8)
    if alphabet == 2:
        bits = np.unpackbits(octets, bitorder="little")
        if bits[count:].any():
            raise WireError("symbol stream has non-zero padding")
        return bits[:count]
    if group == 1:
        return _below(octets, alphabet)
    out = np.empty(group * length, np.uint8)
    for row in out.reshape(group, length)[:-1]:
        octets, row[:] = np.divmod(octets, np.uint8(alphabet))
    out[(group - 1) * length :] = octets
    if out[count:].any():
        raise WireError("symbol stream has non-zero padding")
    return _below(out, alphabet)[:count]


def _below(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    if symbols.size and symbols.max() >= alphabet:
        raise WireError(f"symbol stream has symbol {symbols.max()}, its alphabet has {alphabet}")
    return symbols


def _two_parts(body: memoryview) -> tuple[memoryview, memoryview]:
    length = _LENGTH.unpack_from(body)[0] if len(body) >= _LENGTH.size else len(body)
    if length > len(body) - _LENGTH.size:
        raise WireError(f"symbol stream has a part of {length} bytes in a body of {len(body)}")
    return body[_LENGTH.size : _LENGTH.size + length], body[_LENGTH.size + length :]


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _deflate(data: bytes, strategy: int = zlib.Z_HUFFMAN_ONLY) -> bytes:
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, strategy)
    # By the piece: growing one output would touch memory twice.
    pieces = [coder.compress(memoryview(data)[start : start + _PIECE]) for start in range(0, len(data), _PIECE)]
    return b"".join([*pieces, coder.flush()])


def _inflate(data: memoryview, length: int) -> bytes:
    """Exactly `length` bytes, or WireError; a bomb is cut off there."""
    coder = zlib.decompressobj(-15)
    try:
        out = coder.decompress(data, length) if length else b""
        more = coder.decompress(coder.unconsumed_tail if length else data, 1)
    except zlib.error as error:
        raise WireError(f"symbol stream is no deflate stream: {error}") from error
    if len(out) != length or more or not coder.eof or coder.unused_data:
        raise WireError(f"symbol stream does not inflate to {length} bytes")
    return out
