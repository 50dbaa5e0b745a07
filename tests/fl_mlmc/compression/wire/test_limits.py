"""What a payload may cost its reader, and that every payload of a writer stays below."""

import struct
from collections.abc import Sequence
from contextlib import nullcontext
from time import process_time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fl_mlmc
from fl_mlmc.compression.blocks import (
    Block,
    DenseBlock,
    Lattice,
    Payload,
    PowerBlock,
    SeededBlock,
    SparseBlock,
    SymbolBlock,
    Table,
)
from fl_mlmc.compression.wire import WireError, decode_payload, encode_payload
from fl_mlmc.compression.wire.bodies import decode_body
from fl_mlmc.compression.wire.kinds import SYMBOLS
from fl_mlmc.compression.wire.limits import Budget, work_limit
from fl_mlmc.compression.wire.symbols import decode_symbols, encode_symbols
from fl_mlmc.compression.wire.symbols.modes import LANES, PACKED, RANS, SPLIT, TRITS
from fl_mlmc.compression.wire.symbols.packed import encode_packed
from fl_mlmc.compression.wire.symbols.parts import join_parts
from fl_mlmc.compression.wire.symbols.rans import decode_rans, encode_rans
from fl_mlmc.compression.wire.symbols.rans_model import decode_model, encode_model
from fl_mlmc.compression.wire.symbols.trits import encode_trits
from fl_mlmc.testing import (
    check_round_trip,
    decode_within_bounds,
    forged_payload,
    greedy_payloads,
    long_payloads,
    sample_payloads,
)

GREEDY = greedy_payloads()
FREE = [name for name in GREEDY if "seeded" in name]


@pytest.mark.parametrize("name", sorted(set(GREEDY) - set(FREE)))
def test_a_payload_that_asks_for_more_steps_than_it_pays_for_is_refused_at_once(name: str) -> None:
    data, size = GREEDY[name]
    assert decode_within_bounds(data, size) is None
    start = process_time()
    with pytest.raises(WireError, match="more steps than its coordinates pay for"):
        decode_payload(data, size)
    assert process_time() - start < 1  # one of 286 bytes took 9 s


@pytest.mark.parametrize("name", FREE)
def test_many_seeds_without_values_cost_little(name: str) -> None:
    data, size = GREEDY[name]
    payload = decode_within_bounds(data, size)
    assert payload is not None
    assert len(payload.blocks) == 255
    assert not payload.dense().any()


@pytest.mark.parametrize("name", ["greedy-lanes-300", "greedy-lanes-4000", "greedy-rans-4000"])
def test_the_fuzzers_oracle_notices_steps_that_nobody_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "step", lambda self, num_steps: None)
    with pytest.raises(AssertionError, match=r"runs more than \d+ lines"):
        decode_within_bounds(*GREEDY[name])


def test_limits_are_those_of_the_format() -> None:
    assert [work_limit(size) for size in (1, 4096, 4097, 2**32 - 1)] == [2**14, 2**14, 16_388, 2**34 - 4]


def test_a_budget_is_taken_to_its_last_byte_and_step_and_no_further() -> None:
    for take in (Budget.hold, Budget.step):
        budget = Budget(5000)
        take(budget, 19_999)
        take(budget, 1)
        take(budget, 0)
        with pytest.raises(WireError, match=r"1 .*where 0 are left"):
            take(budget, 1)
    budget = Budget(5000)
    budget.hold(20_000)
    budget.step(20_000)  # one does not take from the other


@pytest.mark.parametrize("name", sorted(sample_payloads()))
def test_what_a_reader_asks_for_is_what_its_blocks_hold(name: str) -> None:
    payload = sample_payloads()[name]
    for block in payload.blocks:
        data = encode_payload(Payload(block.size, (block,)))
        budget = Budget(block.size)
        decoded = decode_body(data[14], memoryview(data)[19:], block.size, budget)
        assert work_limit(block.size) - budget.bytes_left == decoded.held_bytes


def stream_of(mode: int, count: int) -> memoryview:
    """`count` letters that all are the first of three, by rANS a symbol at a time or in two lanes that end wrongly."""
    counts = np.array([count - 1, 1, 0])
    head, _ = encode_model(counts, count, group=1)
    if mode == RANS:
        return memoryview(bytes([RANS]) + head + b"\1")
    return memoryview(bytes([LANES]) + head + (2).to_bytes(2, "little") + (1 << 24).to_bytes(5, "little") * 2)


@pytest.mark.parametrize(
    ("mode", "count", "steps"),
    [(RANS, 100, 100), (RANS, 65_536, 65_536), (LANES, 100, 32 * 50), (LANES, 101, 32 * 51)],
)
def test_a_symbol_of_rans_is_a_step_and_a_row_of_lanes_32(mode: int, count: int, steps: int) -> None:
    budget = Budget(1 << 20)
    before = budget.steps_left
    with nullcontext() if mode == RANS else pytest.raises(WireError, match="does not end"):
        decode_symbols(stream_of(mode, count), count, 3, budget)
    assert before - budget.steps_left == steps


def test_many_symbols_of_rans_in_runs_are_as_many_steps_as_there_may_be_blocks() -> None:
    symbols = np.zeros(1 << 18, np.uint8)
    symbols[[5, 70_000]] = 1
    code = encode_rans(symbols, np.bincount(symbols, minlength=3), 60.0)
    assert code is not None
    budget = Budget(1 << 20)
    before = budget.steps_left
    np.testing.assert_array_equal(decode_rans(memoryview(code), symbols.size, 3, budget), symbols)
    assert before - budget.steps_left == 1 << 16


