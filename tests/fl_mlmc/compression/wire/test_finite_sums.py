"""No payload that is read has a coordinate that is not finite, whoever sums it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fl_mlmc
from fl_mlmc.aggregation.mean import CoverageMean
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
from fl_mlmc.submodels import WidthSpec, plan
from fl_mlmc.testing import decode_within_bounds, forged_payload, overflowing_payloads

MOST = float(np.finfo(np.float32).max)
SIZE = 16
SIGNS = torch.tensor([True, False])
SPEC = WidthSpec.of(nn.Linear(3, 4), {"out": 4, "in": 3}, {"weight": ("out", "in"), "bias": ("out",)})
WHOLE = plan(SPEC, "nested", 1.0)


@pytest.mark.parametrize("name", sorted(overflowing_payloads()))
def test_blocks_that_overflow_together_are_refused(name: str) -> None:
    data, size = overflowing_payloads()[name]
    assert decode_within_bounds(data, size) is None
    with pytest.raises(WireError, match="sum to values that are not finite"):
        decode_payload(data, size)


def test_blocks_that_overflow_together_are_not_written() -> None:
    entry = SparseBlock(SIZE, torch.tensor([3]), torch.tensor([3e38]))
    with pytest.raises(ValueError, match="the sum of its blocks is not"):
        encode_payload(Payload(SIZE, (entry, entry)))
    apart = SparseBlock(SIZE, torch.tensor([4]), torch.tensor([3e38]))
    data = encode_payload(Payload(SIZE, (entry, apart)))
    assert fl_mlmc.decode(data, SIZE).nonzero().flatten().tolist() == [3, 4]


def test_a_single_block_may_hold_the_largest_number() -> None:
    values = torch.full((SIZE,), MOST)
    data = encode_payload(Payload(SIZE, (DenseBlock(values),)))
    assert torch.equal(fl_mlmc.decode(data, SIZE), values)
    assert Payload(SIZE, (DenseBlock(values),)).is_finite()


@pytest.mark.parametrize(
    ("block", "largest"),
    [
        (DenseBlock(torch.tensor([1.0, -3.0])), 3.0),
        (SparseBlock(2, torch.tensor([1]), torch.tensor([-4.0])), 4.0),
        (SparseBlock(2, torch.tensor([], dtype=torch.int64), torch.tensor([])), 0.0),
        (SeededBlock(2, 5, torch.tensor([-4.0])), 4.0),
        (SeededBlock(2, 5, torch.tensor([])), 0.0),
        (SymbolBlock(torch.tensor([0, 1]).byte(), Lattice(3, 2.0, -2)), 4.0),
        (SymbolBlock(torch.tensor([0, 1]).byte(), Lattice(3, -2.0, 0, 1.0)), 3.0),
        (SymbolBlock(torch.tensor([0, 1]).byte(), Table(np.array([1.0, -5.0]))), 5.0),
        (PowerBlock(SIGNS, torch.tensor([127, 129]).byte(), -3.0), 12.0),
        (PowerBlock(SIGNS, torch.tensor([127, 128]).byte(), 1.0, 0.5, torch.tensor([0, 3]).byte(), 2), 5.0),
        (PowerBlock(SIGNS, torch.tensor([127, 128]).byte(), 8.0, -2.0, torch.tensor([0, 3]).byte(), 2), 16.0),
    ],
)  # fmt: skip
def test_the_peak_of_a_block_is_that_of_its_values(block: Block, largest: float) -> None:
    assert block.peak() == largest
    assert float(block.dense().abs().max()) <= largest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_payload_with_a_value_that_is_not_finite_is_not_finite(value: float) -> None:
    assert not Payload(2, (DenseBlock(torch.tensor([1.0, value])),)).is_finite()
    assert not Payload(2, (DenseBlock(torch.tensor([1.0, value])), DenseBlock(torch.zeros(2)))).is_finite()


magnitudes = st.one_of(
    st.sampled_from([0.0, 1.0, 1e30, 1e38, 1.7e38, 3e38, MOST, 2.0**127, 2.0**113, 2.0**103]),
    st.floats(0, MOST, width=32),
)
numbers = st.tuples(magnitudes, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])


@st.composite
def some_block(draw: st.DrawFn) -> Block:
    """A block of SIZE coordinates of any kind, with numbers from all of float32's range and products beyond it."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    negative = torch.from_numpy(rng.random(SIZE) < 0.5)
    letters = torch.from_numpy(rng.integers(0, 3, SIZE)).byte()
    count = draw(st.integers(0, 3))
    values = torch.tensor([draw(numbers) for _ in range(count)])
    indices = torch.arange(count) * draw(st.sampled_from([1, 5]))
    exponents = torch.from_numpy(rng.integers(1, draw(st.sampled_from([3, 128, 256])), SIZE)).byte()
    match draw(st.integers(0, 6)):
        case 0:
            return DenseBlock(torch.tensor([draw(numbers), draw(numbers)])[letters.int() % 2])
        case 1:
            return SparseBlock(SIZE, indices, values)
        case 2:
            return SeededBlock(SIZE, draw(st.integers(0, 9)), values)
        case 3:
            return SymbolBlock(letters, Lattice(3, draw(numbers), draw(st.integers(-2, 2)), draw(numbers)))
        case 4:
            return SymbolBlock(letters, Table(np.array([draw(numbers) for _ in range(3)])))
        case 5:
            return SymbolBlock(letters.int() * 50_000, Lattice(2**17, draw(numbers) / 2**17, 0, draw(numbers)))
    return PowerBlock(negative, exponents, draw(numbers), draw(numbers), letters, 2)


