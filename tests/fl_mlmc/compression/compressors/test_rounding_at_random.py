"""What values in bfloat16 add to the variance is small: it is counted by itself here."""

import numpy as np
import pytest
import torch

from fl_mlmc import MLMC, Bernoulli, Compressor, RandK, Scaled, Systematic, TopK, omega
from fl_mlmc.compression.compressors.bfloat16 import BFloat16

VECTOR = torch.tensor([0.3, -1.2345, 0.57, 2.0, -0.111, 7e-3])


@pytest.mark.parametrize(
    "compressor",
    [
        MLMC(TopK(fraction=1.0), values="bfloat16"),
        MLMC(TopK(fraction=1.0), draws=2, values="bfloat16"),
        RandK(fraction=1.0, values="bfloat16"),
        Bernoulli(fraction=1.0, values="bfloat16"),
        Systematic(fraction=1.0, values="bfloat16"),
    ],
    ids=repr,
)
def test_where_everything_is_sent_the_variance_is_that_of_rounding(compressor: Compressor) -> None:
    error = sum(
        chance * float((payload.dense().double() - VECTOR.double()).square().sum())
        for chance, payload in compressor.outcomes(VECTOR)
    )
    assert error > 0
    assert omega(compressor, VECTOR) == pytest.approx(error / float(VECTOR.double().square().sum()), rel=1e-4, abs=0)


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_rounding_adds_what_it_adds_to_each_level(draws: int) -> None:
    vector = VECTOR[:3]
    exact, coarse = (MLMC(TopK(count=1), "fixed", draws=draws, values=v) for v in ("float32", "bfloat16"))  # type: ignore[arg-type]
    errors = [
        sum(
            chance * float((payload.dense().double() - vector.double()).square().sum())
            for chance, payload in compressor.outcomes(vector)
        )
        for compressor in (exact, coarse)
    ]
    added = omega(coarse, vector) - omega(exact, vector)  # type: ignore[operator]
    assert added == pytest.approx((errors[1] - errors[0]) / float(vector.double().square().sum()), rel=0.02)


def test_rounding_goes_up_as_often_as_the_rest_says() -> None:
    low, high = torch.tensor([1.0, 1.0 + 2**-7])
    for share in (0.1, 0.5, 0.83):
        values = (low + share * (high - low)).repeat(20_000)
        sent = BFloat16().compress(values, np.random.default_rng(1)).payload.dense()
        assert set(sent.tolist()) == {float(low), float(high)}
        assert float((sent == high).float().mean()) == pytest.approx(share, abs=5 * (0.25 / 20_000) ** 0.5)


@pytest.mark.parametrize("bound", [None, 1.5, 4.0])
def test_scaled_is_its_inner_compressor_over_one_and_omega(bound: float | None) -> None:
    inner = RandK(count=3)
    measured = omega(inner, VECTOR)
    scaled = Scaled(inner, bound)
    assumed = measured if bound is None else bound
    assert assumed is not None
    pairs = zip(scaled.outcomes(VECTOR), inner.outcomes(VECTOR), strict=True)
    mean, error = torch.zeros(6, dtype=torch.float64), 0.0
    for (chance, sent), (same, whole) in pairs:
        assert chance == same
        torch.testing.assert_close(sent.dense() * (1 + assumed), whole.dense())
        mean += chance * sent.dense().double()
        error += chance * float((sent.dense().double() - VECTOR.double()).square().sum())
    torch.testing.assert_close(mean * (1 + assumed), VECTOR.double(), rtol=1e-6, atol=1e-6)
    # α = 1 / (1 + ω), as long as ω does not exceed what is assumed; best where it is met.
    ratio = error / float(VECTOR.double().square().sum())
    assert measured is not None
    if measured <= assumed:
        assert ratio <= 1 - 1 / (1 + assumed) + 1e-6
    if bound is None:
        assert ratio == pytest.approx(measured / (1 + measured), rel=1e-5)


@pytest.mark.parametrize("low", [0, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
def test_a_coin_that_lands_on_its_edge_is_decided_by_its_lower_half(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vector, kept = torch.tensor([1.0, 2.0, 3.0, 4.0]), 1
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    halves = iter([(chances * 2**32).long(), *[torch.tensor([low])] * 4])

    def noise(seed: int, start: int, stop: int, *more: object) -> torch.Tensor:
        return next(halves).to(torch.int32)

    monkeypatch.setattr("fl_mlmc.compression.compressors.bernoulli.noise", noise)
    [block] = Bernoulli(count=kept).compress(vector, np.random.default_rng(0)).payload.blocks
    expected = torch.nonzero(low / 2**32 < (chances * 2**32) % 1.0).squeeze(1)
    assert block.indices.tolist() == expected.tolist()  # type: ignore[attr-defined]