@pytest.mark.parametrize("letters", [40, 64])
def test_the_fewest_lanes_of_a_writer_are_paid_for(letters: int) -> None:
    """Just below the share from which a letter's exceptions are named by their places, with blocks of one letter."""
    size = 1 << 20
    rng = np.random.default_rng(0)
    symbols = np.where(rng.random(size) < 0.9803, 0, rng.integers(1, letters, size)).astype(np.uint8)
    code = encode_symbols(symbols, letters)
    assert code[0] == LANES
    model, rest = decode_model(memoryview(code)[1:], size, letters)
    num_rows = -(-size // model.group) // int.from_bytes(rest[:2], "little") + 1
    assert 32 * num_rows <= size


# Payloads of several blocks, of every kind.


def blocks_of(size: int, rng: np.random.Generator, scale: float) -> Sequence[Block]:
    """A block of each kind, with values up to about `scale`."""
    count = int(rng.integers(0, size + 1))
    indices = torch.from_numpy(np.sort(rng.choice(size, count, replace=False)))
    values = torch.from_numpy(rng.uniform(-scale, scale, size)).float()
    few = torch.from_numpy(rng.choice([-scale, 0.5 * scale, scale / 3], size)).float()
    letters = int(rng.integers(1, 257))
    symbols = torch.from_numpy(np.minimum(rng.geometric(rng.uniform(0.05, 1), size) - 1, letters - 1)).byte()
    wide = torch.from_numpy(rng.integers(0, 30_000, size)).short()
    exponents = torch.from_numpy(rng.integers(100, 128, size) * (rng.random(size) < 0.8)).byte()
    return (
        DenseBlock(values),
        DenseBlock(values.bfloat16().float()),
        DenseBlock(few * torch.from_numpy(rng.random(size) < 0.3)),
        SparseBlock(size, indices, values[indices]),
        SparseBlock(size, indices, few[indices]),
        SeededBlock(size, int(rng.integers(2**63)), values[:count]),
        SymbolBlock(symbols, Lattice(letters, scale / letters)),
        SymbolBlock(symbols, Table(rng.uniform(-scale, scale, letters))),
        SymbolBlock(wide, Lattice(30_000, scale / 30_000)),
        SymbolBlock(wide.int() * 8, Lattice(240_000, scale / 240_000)),
        PowerBlock(values < 0, exponents, scale),
        PowerBlock(values < 0, exponents, scale / 2, scale / 2**11, wide % 1024, 10),
    )


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 5, 64, 300, 4000, 9000]),
    seed=st.integers(0, 2**32),
    picks=st.lists(st.integers(0, 11), max_size=12),
    copies=st.sampled_from([1, 1, 1, 20]),
)
def test_every_payload_of_a_writer_is_read_back(size: int, seed: int, picks: list[int], copies: int) -> None:
    blocks = blocks_of(size, np.random.default_rng(seed), 1.0)
    check_round_trip(Payload(size, tuple(blocks[pick] for pick in picks) * copies))


@pytest.mark.parametrize("unbiased", ["RandK(fraction=0.4)", "Bernoulli(fraction=0.15)"])
def test_blocks_that_are_shorter_in_a_dense_form_are_joined_where_they_hold_too_much(unbiased: str) -> None:
    vector = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    data = fl_mlmc.parse(f"Induced(TopK(fraction=0.15), {unbiased})").encode(vector, np.random.default_rng(0))
    assert data[5] == 1
    assert fl_mlmc.decode(data, 20_000).isfinite().all()


@pytest.mark.parametrize("name", sorted(long_payloads()))
def test_lanes_of_short_streams_stay_readable(name: str) -> None:
    data, payload = long_payloads()[name]
    assert torch.equal(decode_payload(data, payload.size).dense(), payload.dense())


# Memory of parts in parts.


def halved(letters: int, count: int, depth: int = 0) -> bytes:
    """Symbols of which half are the rest of two heads, and of the rest half again."""
    if depth == 2:
        return bytes([PACKED]) + encode_packed(np.zeros(count, np.uint8), letters)
    first = np.zeros(count, np.uint8)
    first[: count // 2] = 2
    parts = bytes([PACKED]) + encode_packed(first, 3), halved(letters - 2, count // 2, depth + 1)
    return bytes([SPLIT, 2, letters - 2, letters - 1]) + join_parts(*parts)


def all_rest(letters: int, count: int, depth: int = 0) -> bytes:
    """Symbols all of which are the rest of a head, twice."""
    if depth == 2:
        return bytes([PACKED]) + encode_packed(np.zeros(count, np.uint8), letters)
    parts = bytes([PACKED]) + encode_packed(np.ones(count, np.uint8), 2), all_rest(letters - 1, count, depth + 1)
    return bytes([SPLIT, 1, letters - 1]) + join_parts(*parts)


@pytest.mark.parametrize(
    "stream",
    [
        lambda size: (200, halved(200, size)),
        lambda size: (200, all_rest(200, size)),
        lambda size: (3, bytes([TRITS]) + encode_trits(np.ones(size, np.uint8))),
        lambda size: (1 << 15, b"\4" + join_parts(halved(256, size), halved(128, size))),
        lambda size: (1 << 15, b"\4" + join_parts(all_rest(256, size), all_rest(128, size))),
    ],
    ids=["halved", "all rest", "trits", "planes of halves", "planes of all rest"],
)
def test_parts_in_parts_stay_within_two_vectors_beside_as_many_blocks_as_a_payload_holds(stream) -> None:
    size = 400_000
    letters, code = stream(size)
    body = struct.pack("<BHffi", 0, letters, 0.0, 1e-3, 0) + code
    copies = 4 if letters <= 256 else 2
    payload = decode_within_bounds(forged_payload(size, [(SYMBOLS, body)] * copies), size)
    assert payload is not None
    assert len(payload.blocks) == copies
