"""A truncated ladder lies between the biased compressor and MLMC, with the bias and the variance that it says."""

import math

import numpy as np
import pytest
import torch

from fl_mlmc import MLMC, TopK, Truncated, omega, parse
from fl_mlmc.schemes import parse_scheme, resolve_scheme

SIZE = 100_000


def student() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, SIZE)).float()


def test_its_ends_are_the_biased_compressor_and_mlmc() -> None:
    vector, ladder = student()[:900], TopK(count=90)
    [(_, alone)], [(_, biased)] = Truncated(ladder, 1).outcomes(vector), ladder.outcomes(vector)
    assert torch.equal(alone.dense(), biased.dense())
    whole, unbiased = Truncated(ladder, 10).outcomes(vector), MLMC(ladder).outcomes(vector)
    for (chance, payload), (other_chance, other) in zip(whole, unbiased, strict=True):
        assert chance == pytest.approx(other_chance)
        assert torch.equal(payload.dense(), other.dense())
    assert Truncated(ladder, 10).measured(vector) == pytest.approx((0, omega(MLMC(ladder), vector)))
    assert Truncated(ladder, 99) != Truncated(ladder, 10)
    assert Truncated(ladder, 99).bias_and_variance(900) == Truncated(ladder, 10).bias_and_variance(900) == (0, 9)


def test_a_fifth_of_a_heavy_tailed_vectors_groups() -> None:
    bias, variance = Truncated(TopK(fraction=0.01), 20).measured(student())
    assert bias**0.5 == pytest.approx(0.41, abs=0.01)  # η; the notes have it as η²
    assert variance == pytest.approx(11, rel=0.06)


@pytest.mark.parametrize("text", ["TopK(count=2)", "FixedPoint(bits=4, unit=1.0)", "FloatingPoint(bits=2)"])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_measured_is_what_its_outcomes_have(text: str, levels: int) -> None:
    vector = student()[:9]
    compressor = Truncated(parse(text), levels)  # type: ignore[arg-type]
    outcomes = [(chance, payload.dense().double()) for chance, payload in compressor.outcomes(vector)]
    mean = sum(chance * decoded for chance, decoded in outcomes)
    norm = float(vector.double().square().sum())
    bias = float((mean - vector).square().sum()) / norm  # type: ignore[operator]
    variance = sum(chance * float((decoded - mean).square().sum()) for chance, decoded in outcomes) / norm
    assert compressor.measured(vector) == pytest.approx((bias, variance), abs=1e-6)
    assert compressor.measured(torch.zeros(9)) == (0, 0)


def test_its_constants_are_attained_by_equal_magnitudes() -> None:
    compressor = Truncated(TopK(count=4), 3)
    assert compressor.bias_and_variance(40) == pytest.approx((math.sqrt(28 / 40), 2))
    bias, variance = compressor.measured(torch.ones(40))
    assert bias == pytest.approx(28 / 40)
    assert variance == pytest.approx(2 * 12 / 40)  # of ‖v‖², of which the three groups hold 12 / 40
    assert compressor.contraction(40) is None
    assert Truncated(TopK(count=4), 1).contraction(40) == pytest.approx(TopK(count=4).contraction(40))
    assert parse("Truncated(RTN(bits=4), levels=2)").bias_and_variance(40) is None


def test_ef_bv_makes_its_steps_of_them_and_ef21_refuses_it() -> None:
    text = "Truncated(TopK(count=4), levels=3)"
    compressor = parse(text)
    assert repr(compressor) == text
    scheme = resolve_scheme("ef_bv", compressor, 40, 4)
    bias = math.sqrt(28 / 40)
    assert scheme.memory_step == pytest.approx((1 - bias) / ((1 - bias) ** 2 + 2))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Truncated"):
        parse_scheme("ef21").resolve(compressor, 40, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [("Truncated(QSGD(levels=2))", "takes a ladder"), ("Truncated(TopK(count=1), levels=0)", "at least 1, got 0")],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
