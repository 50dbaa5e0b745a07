"""Each mode of a symbol stream by itself: what it writes it reads, and nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from fl_mlmc.compression.wire import WireError
from fl_mlmc.compression.wire.limits import Budget
from fl_mlmc.compression.wire.symbols import decode_symbols, encode_symbols
from fl_mlmc.compression.wire.symbols.deflated import encode_deflated
from fl_mlmc.compression.wire.symbols.lanes import encode_lanes
from fl_mlmc.compression.wire.symbols.low_bits import encode_low_bits
from fl_mlmc.compression.wire.symbols.modes import (
    DEFLATED,
    LANES,
    LOW_BITS,
    MAX_DEPTH,
    MODES,
    PACKED,
    PLAIN,
    PLANES,
    POSITIONS,
    RANS,
    SPLIT,
    TRITS,
    Stream,
)
from fl_mlmc.compression.wire.symbols.packed import encode_packed, packed_length, per_byte
from fl_mlmc.compression.wire.symbols.plain import encode_plain
from fl_mlmc.compression.wire.symbols.planes import encode_planes
from fl_mlmc.compression.wire.symbols.positions import encode_positions
from fl_mlmc.compression.wire.symbols.rans import encode_rans
from fl_mlmc.compression.wire.symbols.split import encode_split
from fl_mlmc.compression.wire.symbols.trits import encode_trits


def counted(symbols: np.ndarray, letters: int) -> np.ndarray:
    return np.bincount(symbols, minlength=letters)


def rans(symbols: np.ndarray, letters: int) -> bytes:
    code = encode_rans(symbols, counted(symbols, letters), 8.0 * symbols.size)
    assert code is not None
    return code


def packed(symbols: np.ndarray, letters: int, counts: np.ndarray | None = None) -> bytes:
    """A part in the plainest mode, of which every byte counts."""
    return bytes([PACKED]) + encode_packed(symbols, letters)


ENCODERS: dict[int, Callable[[np.ndarray, int], bytes]] = {
    PACKED: encode_packed,
    DEFLATED: lambda symbols, letters: encode_deflated(encode_packed(symbols, letters)),
    POSITIONS: lambda symbols, letters: encode_positions(symbols, 1),
    SPLIT: lambda symbols, letters: encode_split(symbols, counted(symbols, letters), 2, packed),
    PLANES: lambda symbols, letters: encode_planes(symbols, letters, packed),
    LOW_BITS: lambda symbols, letters: encode_low_bits(symbols, counted(symbols, letters), 2, packed),
    PLAIN: encode_plain,
    RANS: rans,
    TRITS: lambda symbols, letters: encode_trits(symbols),
    LANES: lambda symbols, letters: encode_lanes(symbols, counted(symbols, letters), 100.0 * symbols.size),
}
SOME_LETTERS = [2, 3, 4, 5, 6, 7, 16, 17, 31, 100, 255, 256, 257, 511, 512, 4095, 4096, 4097, 1 << 15, 1 << 16]
FITTING = [
    (mode, letters) for mode, row in MODES.items() for letters in SOME_LETTERS if row.least <= letters <= row.most
]
IDS = ("packed", "deflated", "positions", "split", "planes", "low bits", "plain", "rans", "trits", "lanes")


def symbols_of(count: int, letters: int) -> np.ndarray:
    """Mostly a few letters, few enough others for every mode, the first and the last at the ends."""
    rng = np.random.default_rng([count, letters])
    symbols = np.where(
        rng.random(count) < 0.9, rng.integers(0, min(2, letters - 1), count), rng.integers(0, letters, count)
    )
    symbols[0], symbols[-1] = letters - 1, 0
    return symbols.astype(np.uint8 if letters <= 256 else np.uint16)


def coded(mode: int, symbols: np.ndarray, letters: int) -> memoryview:
    return memoryview(bytes([mode]) + ENCODERS[mode](symbols, letters))


def test_the_table_holds_every_mode_and_this_test_too() -> None:
    assert sorted(MODES) == sorted(ENCODERS) == list(range(len(IDS)))


@pytest.mark.parametrize(("mode", "letters"), FITTING, ids=lambda value: str(value))
@pytest.mark.parametrize("count", [7, 8, 65, 1000])
def test_a_mode_reads_what_it_wrote_and_no_other_length(mode: int, letters: int, count: int) -> None:
    symbols = symbols_of(count, letters)
    data = coded(mode, symbols, letters)
    decoded = decode_symbols(data, count, letters)
    assert decoded.dtype == (np.uint8 if letters <= 256 else np.uint16)
    np.testing.assert_array_equal(decoded, symbols)
    for other in (data[:-1], bytes(data) + b"\0"):
        with pytest.raises(WireError):
            decode_symbols(memoryview(other), count, letters)


@pytest.mark.parametrize("mode", sorted(MODES), ids=IDS)
def test_a_mode_is_refused_for_alphabets_that_it_is_not_for(mode: int) -> None:
    row = MODES[mode]
    for letters in {row.least - 1, row.most + 1} - {0, (1 << 16) + 1}:
        with pytest.raises(WireError, match=f"has mode {mode}, which {letters} symbols at depth 0 cannot have"):
            decode_symbols(memoryview(bytes([mode]) + bytes(40)), 8, letters)


@pytest.mark.parametrize(
    ("mode", "least", "most"),
    [
        (PACKED, 1, 256), (DEFLATED, 1, 256), (POSITIONS, 2, 2), (SPLIT, 3, 256), (PLANES, 257, 1 << 16),
        (LOW_BITS, 17, 256), (PLAIN, 1, 1 << 16), (RANS, 1, 256), (TRITS, 3, 3), (LANES, 1, 4096),
    ],
)  # fmt: skip
def test_the_alphabets_of_a_mode_are_those_of_the_format(mode: int, least: int, most: int) -> None:
    assert (MODES[mode].least, MODES[mode].most) == (least, most)


@pytest.mark.parametrize("number", [len(IDS), 128, 255])
def test_a_mode_that_nobody_wrote_is_refused_by_its_number(number: int) -> None:
    with pytest.raises(WireError, match=f"has mode {number}, which 3 symbols"):
        decode_symbols(memoryview(bytes([number]) + b"\0"), 5, 3)


def test_a_stream_without_a_mode_is_refused() -> None:
    with pytest.raises(WireError, match="at least its mode"):
        decode_symbols(memoryview(b""), 5, 3)


@pytest.mark.parametrize("mode", [SPLIT, LOW_BITS])
def test_parts_lie_two_deep_and_no_deeper(mode: int) -> None:
    symbols = symbols_of(200, 100)
    for depth in range(MAX_DEPTH):
        np.testing.assert_array_equal(Stream(200, 100, Budget(200), depth).decode(coded(mode, symbols, 100)), symbols)
    with pytest.raises(WireError, match=f"at depth {MAX_DEPTH} cannot have"):
        Stream(200, 100, Budget(200), MAX_DEPTH).decode(coded(mode, symbols, 100))
    nested = symbols_of(200, 250)
    np.testing.assert_array_equal(decode_symbols(memoryview(split(nested, 250, MAX_DEPTH)), 200, 250), nested)
    with pytest.raises(WireError, match=r"has mode 3, which \d+ symbols at depth 2 cannot have"):
        decode_symbols(memoryview(split(nested, 250, MAX_DEPTH + 1)), 200, 250)


def split(symbols: np.ndarray, letters: int, times: int) -> bytes:
    """A stream whose second part is split in turn, so many times; first parts and the last one are packed."""
    if times == 0:
        return packed(symbols, letters)

    def part(inner: np.ndarray, inner_letters: int, counts: np.ndarray | None) -> bytes:
        return split(inner, inner_letters, times - 1 if counts is None else 0)

    return bytes([SPLIT]) + encode_split(symbols, counted(symbols, letters), 1, part)


def test_the_low_and_high_bytes_of_wide_letters_may_be_split_as_often_as_a_stream_itself() -> None:
    symbols = symbols_of(300, 60_000)
    code = bytes([PLANES]) + encode_planes(symbols, 60_000, lambda part, letters, _: split(part, letters, MAX_DEPTH))
    np.testing.assert_array_equal(decode_symbols(memoryview(code), 300, 60_000), symbols)


@pytest.mark.parametrize("letters", [3, 5, 7, 15, 17, 100, 255])
def test_packed_symbols_outside_the_alphabet_and_padding_are_refused(letters: int) -> None:
    count = per_byte(letters) * 3 - (1 if letters <= 16 else 0)
    for place in range(packed_length(count, letters)):
        forged = bytearray(encode_packed(np.zeros(count, np.uint8), letters))
        forged[place] = 255
        with pytest.raises(WireError):
            decode_symbols(memoryview(bytes([PACKED]) + forged), count, letters)


def test_how_many_symbols_share_a_byte() -> None:
    assert {letters: per_byte(letters) for letters in (2, 3, 4, 6, 7, 16, 17, 256)} == {
        2: 8, 3: 5, 4: 4, 6: 3, 7: 2, 16: 2, 17: 1, 256: 1
    }  # fmt: skip
    assert [packed_length(count, 3) for count in (0, 1, 5, 6)] == [0, 1, 1, 2]
    assert packed_length(1000, 1) == 0


@pytest.mark.parametrize("mode", [PACKED, PLAIN])
def test_padding_of_bits_is_zero(mode: int) -> None:
    data = bytearray(coded(mode, np.ones(11, np.uint8), 2))
    data[-1] |= 8
    with pytest.raises(WireError, match="non-zero padding"):
        decode_symbols(memoryview(data), 11, 2)


@pytest.mark.parametrize(("letters", "symbol"), [(5, 5), (5, 7), (300, 300), (300, 511)])
def test_plain_symbols_outside_the_alphabet_are_refused(letters: int, symbol: int) -> None:
    dtype = np.uint8 if letters <= 256 else np.uint16
    data = bytes([PLAIN]) + encode_plain(np.array([0, symbol, 1], dtype), letters)
    with pytest.raises(WireError, match=f"has symbol {symbol}, its alphabet has {letters}"):
        decode_symbols(memoryview(data), 3, letters)


@pytest.mark.parametrize("high", [2, 3, 255])
def test_the_planes_of_a_symbol_outside_the_alphabet_are_refused(high: int) -> None:
    symbols = np.array([256 * 2 + 87, 256 * high + 88], np.uint16)  # 600 letters: 599 is the last
    data = bytes([PLANES]) + encode_planes(symbols, 1 << 16, encode_symbols)
    low_end = 5 + int.from_bytes(data[1:5], "little")
    data = data[:low_end] + bytes([PACKED]) + encode_packed((symbols >> 8).astype(np.uint8), 256)
    with pytest.raises(WireError):
        decode_symbols(memoryview(data), 2, 600)


@pytest.mark.parametrize("marked", [0, 1])
def test_up_to_an_eighth_of_the_symbols_or_64_may_be_marked(marked: int) -> None:
    for count, most in ((64, 64), (511, 64), (512, 64), (520, 65), (8000, 1000)):
        symbols = np.full(count, 1 - marked, np.uint8)
        symbols[:most] = marked
        data = bytes([POSITIONS]) + encode_positions(symbols, marked)
        np.testing.assert_array_equal(decode_symbols(memoryview(data), count, 2), symbols)
        if most < count:
            symbols[most] = marked
            with pytest.raises(WireError, match=f"cannot mark {most + 1} of {count}"):
                decode_symbols(memoryview(bytes([POSITIONS]) + encode_positions(symbols, marked)), count, 2)


@pytest.mark.parametrize("header", [b"", b"\0\0\0\0", b"\2\1\0\0\0\0\1"])
def test_a_header_of_positions_that_is_short_or_marks_a_third_letter_is_refused(header: bytes) -> None:
    with pytest.raises(WireError):
        decode_symbols(memoryview(bytes([POSITIONS]) + header), 100, 2)


@pytest.mark.parametrize(
    "heads",
    [[], [3, 3], [4, 2], [1, 9], [200], list(range(9))],
    ids=["none", "twice", "falling", "beyond", "far beyond", "all"],
)
def test_heads_that_are_no_rising_symbols_are_refused(heads: list[int]) -> None:
    data = bytes([SPLIT, len(heads), *heads]) + bytes(40)
    with pytest.raises(WireError, match=f"splits off {len(heads)} of 9 symbols"):
        decode_symbols(memoryview(data), 8, 9)


def test_heads_that_end_early_are_refused() -> None:
    with pytest.raises(WireError, match="splits off 3 of 9"):
        decode_symbols(memoryview(bytes([SPLIT, 3, 0, 1])), 8, 9)


@pytest.mark.parametrize(("num_heads", "num_rest"), [(1, 10), (2, 5), (2, 6), (3, 6)])
def test_of_several_heads_at_most_half_the_symbols_are_the_rest(num_heads: int, num_rest: int) -> None:
    symbols = np.array([0] * (10 - num_rest) + [8] * num_rest, np.uint8)
    heads = np.arange(9)[::-1]  # counts that make 0, 1, … the heads
    data = memoryview(bytes([SPLIT]) + encode_split(symbols, heads, num_heads, encode_symbols))
    if num_heads == 1 or num_rest <= 5:
        np.testing.assert_array_equal(decode_symbols(data, 10, 9), symbols)
    else:
        with pytest.raises(WireError, match=f"escapes {num_rest} of 10 symbols"):
            decode_symbols(data, 10, 9)


@pytest.mark.parametrize("length", [0, 3, 4])
def test_a_part_that_ends_beyond_its_stream_is_refused(length: int) -> None:
    for head in (bytes([SPLIT, 1, 0]), bytes([PLANES])):
        for rest in (bytes(length), b"\xff\xff\xff\x7f" + bytes(length)):
            with pytest.raises(WireError):
                decode_symbols(memoryview(head + rest), 5, 300 if head[0] == PLANES else 9)


@pytest.mark.parametrize("width", [0, 3, 8])
def test_only_1_2_or_4_low_bits_are_set_apart(width: int) -> None:
    with pytest.raises(WireError, match=f"sets {width} low bits apart"):
        decode_symbols(memoryview(bytes([LOW_BITS, width]) + bytes(20)), 5, 40)
    with pytest.raises(WireError, match="sets 0 low bits apart"):
        decode_symbols(memoryview(bytes([LOW_BITS])), 5, 40)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_low_bits_come_back_and_a_symbol_outside_the_alphabet_is_refused(width: int) -> None:
    symbols = (np.arange(50) * 7 % 41).astype(np.uint8)
    data = bytes([LOW_BITS]) + encode_low_bits(symbols, counted(symbols, 41), width, encode_symbols)
    np.testing.assert_array_equal(decode_symbols(memoryview(data), 50, 41), symbols)
    symbols[13] = 41
    data = bytes([LOW_BITS]) + encode_low_bits(symbols, counted(symbols, 42), width, encode_symbols)
    with pytest.raises(WireError, match="has symbol 41, its alphabet has 41"):
        decode_symbols(memoryview(data), 50, 41)


@pytest.mark.parametrize(
    "deflated", [b"", b"\xff\xff", b"\x03\x00\x00", encode_deflated(bytes(9)), encode_deflated(bytes(11))]
)
def test_a_deflate_stream_of_another_length_or_none_is_refused(deflated: bytes) -> None:
    with pytest.raises(WireError, match="flate"):
        decode_symbols(memoryview(bytes([DEFLATED]) + deflated), 10, 200)


def test_ternary_digits_that_end_early_are_refused() -> None:
    data = coded(TRITS, symbols_of(1000, 3), 3)
    with pytest.raises(WireError, match="its ternary digits alone need"):
        decode_symbols(data[:100], 1000, 3)
