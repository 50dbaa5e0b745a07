"""Streams of few letters: how near their entropy they come, at every length."""

from collections.abc import Iterator
from math import exp, lgamma, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.compression.blocks import Lattice, Payload, SymbolBlock
from fl_mlmc.compression.wire import WireError, decode_payload, encode_payload
from fl_mlmc.compression.wire.limits import Budget
from fl_mlmc.compression.wire.symbols import decode_symbols, encode_symbols
from fl_mlmc.compression.wire.symbols.modes import RANS, TRITS
from fl_mlmc.compression.wire.symbols.rans import decode_rans, encode_rans
from fl_mlmc.compression.wire.symbols.trits import decode_trits, encode_trits
from fl_mlmc.testing import check_hostile, decode_within_bounds, sealed

OVERHEAD = 48
LENGTHS = [1, 2, 7, 20, 63, 64, 100, 300, 1000, 3000, 10_000, 30_000]


def sources(size: int, letters: int) -> Iterator[np.ndarray]:
    """Symbols of every kind of source: even, geometric, mostly one letter, one rare letter, bell-shaped."""
    rng = np.random.default_rng([size, letters])
    even = rng.integers(0, letters, size)
    yield even
    for ratio in (0.3, 0.5, 0.7, 0.9):
        yield np.minimum(rng.geometric(1 - ratio, size) - 1, letters - 1)
    for share in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999):
        yield np.where(rng.random(size) < share, letters // 2, even)
    rare = even % max(letters - 1, 1)
    rare[rng.integers(size)] = letters - 1
    yield rare
    yield np.where(np.arange(size) == rng.integers(size), letters - 1, 0)
    yield np.clip(np.round(rng.standard_normal(size) * letters / 6 + letters / 2), 0, letters - 1).astype(int)


@pytest.mark.parametrize("size", [*LENGTHS, 100_000])
@pytest.mark.parametrize("letters", range(2, 17))
def test_a_small_alphabet_is_within_three_percent_of_its_entropy_at_every_length(letters: int, size: int) -> None:
    for symbols in sources(size, letters):
        assert _excess(symbols, letters) <= 0


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_few_letters_are_within_three_percent_of_their_entropy(data: st.DataObject) -> None:
    letters = data.draw(st.integers(2, 16))
    most = data.draw(st.sampled_from([1, 3, 30, 300, 2000]))
    counts = data.draw(st.lists(st.integers(0, most), min_size=letters, max_size=letters).filter(any))
    counts[data.draw(st.integers(0, letters - 1))] += data.draw(st.sampled_from([0, 10, 1000, 20_000]))
    symbols = np.repeat(np.arange(letters), counts)
    np.random.default_rng(data.draw(st.integers(0, 9))).shuffle(symbols)
    assert _excess(symbols, letters) <= 0


@pytest.mark.parametrize("size", LENGTHS)
@pytest.mark.parametrize("letters", [24, 64, 256])
def test_more_letters_are_where_their_counts_can_be_named(letters: int, size: int) -> None:
    described = (lgamma(size + letters) - lgamma(letters) - lgamma(size + 1)) / log(2) / 8
    for symbols in sources(size, letters):
        if described <= 11 + 0.03 * _entropy_bytes(symbols):
            assert _excess(symbols, letters) <= 0


def test_no_code_keeps_100_symbols_of_256_letters_to_the_bound() -> None:
    """Kraft's sum over all streams, by their counts: n! / n^(1.03 n) times a coefficient of a power of a series."""
    size, letters, stream_bytes = 100, 256, 14
    # A factor c^k in every coefficient keeps them in range; it comes off as c^size.
    scale = 1.03 * log(size) - 1
    series = [exp((1.03 * log(k) if k else 0) * k - lgamma(k + 1) - scale * k) for k in range(size + 1)]
    power = np.ones(1)
    for _ in range(letters):
        power = np.convolve(power, series)[: size + 1]
    kraft = log(power[size]) + scale * size + lgamma(size + 1) - 1.03 * size * log(size)
    assert kraft / log(2) - 8 * stream_bytes == pytest.approx(68, abs=1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_rans_gives_back_any_symbols(data: st.DataObject) -> None:
    letters = data.draw(st.integers(1, 256))
    few = data.draw(
        st.lists(st.integers(0, letters - 1), min_size=1, max_size=data.draw(st.sampled_from([1, 2, 9, 256])))
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    symbols = rng.choice(few, data.draw(st.integers(1, 3000))).astype(np.uint8)
    if data.draw(st.booleans()):
        symbols[rng.random(symbols.size) < 0.97] = few[0]
    code = _rans(symbols, letters)
    np.testing.assert_array_equal(decode_rans(memoryview(code), symbols.size, letters, Budget(symbols.size)), symbols)


@pytest.mark.parametrize(("letters", "share"), [(2, 0.7), (3, 0.8), (16, 0.4), (90, 0.9), (256, 0.2)])
def test_damaged_rans_is_refused_or_sound(letters: int, share: float) -> None:
    rng = np.random.default_rng(1)
    symbols = np.where(rng.random(400) < share, letters // 2, rng.integers(0, letters, 400)).astype(np.uint8)
    code = _rans(symbols, letters)
    damaged = [code[:length] for length in range(len(code))]
    damaged += [code + more for more in (b"\0", b"\1", bytes(4), b"\xff" * 4)]
    for place in range(len(code)):
        damaged += [code[:place] + bytes([code[place] ^ flip]) + code[place + 1 :] for flip in (1, 16, 128, 255)]
    refused = 0
    for other in damaged:
        try:
            decoded = decode_rans(memoryview(other), 400, letters, Budget(400))
        except WireError:
            refused += 1
        else:
            assert decoded.size == 400
            assert decoded.max() < letters
    assert refused > 0.95 * len(damaged)  # a state that is wrong rarely ends at 1
    with pytest.raises(WireError):
        decode_rans(memoryview(code), 0, letters, Budget(0))


def test_a_forged_rans_payload_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    symbols = np.where(rng.random(20_000) < 0.999, 3, rng.integers(0, 7, 20_000)).astype(np.uint8)
    payload = Payload(symbols.size, (SymbolBlock(torch.from_numpy(symbols), Lattice(7, 0.5)),))
    data = encode_payload(payload)
    assert data[34] == RANS
    check_hostile(data, payload.size, rng, 20)
    for tail in (b"\xff" * 70_000, b"\1" * 79_000):
        body = data[19:45] + tail
        forged = sealed(data[:14] + data[14:15] + len(body).to_bytes(4, "little") + body)
        assert decode_within_bounds(forged, payload.size) is None


def test_a_few_bytes_cannot_make_a_reader_step_long() -> None:
    code = _rans(np.array([0] * 8 + [1], np.uint8), 2)
    with pytest.raises(WireError):
        decode_rans(memoryview(code), 1 << 23, 2, Budget(1 << 23))
    assert encode_rans(np.tile(np.arange(16, dtype=np.uint8), 1 << 14), np.full(16, 1 << 14), 4.0 * (1 << 18)) is None


@pytest.mark.parametrize("size", [4000, 306 * 14, 20_000, 1_000_000])
def test_even_ternary_values_take_no_more_than_log2_3_bits(size: int) -> None:
    symbols = np.random.default_rng(size).integers(0, 3, size).astype(np.uint8)
    code = encode_symbols(symbols, 3)
    assert code[0] == TRITS
    np.testing.assert_array_equal(decode_symbols(memoryview(code), size, 3), symbols)
    data = encode_payload(Payload(size, (SymbolBlock(torch.from_numpy(symbols), Lattice(3, 0.5, -1)),)))
    assert 8 * (len(data) - OVERHEAD) <= 32 + np.log2(3) * size  # TernGrad's formula


def test_a_group_of_ternary_digits_is_their_number() -> None:
    digits = np.random.default_rng(0).integers(0, 3, 306 * 9).astype(np.uint8)
    stream = int.from_bytes(encode_trits(digits), "little")
    for group in range(9):
        number = sum(int(digit) * 3**place for place, digit in enumerate(digits[306 * group : 306 * (group + 1)]))
        assert stream >> 485 * group & 2**485 - 1 == number
    largest = (3**306 - 1).to_bytes(61, "little")
    assert decode_trits(memoryview(largest), 306).tolist() == [2] * 306


@pytest.mark.parametrize("number", [3**306, 2**485 - 1, 2**485])
def test_a_number_that_is_no_group_of_ternary_digits_is_refused(number: int) -> None:
    with pytest.raises(WireError):
        decode_trits(memoryview(number.to_bytes(61, "little")), 306)


@pytest.mark.parametrize("size", [10, 1000, 5000])
def test_short_streams_may_be_parts_of_longer_ones(size: int) -> None:
    rng = np.random.default_rng(size)
    symbols = (np.abs(rng.standard_normal(size)) ** 3 * 9).astype(np.uint16)
    code = encode_symbols(symbols, 700)
    np.testing.assert_array_equal(decode_symbols(memoryview(code), size, 700), symbols)


def _rans(symbols: np.ndarray, letters: int) -> bytes:
    counts = np.bincount(symbols, minlength=letters)
    code = encode_rans(symbols, counts, 8 * _entropy_bytes(symbols))
    assert code is not None
    return code


def _excess(symbols: np.ndarray, letters: int) -> float:
    """Bytes of a payload beyond 1.03 × its entropy and the overhead, once it has been read back."""
    block = SymbolBlock(torch.from_numpy(symbols.astype(np.uint8)), Lattice(letters, 0.5, -1))
    data = encode_payload(Payload(block.size, (block,)))
    assert torch.equal(decode_payload(data, block.size).dense(), block.dense())
    return len(data) - OVERHEAD - 1.03 * _entropy_bytes(symbols)


def _entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / symbols.size
    return float(-(shares * np.log2(shares)).sum()) * symbols.size / 8