def tried(function: Callable, *arguments: object) -> tuple[Any, str]:
    """(result, why there is none)."""
    try:
        return function(*arguments), ""
    except ValueError as error:
        return None, str(error)


@settings(max_examples=150, deadline=None)
@given(blocks=st.lists(some_block(), min_size=1, max_size=6), weight=st.sampled_from([1e-9, 1.0, 3.0, 1e9]))
def test_what_is_read_is_finite_however_it_is_summed(blocks: list[Block], weight: float) -> None:
    written = [tried(encode_payload, Payload(SIZE, (block,)))[0] for block in blocks]
    bodies = [(data[14], data[19:]) for data in written if data is not None]
    payload, reason = tried(decode_payload, forged_payload(SIZE, bodies), SIZE)
    if reason:
        assert len(bodies) > 1
        assert "sum to values that are not finite" in reason
        return
    assert payload.dense().isfinite().all()
    for dtype in (torch.float32, torch.float64):
        sums = torch.zeros(SIZE, dtype=dtype)
        payload.add_to(sums)
        assert sums.float().isfinite().all()
        sums = torch.zeros(SIZE, dtype=dtype)
        payload.add_to(sums, 1.0, torch.arange(SIZE).flip(0))
        assert sums.float().isfinite().all()
    mean = CoverageMean(SPEC.size)
    mean.add(WHOLE, payload, weight)
    assert mean.result().update.isfinite().all()


@settings(max_examples=100, deadline=None)
@given(blocks=st.lists(some_block(), min_size=1, max_size=4))
def test_what_is_written_is_read_and_finite_or_refused_by_the_writer(blocks: list[Block]) -> None:
    data, reason = tried(encode_payload, Payload(SIZE, tuple(blocks)))
    assert "finite" in reason if data is None else fl_mlmc.decode(data, SIZE).isfinite().all()


@pytest.mark.parametrize("scale", [1e37, 1e38, 3e38])
@pytest.mark.parametrize(
    "text",
    [
        "Scaled(RandK(fraction=0.1), 9.0)",
        "MLMC(TopK(fraction=0.1), draws=5)",
        "Induced(TopK(fraction=0.2), RandK(fraction=0.2))",
        "MLMC(FixedPoint(), draws=3)",
        "MLMC(FloatingPoint(), draws=3)",
        "QSGD()",
        "Natural()",
        "TernGrad()",
    ],
)
def test_a_compressor_of_huge_vectors_writes_finite_payloads_or_refuses(text: str, scale: float) -> None:
    vector = torch.randn(300, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * scale
    for seed in range(6):
        data, reason = tried(fl_mlmc.parse(text).encode, vector, np.random.default_rng(seed))
        assert "finite" in reason if data is None else fl_mlmc.decode(data, 300).isfinite().all()
