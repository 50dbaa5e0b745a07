"""Rungs against their plain definitions, coordinate by coordinate."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import ECUQ, RTN, FixedPoint, FloatingPoint, Ladder, TopK
from fl_mlmc.compression.blocks import SymbolBlock

VECTOR = torch.from_numpy(np.random.default_rng(4).standard_normal(3000)).float()


def alone(ladder: Ladder, vector: Tensor = VECTOR) -> Tensor:
    return ladder.compress(vector, np.random.default_rng(0)).payload.dense().double()


@pytest.mark.parametrize("bits", [2, 3, 5, 11])
@pytest.mark.parametrize("clip", ["max", 1.5])
def test_rtn_rounds_to_the_nearest_multiple(bits: int, clip: float | str) -> None:
    limit = float(VECTOR.abs().max()) if clip == "max" else float(clip)
    step, half = 2 * limit / (2**bits - 1), (2**bits - 1) // 2
    expected = (VECTOR.double() / step).round().clamp(-half, half) * step
    torch.testing.assert_close(alone(RTN(bits=bits, clip=clip)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 6])
def test_mid_rise_rounds_to_the_nearest_of_all_values_between_the_ends(bits: int) -> None:
    values = torch.linspace(-1, 1, 2**bits, dtype=torch.float64) * float(VECTOR.abs().max())
    expected = values[(VECTOR.double()[:, None] - values).abs().argmin(dim=1)]
    torch.testing.assert_close(alone(RTN(bits=bits, kind="mid-rise")), expected, rtol=1e-6, atol=1e-6)


def test_one_bit_of_mid_tread_is_zero_and_of_mid_rise_the_sign() -> None:
    assert not alone(RTN(bits=1)).any()
    assert torch.equal(alone(RTN(bits=1, kind="mid-rise")).sign(), VECTOR.double().sign())


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_ecuq_has_the_centres_of_the_most_bins_that_keep_to_its_bits(bits: int, name: str) -> None:
    rng = np.random.default_rng(5)
    array = rng.standard_normal(200_000) if name == "normal" else rng.uniform(-1, 1, 200_000)
    vector = torch.from_numpy(array).float()
    rungs = ECUQ(bits=bits).climb(vector)
    [block] = rungs.rung(bits)
    assert isinstance(block, SymbolBlock)
    count = block.alphabet.count
    assert count >= 2**bits
    low, width = float(vector.min()), float(vector.max() - vector.min()) / count
    bins = ((vector.double() - low) / width).floor().clamp(0, count - 1)
    centres = low + (bins + 0.5) * width
    near_an_edge = ((vector.double() - centres).abs() / width - 0.5).abs() < 1e-3
    torch.testing.assert_close(block.dense().double()[~near_an_edge], centres[~near_an_edge], rtol=1e-5, atol=1e-6)
    assert entropy(bins) <= bits + 1e-9
    # The coder is left a few per cent; beyond them more bins would not do.
    wider = max(count + 1, 1.06 * count)
    assert entropy(((vector.double() - low) * wider / float(vector.max() - vector.min())).floor()) > 0.97 * bits


def entropy(letters: Tensor) -> float:
    counts = letters.unique(return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log2()).sum())


@pytest.mark.parametrize("bits", [1, 4, 9])
def test_fixed_point_cuts_the_share_of_the_largest_to_its_bits(bits: int) -> None:
    largest = float(VECTOR.abs().max())
    shares = (VECTOR.double().abs() / largest).clamp(max=1 - 2.0**-24)
    expected = VECTOR.double().sign() * (shares * 2**bits).floor() / 2**bits * largest
    torch.testing.assert_close(alone(FixedPoint(bits=bits)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [0, 1, 5, 16])
def test_floating_point_cuts_the_mantissa(bits: int) -> None:
    mantissas, exponents = torch.frexp(VECTOR.double().abs())
    expected = torch.ldexp((mantissas * 2 ** (bits + 1)).floor() / 2 ** (bits + 1), exponents) * VECTOR.double().sign()
    assert torch.equal(alone(FloatingPoint(bits=bits)), expected)


def test_fixed_chances_are_the_closed_forms() -> None:
    top_k = TopK(count=700).climb(VECTOR)
    roots = np.sqrt([700, 700, 700, 700, 200])  # the best for equal coordinates
    np.testing.assert_allclose(top_k.prior(), roots / roots.sum())
    powers = 2.0 ** -np.arange(1, 6)
    np.testing.assert_allclose(FixedPoint(bits=5).climb(VECTOR).prior(), [*powers, 2.0**-5])  # Lemma 3.3, and the rest
    np.testing.assert_allclose(
        FloatingPoint().climb(VECTOR).prior(), 2.0 ** -np.arange(1, 24) / (1 - 2.0**-23), rtol=1e-12
    )
