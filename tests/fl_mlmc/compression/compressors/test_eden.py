"""EDEN: the limits of its ω, the exact part of its estimate along the vector, its length, and what it does not say."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import EDEN, Induced, Scaled, TopK, decode
from fl_mlmc.compression.compressors.eden import normal_levels
from fl_mlmc.compression.rotation import Rotation
from fl_mlmc.testing import check_encoding, check_hostile, check_refusals, check_text, edge_vectors

LIMITS = {1: np.pi / 2 - 1, 2: 0.1331, 3: 0.0358, 4: 0.00959}
"""Distortions of Lloyd and Max, D / (1 − D): arXiv 2108.08842, section 4."""


def vectors(size: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(size)
    alone = np.zeros(size)
    alone[[0, 1]] = 1, 0.5
    found = {"normal": rng.normal(size=size), "student": rng.standard_t(3, size), "two": alone, "even": np.ones(size)}
    return {name: torch.from_numpy(values).float() for name, values in found.items()}


@pytest.mark.parametrize("bits", LIMITS)
def test_omega_tends_to_its_limit_whatever_the_vector(bits: int) -> None:
    assert EDEN(bits).limit() == pytest.approx(LIMITS[bits], rel=2e-3)
    rng = np.random.default_rng(bits)
    for size in (5000, 100_000):
        for name, vector in vectors(size).items():
            errors = [
                float((EDEN(bits).compress(vector, rng).payload.dense() - vector).square().sum()) for _ in range(8)
            ]
            assert np.mean(errors) / float(vector.square().sum()) == pytest.approx(LIMITS[bits], rel=0.05), name


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_are_the_means_of_what_is_nearest_to_them(bits: int) -> None:
    levels = normal_levels(bits)
    numbers = np.linspace(-9, 9, 2_000_001)
    weights = np.exp(-(numbers**2) / 2)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, numbers)
    means = np.bincount(nearest, weights * numbers) / np.bincount(nearest, weights)
    np.testing.assert_allclose(levels, means, atol=2e-4)
    np.testing.assert_allclose(levels, -levels[::-1])


@pytest.mark.parametrize("size", [2, 7, 100, 5000, 140_000])
def test_every_outcome_has_the_vectors_own_length_along_each_part(size: int) -> None:
    """⟨x, S q⟩ = ‖x‖² for each part x of the rotated vector, so ⟨v, C(v)⟩ = ‖v‖² in every draw."""
    for bits, vector in product((1, 3), vectors(size).values()):
        estimate = EDEN(bits).compress(vector, np.random.default_rng(size)).payload.dense()
        along = float(vector.double() @ estimate.double())
        assert along == pytest.approx(float(vector.double().square().sum()), rel=1e-5)


def test_the_mean_of_a_long_vectors_estimates_is_the_vector() -> None:
    vector, rng, count = vectors(3000)["student"], np.random.default_rng(0), 400
    mean = torch.stack([EDEN(1).compress(vector, rng).payload.dense() for _ in range(count)]).double().mean(dim=0)
    off = float((mean - vector).square().sum() / vector.square().sum())
    assert off == pytest.approx(LIMITS[1] / count, rel=0.1)  # the noise of the mean, and no bias beside it


def test_it_does_not_claim_to_be_exactly_unbiased() -> None:
    assert not EDEN().is_unbiased
    assert EDEN().worst_omega(100) is EDEN().contraction(100) is EDEN().bias_and_variance(100) is None
    with pytest.raises(ValueError, match="takes an unbiased compressor"):
        Scaled(EDEN())
    with pytest.raises(ValueError, match="must be unbiased"):
        Induced(TopK(count=1), EDEN())
    with pytest.raises(ValueError, match="cannot be listed"):
        EDEN().outcomes(torch.ones(3))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", edge_vectors())
def test_edge_vectors_are_sent(bits: int, name: str) -> None:
    vector = edge_vectors()[name]
    check_encoding(EDEN(bits), vector)
    estimate = decode(EDEN(bits).encode(vector, np.random.default_rng(0)), vector.numel())
    assert torch.isfinite(estimate).all()
    if not vector.any():
        assert not estimate.any()


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 9, 64, 500, 5000, 140_000])
def test_no_payload_is_longer_than_it_says(bits: int, size: int) -> None:
    for vector in vectors(max(size, 2)).values():
        compressed = EDEN(bits).compress(vector[:size], np.random.default_rng(1))
        length = len(EDEN(bits).encode(vector[:size], np.random.default_rng(1)))
        assert length <= EDEN(bits).longest(size)
        assert 8 * (length - 48) <= compressed.expected_bits
        assert compressed.unseeded_bits == compressed.expected_bits - 64
    if size == 140_000 and bits == 1:
        assert 8 * length / size == pytest.approx(1 + 32 / 4096, rel=0.005)  # no filling up to a power of two


def test_a_budget_takes_bits_away() -> None:
    assert EDEN(4).shortened(10_000, 6000) == EDEN(4)
    assert EDEN(4).shortened(10_000, 3000) == EDEN(2)
    assert EDEN(4).shortened(10_000, 1400) == EDEN(1)
    with pytest.raises(ValueError, match="1000 bytes does not hold a payload of one bit for each of 10000 coordinates"):
        EDEN(4).shortened(10_000, 1000)


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 3e37])
def test_its_error_is_the_same_at_every_scale(scale: float) -> None:
    vector = vectors(5000)["normal"]
    vector = vector / vector.abs().max()
    near, far = (EDEN(2).compress(v, np.random.default_rng(3)).payload.dense() for v in (vector, vector * scale))
    torch.testing.assert_close(far / scale, near, rtol=1e-5, atol=1e-5)


def test_its_text_its_refusals_and_damaged_payloads() -> None:
    for bits in (1, 4):
        check_text(EDEN(bits))
        check_refusals(EDEN(bits))
        data = EDEN(bits).encode(vectors(150)["normal"], np.random.default_rng(1))
        check_hostile(data, 150, np.random.default_rng(2), 25)
    for bits in (0, 9, 1.5, True):
        with pytest.raises(ValueError, match="a whole number from 1 to 8"):
            EDEN(bits)  # type: ignore[arg-type]


def test_the_overlap_has_a_scale_of_its_own() -> None:
    """All of the vector lies in the end that only the second block reaches."""
    vector = torch.zeros(4096 + 7)
    vector[-3:] = torch.tensor([1.0, -2.0, 0.5])
    block = EDEN().compress(vector, np.random.default_rng(0)).payload.blocks[0]
    assert Rotation(4103, 0).num_parts == 2
    assert block.scales[0] == 0  # type: ignore[attr-defined]
