"""Several draws travel as one block of letters."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import ECUQ, MLMC, RTN, FixedPoint, FloatingPoint, Ladder
from fl_mlmc.compression.blocks import DenseBlock, Lattice, Payload, SymbolBlock
from fl_mlmc.compression.ladders.joint import joined
from fl_mlmc.compression.wire import encode_payload


def normal(size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(8).standard_normal(size)).float()


def planes(first: float, second: float) -> tuple[SymbolBlock, SymbolBlock]:
    """Two digits of 600 numbers; every fourth has some, with one sign."""
    number = torch.arange(600)
    signs = torch.where(number % 4 == 0, number // 4 % 2 * 2 - 1, 0)
    digits = (number // 8 % 2, number // 16 % 2)
    return tuple(  # type: ignore[return-value]
        SymbolBlock((1 + signs * digit).byte(), Lattice(3, step, -1))
        for digit, step in zip(digits, (first, second), strict=True)
    )


def test_a_joint_block_is_the_sum_of_its_parts() -> None:
    parts = planes(0.5, 0.125)
    [block] = joined(parts)
    assert isinstance(block, SymbolBlock)
    assert block.alphabet.count == 7  # one sign for both digits
    assert torch.equal(block.dense(), parts[0].dense() + parts[1].dense())
    assert block.counts is not None
    assert block.counts.tolist() == torch.bincount(block.symbols.int()).tolist()


def test_sums_of_equal_value_share_a_letter() -> None:
    [block] = joined(planes(0.5, 0.5))
    assert block.alphabet.count == 5  # type: ignore[attr-defined]


def test_what_would_be_longer_joined_stays_apart() -> None:
    numbers = torch.arange(600)
    parts = (
        SymbolBlock((numbers % 300).short(), Lattice(300, 0.1)),
        SymbolBlock((numbers // 3 % 3).byte(), Lattice(3, 0.125)),
    )
    assert joined(parts) == parts
    dense = (parts[1], DenseBlock(torch.ones(600)), parts[1])
    assert joined(dense) == dense


@pytest.mark.parametrize("size", [400, 5000])
@pytest.mark.parametrize(
    "compressor",
    [
        MLMC(FloatingPoint(), draws=2),
        MLMC(FloatingPoint(), "fixed", draws=3, replacement=False),
        MLMC(FixedPoint(), draws=3),
        MLMC(FixedPoint(unit=2.0)),
        MLMC(RTN(bits=8), draws=2),
        MLMC(ECUQ(bits=3), draws=2, replacement=False),
    ],
    ids=repr,
)
def test_a_payload_of_several_draws_is_shorter_than_a_payload_of_each(compressor: MLMC, size: int) -> None:
    vector = normal(size)
    rungs = compressor.ladder.climb(vector)
    chances = compressor.level_probabilities(rungs)
    for seed in range(5):
        levels = compressor.compress(vector, np.random.default_rng(seed)).levels
        together = len(encode_payload(compressor.outcome(rungs, levels, chances)))
        base = () if rungs.base is None else (rungs.base,)
        parts = [*base, *(rungs.increment(level) for level in set(levels))]
        assert together <= sum(len(encode_payload(Payload(size, (part,)))) for part in parts)


@pytest.mark.parametrize("ladder", [FloatingPoint(), FixedPoint(), FixedPoint(unit=2.0), RTN(bits=8)], ids=repr)
def test_an_estimate_of_several_levels_is_the_base_and_its_increments(ladder: Ladder) -> None:
    vector = normal(5000)
    vector[:50] = 0
    vector[50:60] = 1e-40 * (torch.arange(10) - 5)
    rungs = ladder.climb(vector)
    factors = {2: 3.5, 1: 0.25, 5: 17.0}
    blocks = rungs.estimate(factors)
    assert len(blocks) == 1
    expected = torch.zeros(5000, dtype=torch.float64) if rungs.base is None else rungs.base.dense().double()
    for level, factor in factors.items():
        expected += rungs.increment(level).dense().double() * factor
    torch.testing.assert_close(blocks[0].dense().double(), expected, rtol=1e-6, atol=1e-6)
    assert not blocks[0].dense()[:50].any()
