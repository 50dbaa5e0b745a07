"""rANS of long streams, on short ones: the same bytes compiled and not, and as its plain definition reads them."""

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc.compression import kernels
from fl_mlmc.compression.blocks import Lattice, Payload, SymbolBlock
from fl_mlmc.compression.wire import WireError, decode_payload, encode_payload
from fl_mlmc.compression.wire.limits import Budget
from fl_mlmc.compression.wire.symbols import encode_symbols
from fl_mlmc.compression.wire.symbols.lanes import decode_lanes, encode_lanes
from fl_mlmc.compression.wire.symbols.modes import LANES, LOW_BITS
from fl_mlmc.compression.wire.symbols.rans_model import block_shares, decode_model, frequencies
from fl_mlmc.testing import check_hostile, decode_within_bounds, long_payloads, sealed

LETTERS = [2, 3, 4, 7, 15, 30, 64, 200, 256, 300, 1340, 4096]


def read_lanes(code: bytes, size: int, letters: int) -> np.ndarray:
    """What is in `code`, whatever that costs."""
    return decode_lanes(memoryview(code), size, letters, Budget(1 << 24))


@pytest.fixture(params=["compiled", "numpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the extra `fast` is not installed")
        monkeypatch.setattr(kernels, "LONG", 0)
    return request.param


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_compiled_or_not_the_bytes_are_the_same_and_give_back_the_symbols(data: st.DataObject) -> None:
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    letters = data.draw(st.sampled_from(LETTERS))
    symbols = _symbols(data.draw(st.integers(2, 3000)), letters, data.draw(st.sampled_from([0.0, 0.5, 0.97])))
    bits = symbols.size * data.draw(st.sampled_from([0.01, 1.0, 12.0, 500.0, 5000.0]))
    code = _coded(symbols, letters, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LONG", 0)
        assert _coded(symbols, letters, bits) == code
        np.testing.assert_array_equal(read_lanes(code, symbols.size, letters), symbols)
    np.testing.assert_array_equal(read_lanes(code, symbols.size, letters), symbols)


@pytest.mark.parametrize("letters", [2, 15, 64, 300, 4096])
@pytest.mark.parametrize("num_lanes", [1, 2, 7, 63, 300])
def test_a_code_is_what_its_definition_reads(either: str, letters: int, num_lanes: int) -> None:
    for size in (300 * 8, 2501):
        symbols = _symbols(size, letters, 0.2)
        code = _coded(symbols, letters, num_lanes * 4096.0)
        assert plainly_decoded(code, size, letters) == (symbols.tolist(), num_lanes)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    ("letters", "share"), [(2, 0.7), (3, 0.0), (3, 0.9), (16, 0.0), (16, 0.9), (256, 0.0), (256, 0.9), (4096, 0.0)]
)
def test_a_long_stream_is_within_three_percent_of_its_entropy(letters: int, share: float) -> None:
    symbols = _symbols(1 << 20, letters, share)
    code = encode_symbols(symbols, letters)
    assert code[0] == (LOW_BITS if (letters, share) == (256, 0.0) else LANES)
    assert len(code) <= 1.03 * _entropy_bits(symbols) / 8 + 14


@pytest.mark.usefixtures("either")
def test_a_long_vector_travels_in_lanes_and_damage_is_noticed() -> None:
    symbols = _symbols((1 << 20) + 5, 15, 0.3)
    block = SymbolBlock(torch.from_numpy(symbols), Lattice(15, 0.5, -7))
    data = encode_payload(Payload(block.size, (block,)))
    assert torch.equal(decode_payload(data, block.size).dense(), block.dense())
    assert decode_within_bounds(data, block.size) is not None
    rng = np.random.default_rng(0)
    for place in [*range(14, 60, 3), *rng.integers(60, len(data), 40)]:
        forged = bytearray(data)
        forged[place] ^= 1 << int(rng.integers(8))
        assert decode_within_bounds(sealed(bytes(forged)), block.size) is None or place < 34
    for other in (data[:-1], data[:-2], data + b"\0", data + b"\0\0"):
        forged = other[:15] + (len(other) - 19).to_bytes(4, "little") + other[19:]
        assert decode_within_bounds(sealed(forged), block.size) is None


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("num_forgeries", [30, pytest.param(150, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", sorted(long_payloads()))
def test_damaged_and_forged_payloads_are_refused_or_sound(name: str, num_forgeries: int) -> None:
    data, payload = long_payloads()[name]
    assert torch.equal(decode_payload(data, payload.size).dense(), payload.dense())
    check_hostile(data, payload.size, np.random.default_rng(5), num_forgeries)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("letters", [2, 15, 300])
def test_any_flipped_bit_or_lost_or_added_byte_is_refused_or_sound(letters: int) -> None:
    symbols = _symbols(150, letters, 0.5)
    code = _coded(symbols, letters, 3 * 4096.0)
    damaged = [code[:length] for length in range(len(code))]
    damaged += [code + more for more in (b"\0", b"\0\0", b"\1\2", b"\xff" * 7, b"\xff" * 1000)]
    for place in range(len(code)):
        damaged += [code[:place] + bytes([code[place] ^ 1 << bit]) + code[place + 1 :] for bit in (0, 4, 7)]
    refused = 0
    for other in damaged:
        try:
            decoded = read_lanes(other, symbols.size, letters)
        except WireError:
            refused += 1
        else:
            assert decoded.shape == symbols.shape
            assert decoded.max() < letters
    # States that are wrong do not end where they start from; with 300 letters most of the code names letters.
    assert refused >= (0.7 if letters == 300 else 0.95) * len(damaged)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    ("num_lanes", "states", "word"),
    [
        (0, [], "in 0 lanes"),
        (5, [1 << 24] * 5, "in 5 lanes"),  # there are 4 blocks
        (2, [1 << 24], "5 bytes for 2 states"),
        (2, [1 << 24, (1 << 24) - 1], "below"),
        (2, [(1 << 40) - 1, 1 << 24], "does not end"),
    ],
)
def test_states_that_no_writer_has_are_refused(num_lanes: int, states: list[int], word: str) -> None:
    symbols = np.array([0, 1, 2, 3] * 2, np.uint8)
    code = _coded(symbols, 4, 0.4)
    model, rest = decode_model(memoryview(code), 8, 4)
    assert model.group == 2
    lanes = num_lanes.to_bytes(2, "little") + b"".join(state.to_bytes(5, "little") for state in states)
    with pytest.raises(WireError, match=word):
        read_lanes(code[: -len(rest)] + lanes, 8, 4)


def test_lanes_are_as_many_as_the_bits_pay_for_up_to_a_bound(either: str) -> None:
    symbols = _symbols(30_000, 16, 0.0)
    for bits, num_lanes in ((0.0, 1), (10 * 4096.0, 10), (1e12, 4096)):
        code = _coded(symbols, 16, bits)
        assert plainly_decoded(code, symbols.size, 16)[1] == num_lanes


def test_blocks_of_runs_are_refused() -> None:
    code = _coded(_symbols(100, 4, 0.0), 4, 1.0)
    with pytest.raises(WireError, match="of blocks in"):
        read_lanes(bytes([code[0] | 0x80]) + code[1:], 100, 4)


def test_the_compiled_reader_looks_at_no_word_that_is_not_there() -> None:
    """Its loop as Python runs it, which would say so; compiled code would read on."""
    symbols = _symbols(60, 15, 0.0)
    code = memoryview(_coded(symbols, 15, 3 * 4096.0))
    model, rest = decode_model(code, 60, 15)
    often = frequencies(block_shares(model.weights, model.group)).astype(np.uint64)
    starts, num_lanes = np.cumsum(often) - often, int.from_bytes(rest[:2], "little")
    end = 2 + 5 * num_lanes
    words = np.frombuffer(rest[end:], "<u2")
    assert words.size > 3
    for kept in range(1, words.size + 1):
        states = np.array([int.from_bytes(rest[at : at + 5], "little") for at in range(2, end, 5)], np.uint64)
        blocks = np.zeros(60 // model.group, np.uint16)
        block_of = np.repeat(np.arange(often.size, dtype=np.uint16), often.astype(np.int64))
        position = kernels._KERNELS["pop"](states, words[:kept], often, starts, block_of, blocks)
        assert (position == kept) == (kept == words.size)


def test_a_weight_above_the_number_of_symbols_is_refused() -> None:
    with pytest.raises(WireError, match="no weights for 4 letters of 8 symbols"):
        decode_model(memoryview(b"\x00\xff\x0f"), 8, 4)


def test_a_few_bytes_cannot_make_a_reader_step_long_or_build_large_tables() -> None:
    code = _coded(_symbols(1 << 20, 2, 0.0), 2, 1.0)
    end = len(code) - len(decode_model(memoryview(code), 1 << 20, 2)[1])
    assert code[end : end + 2] == b"\x10\0"
    with pytest.raises(WireError, match="in 15 lanes"):
        read_lanes(code[:end] + b"\x0f" + code[end + 1 :], 1 << 20, 2)
    many = _coded(_symbols(5000, 100, 0.0), 100, 1.0)
    for group in range(2, 8):
        with pytest.raises(WireError, match="kinds of blocks"):
            read_lanes(bytes([many[0] & ~7 | group - 1]) + many[1:], 5000, 100)
    with pytest.raises(WireError):
        read_lanes(b"", 5, 2)


def plainly_decoded(code: bytes, size: int, alphabet: int) -> tuple[list[int], int]:
    """(symbols, number of lanes) as FORMAT.md describes them, a state at a time."""
    model, body = decode_model(memoryview(code), size, alphabet)
    letters, group, num_letters = model.letters, model.group, model.letters.size
    often = frequencies(block_shares(model.weights, group)).tolist()
    num_lanes, num_blocks = int.from_bytes(body[:2], "little"), ceil(size / group)
    states = [int.from_bytes(body[2 + 5 * lane : 7 + 5 * lane], "little") for lane in range(num_lanes)]
    words = iter(np.frombuffer(body[2 + 5 * num_lanes :], "<u2").tolist())
    starts = np.cumsum([0, *often]).tolist()
    owner = np.repeat(np.arange(len(often)), often).tolist()
    digits = [0] * (group * num_blocks)
    for i in range(num_blocks):
        state = states[i % num_lanes]
        block = owner[state % 2**16]
        state = often[block] * (state // 2**16) + state % 2**16 - starts[block]
        states[i % num_lanes] = state if state >= 2**24 else state * 2**16 + next(words)
        for place in range(group):
            digits[place * num_blocks + i] = block // num_letters**place % num_letters
    assert states == [2**24] * num_lanes
    assert next(words, None) is None
    assert not any(digits[size:])
    return [int(letters[digit]) for digit in digits[:size]], num_lanes


def _symbols(size: int, letters: int, heavy: float) -> np.ndarray:
    """Bell-shaped symbols of which a share `heavy` is one letter; the first and last letter occur."""
    rng = np.random.default_rng([size, letters])
    bell = np.clip(np.rint(rng.standard_normal(size) * letters / 8 + letters / 2), 0, letters - 1)
    bell[rng.random(size) < heavy] = letters // 3
    bell[[0, -1]] = 0, letters - 1
    return bell.astype(np.uint8 if letters <= 256 else np.uint16)


def _coded(symbols: np.ndarray, letters: int, bits: float) -> bytes:
    return encode_lanes(symbols, np.bincount(symbols, minlength=letters), bits)


def _entropy_bits(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / symbols.size
    return float(-(shares * np.log2(shares)).sum()) * symbols.size
