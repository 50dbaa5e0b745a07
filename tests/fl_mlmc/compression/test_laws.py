"""Every compressor keeps the laws of `fl_mlmc.testing`: adding one is adding a row."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_mlmc import (
    ECUQ,
    MLMC,
    QSGD,
    RTN,
    Bernoulli,
    Compressor,
    Dither,
    FixedPoint,
    FloatingPoint,
    Identity,
    Importance,
    Induced,
    Ladder,
    Natural,
    RandK,
    Scaled,
    StochasticRounding,
    Systematic,
    TernGrad,
    TopK,
    Truncated,
    parse,
)
from fl_mlmc.testing import (
    check_compressor,
    check_draws,
    check_encoding,
    check_hostile,
    check_ladder,
    check_omega,
    check_unbiased,
    edge_vectors,
)

LADDERS: list[Ladder] = [
    Identity(),
    TopK(fraction=0.3),
    TopK(count=1),
    TopK(count=2),
    TopK(fraction=1.0),
    TopK(count=1, growth=2),
    FixedPoint(),
    FixedPoint(bits=3),
    FixedPoint(unit=2.0),
    FixedPoint(bits=3, unit=0.5),
    FixedPoint(unit=1e-6),
    FloatingPoint(),
    FloatingPoint(bits=2),
    FloatingPoint(bits=0),
    RTN(bits=4),
    RTN(bits=3, kind="mid-rise"),
    RTN(bits=3, clip=0.5),
    ECUQ(bits=3),
]

COMPRESSORS: list[Compressor] = [
    *LADDERS,
    *(MLMC(ladder) for ladder in LADDERS),
    MLMC(TopK(count=2), "fixed"),
    MLMC(TopK(count=3), draws=2),
    *(MLMC(ladder, "fixed") for ladder in LADDERS[6:]),
    MLMC(FixedPoint(bits=3), draws=2),
    MLMC(FixedPoint(bits=2), "fixed", draws=3),
    MLMC(FixedPoint(bits=3, unit=0.5), draws=2),
    MLMC(FloatingPoint(), draws=2, replacement=False),
    MLMC(FloatingPoint(), "fixed", draws=3, replacement=False),
    MLMC(ECUQ(bits=2), draws=2),
    MLMC(RTN(bits=2), draws=2),
    MLMC(TopK(count=1), draws=3, replacement=False),
    MLMC(RTN(bits=2), draws=2, replacement=False),
    MLMC(TopK(count=1, growth=2), "cost"),
    MLMC(RTN(bits=3), "cost"),
    MLMC(TopK(count=2), values="bfloat16"),
    MLMC(TopK(count=2), draws=2, values="bfloat16"),
    RandK(fraction=0.4, values="bfloat16"),
    Bernoulli(count=2, values="bfloat16"),
    Systematic(count=2, values="bfloat16"),
    TopK(count=3, values="bfloat16"),
    Dither(unit=0.3),
    Dither(unit=2.0),
    Dither(unit=8.0),
    TopK(count=3, values=Dither(unit=1.0)),
    MLMC(TopK(count=2), values=Dither(unit=1.0)),
    MLMC(TopK(count=1), draws=2, values=Dither(unit=2.0)),
    MLMC(RTN(bits=2), values=Dither(unit=1.0)),
    MLMC(TopK(count=2), values=TernGrad()),
    MLMC(TopK(count=2), bucket=3),
    MLMC(TopK(count=1), "fixed", bucket=2),
    MLMC(TopK(count=2), values=Dither(unit=1.0), bucket=4),
    MLMC(FixedPoint(bits=2), bucket=4),
    MLMC(FixedPoint(bits=2, unit=2.0), bucket=5),
    MLMC(FixedPoint(bits=2, unit=0.5), "fixed", bucket=5),
    RandK(fraction=0.4, values=Dither(unit=2.8)),
    RandK(count=2, values=Natural()),
    RandK(count=2, values=MLMC(FixedPoint(unit=2.0), "fixed")),
    Bernoulli(count=2, values=Dither(unit=1.0)),
    Systematic(count=2, values=Dither(unit=1.0)),
    Systematic(count=2, values=Natural()),
    Induced(TopK(count=2, values=Dither(unit=1.0)), Dither(unit=2.0)),
    Scaled(Dither(unit=2.0)),
    RandK(fraction=0.4),
    RandK(count=5),
    QSGD(),
    QSGD(levels=4),
    QSGD(levels=200),
    QSGD(levels=300),
    Natural(),
    TernGrad(),
    StochasticRounding(bits=4),
    Importance(),
    Importance(draws=2),
    Importance(draws=2, values=Dither(unit=1.0)),
    Importance(draws=2, values="bfloat16"),
    Bernoulli(fraction=0.3),
    Systematic(fraction=0.3),
    Systematic(count=3),
    Induced(TopK(count=2), RandK(count=1)),
    Induced(RTN(bits=2), MLMC(TopK(count=1))),
    *(parse(f"{name}(omega=1.5)") for name in ("RandK", "Systematic", "Bernoulli")),
    parse("MLMC(TopK(omega=1.5))"),
    parse("MLMC(TopK(omega=0.3), values='bfloat16')"),
    parse("TopK(omega=1.5)"),
    Truncated(TopK(omega=2.0), 2),
    *(Truncated(TopK(count=2), levels) for levels in (1, 2, 9)),
    Truncated(FixedPoint(bits=3, unit=1.0), 2),
    Truncated(RTN(bits=3), 2),
    Scaled(RandK(fraction=0.5)),
    Scaled(Natural(), 0.125),
    Scaled(MLMC(TopK(count=1))),
]


def kind(compressor: Compressor) -> str:
    """What its text says, but for the numbers of rungs, coordinates and units."""
    return re.sub(r"(bits|levels|count|fraction|growth|unit|clip|kind)=[^,)]*(, )?", "", repr(compressor))


ONE_OF_A_KIND = list({kind(compressor): compressor for compressor in reversed(COMPRESSORS)}.values())
VECTOR_NAMES = list(edge_vectors())


def meet(compressor: Compressor, name: str) -> bool:
    """Each compressor with a quarter of the vectors, and those of a kind, which stand together, with other ones."""
    return (COMPRESSORS.index(compressor) + VECTOR_NAMES.index(name)) % 4 == 0


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
VECTORS = st.lists(FLOATS, min_size=1, max_size=7).map(torch.tensor)


@pytest.mark.parametrize("name", VECTOR_NAMES)
@pytest.mark.parametrize("ladder", LADDERS, ids=repr)
def test_a_ladder_keeps_its_laws_on_edge_vectors(ladder: Ladder, name: str) -> None:
    check_ladder(ladder, edge_vectors()[name])


@pytest.mark.sweep(quick=meet)
@pytest.mark.parametrize("name", VECTOR_NAMES)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_a_compressor_keeps_its_laws_on_edge_vectors(compressor: Compressor, name: str) -> None:
    check_compressor(compressor, edge_vectors()[name])


@pytest.mark.parametrize("ladder", LADDERS, ids=repr)
@settings(max_examples=10, deadline=None)
@given(vector=VECTORS)
def test_a_ladder_sums_to_any_vector(ladder: Ladder, vector: Tensor) -> None:
    check_ladder(ladder, vector)


@pytest.mark.sweep(quick=lambda compressor: compressor in ONE_OF_A_KIND)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@settings(max_examples=6, deadline=None)
@given(vector=VECTORS)
def test_a_compressor_has_the_mean_and_variance_that_it_says(compressor: Compressor, vector: Tensor) -> None:
    check_encoding(compressor, vector)
    if compressor.is_unbiased:
        check_unbiased(compressor, vector)
        check_omega(compressor, vector)


@pytest.mark.sweep(quick=lambda compressor: compressor in ONE_OF_A_KIND)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_draws_are_the_listed_outcomes_as_often_as_listed(compressor: Compressor) -> None:
    check_draws(compressor, torch.tensor([0.3, -1.2, 0.5, 2.0, -0.1]))


@pytest.mark.sweep(quick=lambda compressor: compressor in ONE_OF_A_KIND)
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
def test_damaged_payloads_are_refused(compressor: Compressor) -> None:
    vector = torch.randn(60, generator=torch.Generator().manual_seed(3))
    check_hostile(compressor.encode(vector, np.random.default_rng(1)), 60, np.random.default_rng(2), 25)
