import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.compression.blocks import DenseBlock, Lattice, Payload, SparseBlock, SymbolBlock
from fl_mlmc.compression.wire import WireError, decode_payload, encode_payload
from fl_mlmc.compression.wire.kinds import BFLOAT16, CUT, DENSE, MASKED, UPPER
from fl_mlmc.compression.wire.words import decode_words, encode_words
from fl_mlmc.testing import check_hostile, check_round_trip, decode_within_bounds, sample_payloads, sealed

OVERHEAD = 48


@st.composite
def sparse_payloads(draw: st.DrawFn) -> Payload:
    size = draw(st.integers(1, 3000))
    indices = sorted(draw(st.sets(st.integers(0, size - 1), max_size=60)))
    values = draw(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=60, max_size=60))
    return Payload(
        size, (SparseBlock(size, torch.tensor(indices, dtype=torch.int64), torch.tensor(values[: len(indices)])),)
    )


@settings(max_examples=50, deadline=None)
@given(payload=sparse_payloads())
def test_any_sparse_payload_survives_the_trip(payload: Payload) -> None:
    check_round_trip(payload)


@pytest.mark.parametrize("name", sorted(sample_payloads()))
def test_a_sample_survives_the_trip(name: str) -> None:
    check_round_trip(sample_payloads()[name])


@pytest.mark.parametrize("num_forgeries", [30, pytest.param(150, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", sorted(sample_payloads()))
def test_damaged_and_forged_samples_are_refused_or_sound(name: str, num_forgeries: int) -> None:
    payload = sample_payloads()[name]
    check_hostile(encode_payload(payload), payload.size, np.random.default_rng(5), num_forgeries)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03, 0.1])
def test_an_index_stream_is_within_two_percent_of_the_bound(share: float) -> None:
    size = 200_000
    count = int(share * size)
    rng = np.random.default_rng(4)
    indices = torch.from_numpy(np.sort(rng.choice(size, count, replace=False)))
    data = encode_payload(Payload(size, (SparseBlock(size, indices, torch.ones(count)),)))
    stream_bits = 8 * (len(data) - 4 * count - OVERHEAD)
    assert stream_bits <= 1.02 * _log2_binomial(size, count)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equal_entries_survive_the_trip_and_never_make_it_longer(data: st.DataObject) -> None:
    size, count = 8000, data.draw(st.integers(1, 1000))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    letters = rng.standard_normal(data.draw(st.integers(1, 300)))
    values = torch.from_numpy(rng.choice(letters, count)).float()
    others = torch.from_numpy(rng.random(count) < data.draw(st.sampled_from([0.0, 0.1, 0.4])))
    values[others] = torch.randn(int(others.sum()))
    indices = torch.from_numpy(np.sort(rng.choice(size, count, replace=False)))
    payload = Payload(size, (SparseBlock(size, indices, values),))
    check_round_trip(payload)
    other = Payload(size, (SparseBlock(size, indices, torch.randn(count)),))
    assert len(encode_payload(payload)) <= len(encode_payload(other))


def test_a_block_is_dense_once_dense_is_smaller() -> None:
    size = 1000
    block = SparseBlock(size, torch.arange(size), torch.ones(size))
    assert len(encode_payload(Payload(size, (block,)))) <= 4 * size + OVERHEAD


@pytest.mark.parametrize(
    ("data", "size", "word"),
    [
        (b"", 4, "0 bytes"),
        (b"MLMC", 4, "4 bytes"),
        (b"ZZZZ" + bytes(10), 4, "expected b'MLMC'"),
        (b"MLMC\x63" + bytes(9), 4, "version 99"),
        (encode_payload(Payload(5)), 4, "5 coordinates, expected 4"),
        (encode_payload(Payload(4)) + b"\0", 4, "checksum"),
        (sealed(encode_payload(Payload(4)) + b"\0"), 4, "after its last block"),
    ],
)
def test_an_error_says_what_was_seen_and_expected(data: bytes, size: int, word: str) -> None:
    with pytest.raises(WireError, match=word):
        decode_payload(data, size)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    data = encode_payload(Payload(3, (DenseBlock(torch.tensor([1.0, 2.0, 3.0])),)))
    forged = sealed(data[:-4] + struct.pack("<f", value))
    with pytest.raises(WireError, match="finite"):
        decode_payload(forged, 3)


def test_a_small_payload_that_declares_much_takes_little_memory() -> None:
    size = 50_000
    for count in (size, 2**31, 2**32 - 1):
        for shift in (0, 31, 255):
            body = struct.pack("<I", count) + bytes([shift]) * 50 + b"\xff" * 100
            block = struct.pack("<BI", 2, len(body)) + body
            head = b"MLMC" + struct.pack("<BBII", 1, 1, size, 0)
            assert decode_within_bounds(sealed(head + block), size) is None


def test_what_cannot_be_written_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="1 to"):
        encode_payload(Payload(0))
    with pytest.raises(ValueError, match="255 blocks"):
        encode_payload(Payload(1, (DenseBlock(torch.zeros(1)),) * 256))


def _log2_binomial(size: int, count: int) -> float:
    from math import lgamma, log

    return (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.12, 0.3, 0.5, 0.8, 0.95])
def test_a_bit_plane_is_within_three_percent_of_its_entropy(share: float) -> None:
    rng = np.random.default_rng(8)
    plane = (rng.random(300_000) < share).astype(np.uint8)
    _check_near_entropy(SymbolBlock(torch.from_numpy(plane), Lattice(2, 1.0)))
    signed = plane * rng.choice([0, 2], plane.size) + (1 - plane)
    _check_near_entropy(SymbolBlock(torch.from_numpy(signed.astype(np.uint8)), Lattice(3, 1.0, -1)))


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("letters", [15, 201])
def test_a_small_alphabet_is_within_three_percent_of_its_entropy(spread: float, letters: int) -> None:
    half = letters // 2
    values = np.random.default_rng(9).standard_normal(300_000) * spread
    symbols = (np.clip(np.round(values), -half, half) + half).astype(np.uint8)
    _check_near_entropy(SymbolBlock(torch.from_numpy(symbols), Lattice(letters, 0.1, -half)))


@pytest.mark.parametrize("letters", [513, 32767])
def test_few_letters_around_the_middle_of_many_are_near_their_entropy(letters: int) -> None:
    values = np.random.default_rng(9).standard_normal(300_000) * 5
    block = SymbolBlock(torch.from_numpy((np.round(values) + letters // 2).astype(np.int16)), Lattice(letters, 0.1, -9))
    check_round_trip(Payload(block.size, (block,)))
    _check_near_entropy(block)


def test_clustered_indices_take_less_than_spread_ones() -> None:
    rng = np.random.default_rng(10)
    inside = np.sort(rng.choice(20_000, 10_000, replace=False))
    indices = torch.from_numpy(np.concatenate([inside, inside + 500_000]))
    data = encode_payload(Payload(1_000_000, (SparseBlock(1_000_000, indices, torch.ones(20_000)),)))
    assert 8 * (len(data) - 2 * 20_000) < 0.5 * _log2_binomial(1_000_000, 20_000)


def _check_near_entropy(block: SymbolBlock) -> None:
    data = encode_payload(Payload(block.size, (block,)))
    counts = np.bincount(block.symbols.numpy())
    shares = counts[counts > 0] / counts.sum()
    entropy_bits = -(shares * np.log2(shares)).sum() * block.size
    assert 8 * (len(data) - OVERHEAD) <= 1.03 * entropy_bits


@pytest.mark.parametrize(
    "block",
    [
        SymbolBlock(torch.zeros(50_000, dtype=torch.uint8), Lattice(3, 1.0)),
        SparseBlock(50_000, torch.arange(6000), torch.zeros(6000)),
    ],
    ids=["symbols", "sparse"],
)
def test_many_blocks_that_say_little_are_refused_before_they_fill_the_memory(block: SymbolBlock | SparseBlock) -> None:
    one = encode_payload(Payload(block.size, (block,)))
    many = one[:5] + b"\xff" + one[6:14] + one[14:] * 255
    assert decode_within_bounds(sealed(many), block.size) is None
    assert check_round_trip(Payload(block.size, (block,) * 255)) is None  # the writer joins them instead


@pytest.mark.parametrize("runs", [1, 4, 400])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.95])
def test_a_mask_costs_no_more_than_its_entropy_and_less_where_zeros_come_in_runs(share: float, runs: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(40_000).astype(np.float32)
    values[np.repeat(rng.random(40_000 // runs) < share, runs)] = 0.0
    data = encode_payload(Payload(40_000, (DenseBlock(torch.from_numpy(values)),)))
    zeros = np.mean(values == 0)
    entropy = -zeros * np.log2(zeros) - (1 - zeros) * np.log2(1 - zeros)
    mask_bytes = len(data) - 4 * np.count_nonzero(values)
    assert mask_bytes <= 1.03 * entropy / 8 * 40_000 / min(runs, 4) ** 0.5 + 48
    np.testing.assert_array_equal(decode_payload(data, 40_000).dense().numpy(), values)


@pytest.mark.parametrize(("size", "width"), [(5, 9), (13, 18), (70_001, 29)])
def test_words_come_back_and_their_padding_is_zero(size: int, width: int) -> None:
    words = np.random.default_rng(0).integers(0, 2**width, size, dtype=np.uint32)
    body = encode_words(words << np.uint32(3), width, low=3, head=b"head")[4:]
    assert np.array_equal(decode_words(body, size, width), words)
    forged = bytearray(body)
    forged[-1] |= 0x80
    with pytest.raises(WireError, match="non-zero padding"):
        decode_words(memoryview(forged), size, width)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("others", [0.1, 0.5, 1 + 2.0**-15, 0.0], ids=["dense", "bfloat16", "cut", "masked"])
def test_values_that_are_not_finite_are_not_written(others: float, value: float) -> None:
    values = torch.full((100,), others)
    values[7] = value
    with pytest.raises(ValueError, match="must be finite"):
        encode_payload(Payload(100, (DenseBlock(values),)))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("others", "kind"),
    [(0.1, DENSE), (1 + 2.0**-7, DENSE | BFLOAT16), (1 + 2.0**-15, CUT), (0.0, MASKED | BFLOAT16)],
    ids=["dense", "bfloat16", "cut", "masked"],
)
def test_values_that_are_not_finite_are_not_read(
    others: float, kind: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.full((100,), others)
    values[7] = value
    monkeypatch.setattr("fl_mlmc.compression.wire.dense_blocks.check_floats", lambda words: None)
    data = encode_payload(Payload(100, (DenseBlock(values),)))
    assert data[14] == kind
    with pytest.raises(WireError, match="not finite"):
        decode_payload(data, 100)


@pytest.mark.parametrize("width", range(17, 32))
def test_wide_letters_come_back_whatever_their_width(width: int) -> None:
    most = 2 ** (width - 1) - 1
    near = np.random.default_rng(width).normal(most, 40 * 2 ** max(0, width - 20), 2000).round()
    symbols = torch.from_numpy(near.clip(0, 2 * most).astype(np.int32))
    block = SymbolBlock(symbols, Lattice(2 * most + 1, 0.5, -most))
    data = encode_payload(Payload(2000, (block,)))
    assert torch.equal(decode_payload(data, 2000).dense(), block.dense())


def test_coded_upper_bits_of_more_letters_than_a_code_has_are_refused() -> None:
    body = struct.pack("<ffiB", 0.0, 1.0, 0, 29) + b"\0" + bytes(2 * 16)
    data = b"MLMC" + struct.pack("<BBII", 1, 1, 16, 0) + struct.pack("<BI", UPPER, len(body)) + body
    with pytest.raises(WireError, match="no symbols of 29 bits whose upper ones are coded"):
        decode_payload(sealed(data), 16)


@pytest.mark.parametrize("kept", [0, 8, 32])
def test_a_cut_block_that_keeps_less_than_sign_and_exponent_is_refused(kept: int) -> None:
    body = bytes([kept]) + bytes(kept // 8 * 16 + kept % 8 * 2)
    data = b"MLMC" + struct.pack("<BBII", 1, 1, 16, 0) + struct.pack("<BI", CUT, len(body)) + body
    with pytest.raises(WireError, match=f"keeps {kept} bits"):
        decode_payload(sealed(data), 16)
