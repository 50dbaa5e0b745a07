"""Numbers of the papers: variances at equal budget, outcomes of bit-wise ladders, message lengths."""

import math

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
    Natural,
    RandK,
    Scaled,
    StochasticRounding,
    Systematic,
    TernGrad,
    TopK,
    omega,
    parse,
)
from fl_mlmc.compression.compressors.base import Compressed
from fl_mlmc.compression.compressors.values import value_bits
from fl_mlmc.compression.wire import encode_payload

OVERHEAD = 48
SIZE = 100_000


def vectors() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    laplaces = rng.laplace(size=(2, SIZE)).prod(axis=0)
    return {
        "normal": torch.from_numpy(rng.standard_normal(SIZE)).float(),
        "student": torch.from_numpy(rng.standard_t(3, SIZE)).float(),
        "laplaces": torch.from_numpy(laplaces).float(),
    }


VECTORS = vectors()


@pytest.mark.parametrize(
    ("name", "fraction", "mlmc", "bernoulli", "tolerance"),
    [
        ("normal", 0.001, 635.6, 635.6, 0.02),
        ("normal", 0.01, 62.7, 62.7, 0.02),
        ("normal", 0.05, 11.8, 11.7, 0.02),
        ("student", 0.001, 410.7, 408.8, 0.1),
        ("student", 0.01, 41.0, 40.0, 0.1),
        ("student", 0.05, 7.9, 7.2, 0.1),
        ("laplaces", 0.01, 24.3, 24.0, 0.1),
    ],
)
def test_variance_at_equal_budget(name: str, fraction: float, mlmc: float, bernoulli: float, tolerance: float) -> None:
    vector = VECTORS[name]
    assert MLMC(TopK(fraction=fraction)).omega(vector) == pytest.approx(mlmc, rel=tolerance)
    assert Bernoulli(fraction=fraction).omega(vector) == pytest.approx(bernoulli, rel=tolerance)
    assert RandK(fraction=fraction).omega(vector) == pytest.approx(1 / fraction - 1)


@pytest.mark.parametrize(
    ("compressor", "normal", "laplaces"),
    [
        (TernGrad(), 2.8, 8.5),
        (MLMC(FixedPoint(), "fixed"), 2.8, 8.5),
        (QSGD(), 251, 157),
        (Natural(), 0.08, 0.08),
        (MLMC(FloatingPoint(), "fixed"), 0.08, 0.08),
        (StochasticRounding(bits=4), 0.066, 1.4),
    ],
    ids=repr,
)
def test_variance_of_quantisers(compressor: Compressor, normal: float, laplaces: float) -> None:
    # The two depend on the largest of 10⁵ entries, so only their order of magnitude is sure.
    assert compressor.omega(VECTORS["normal"]) == pytest.approx(normal, rel=0.25)
    assert compressor.omega(VECTORS["laplaces"]) == pytest.approx(laplaces, rel=0.5)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("fraction", [0.01, 0.2])
def test_systematic_sampling_is_never_worse_than_algorithm_3(name: str, fraction: float) -> None:
    vector = VECTORS[name]
    adaptive, systematic = MLMC(TopK(fraction=fraction)), Systematic(fraction=fraction)
    assert systematic.omega(vector) <= adaptive.omega(vector) * (1 + 1e-9)
    assert systematic.omega(vector) == pytest.approx(Bernoulli(fraction=fraction).omega(vector))
    sent = systematic.compress(vector, np.random.default_rng(1))
    assert sent.payload.blocks[0].indices.numel() == round(fraction * SIZE)  # type: ignore[attr-defined]
    assert sent.expected_bits == pytest.approx(adaptive.compress(vector, np.random.default_rng(1)).expected_bits)


@pytest.mark.parametrize("name", VECTORS)
def test_at_equal_bytes_systematic_sampling_has_a_third_of_the_variance(name: str) -> None:
    # Its values are one magnitude but for the largest: a sign each, where MLMC over Top-k sends floats.
    vector, rng = VECTORS[name], np.random.default_rng(4)
    systematic, adaptive = Systematic(fraction=0.03), MLMC(TopK(fraction=0.01))
    assert len(systematic.encode(vector, rng)) < len(adaptive.encode(vector, rng))
    assert systematic.omega(vector) < adaptive.omega(vector) / 2.5


@pytest.mark.parametrize("compressor", [Systematic(count=500), Bernoulli(count=500), Importance(draws=500)], ids=repr)
def test_equal_magnitudes_take_a_bit_each(compressor: Compressor) -> None:
    compressed = compressor.compress(VECTORS["normal"], np.random.default_rng(0))
    [block] = compressed.payload.blocks
    count = block.indices.numel()  # type: ignore[attr-defined]
    places = (math.lgamma(SIZE + 1) - math.lgamma(count + 1) - math.lgamma(SIZE - count + 1)) / math.log(2)
    num_others = count - int(block.values.abs().unique(return_counts=True)[1].max())  # type: ignore[attr-defined]
    assert num_others < 10
    assert 8 * (len(encode_payload(compressed.payload)) - OVERHEAD) <= 1.02 * places + 1.03 * count + 40 * num_others


def test_draws_without_replacement_are_never_worse() -> None:
    for vector in VECTORS.values():
        with_replacement = MLMC(TopK(fraction=0.001), draws=20).omega(vector)
        without = MLMC(TopK(fraction=0.001), draws=20, replacement=False).omega(vector)
        assert without is not None
        assert without <= with_replacement


def test_more_draws_divide_the_variance() -> None:
    vector = VECTORS["student"]
    one = MLMC(TopK(fraction=0.01)).omega(vector)
    assert MLMC(TopK(fraction=0.01), draws=4).omega(vector) == pytest.approx(one / 4)


def test_fixed_point_sends_zero_or_the_largest_magnitude() -> None:
    vector = VECTORS["normal"][:2000]
    rng = np.random.default_rng(3)
    for _ in range(8):
        outcome = MLMC(FixedPoint(), "fixed").compress(vector, rng).payload.dense().abs().unique()
        assert outcome.tolist() == pytest.approx([0.0, float(vector.abs().max())], rel=1e-6)


def test_fixed_point_variance_is_terngrads() -> None:
    vector = VECTORS["student"]
    expected = (
        float(vector.abs().max()) * float(vector.double().abs().sum()) / float(vector.double().square().sum()) - 1
    )
    assert MLMC(FixedPoint(), "fixed").omega(vector) == pytest.approx(expected, rel=1e-5)
    assert TernGrad().omega(vector) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("unit", [0.1, 1.0, 2.0, 5.0])
def test_fixed_point_with_a_unit_has_a_variance_that_no_vector_exceeds(unit: float) -> None:
    compressor = MLMC(FixedPoint(unit=unit), "fixed")
    spiked = torch.cat([VECTORS["normal"], torch.tensor([1000.0])])
    half_units = torch.full((400,), 1 / unit)  # half a unit, had the vector no root mean square of its own
    for vector in (*VECTORS.values(), spiked, half_units, spiked[:1]):
        assert compressor.omega(vector) <= unit**2 / 4 * (1 + 1e-6)


def test_fixed_point_with_a_unit_sends_neighbours_on_a_lattice() -> None:
    vector = VECTORS["student"]
    unit = 2 * float(vector.double().square().mean().sqrt())
    rng = np.random.default_rng(3)
    for _ in range(5):
        sent = MLMC(FixedPoint(unit=2.0), "fixed").compress(vector, rng)
        assert len(sent.payload.blocks) == 1
        units = sent.payload.dense().double() / unit
        torch.testing.assert_close(units, units.round(), atol=1e-5, rtol=1e-5)
        assert float((units - vector.double() / unit).abs().max()) <= 1 + 1e-5
    levels = int(SIZE**0.5 / 2)
    assert MLMC(FixedPoint(unit=SIZE**0.5 / levels), "fixed").omega(vector) == pytest.approx(
        QSGD(levels=levels).omega(vector), rel=1e-4
    )


@pytest.mark.parametrize(("size", "unit"), [(9, 1.0), (9, 1.5), (9, 3.0), (4, 0.25)])
def test_fixed_point_with_a_unit_has_qsgds_law_in_each_coordinate(size: int, unit: float) -> None:
    # One draw for all coordinates here, one for each there; what a coordinate becomes, and how likely, is the same.
    vector = torch.randn(size, generator=torch.Generator().manual_seed(size))
    ours, theirs = MLMC(FixedPoint(unit=unit), "fixed"), QSGD(levels=round(size**0.5 / unit))
    spacing = float(vector.norm()) / theirs.levels
    laws = [marginals(compressor, vector, spacing) for compressor in (ours, theirs)]
    for mine, its in zip(*laws, strict=True):
        assert len(its) in (1, 2)  # neighbours on the lattice of units
        for multiple in mine.keys() | its.keys():
            # The end of the ladder is drawn once in 2^24 times.
            assert mine.get(multiple, 0.0) == pytest.approx(its.get(multiple, 0.0), abs=3 * 2.0**-24)
    assert ours.omega(vector) == pytest.approx(theirs.omega(vector), rel=1e-5)


def marginals(compressor: Compressor, vector: Tensor, spacing: float) -> list[dict[int, float]]:
    """The chance of each multiple of `spacing`, for each coordinate of the vector."""
    laws: list[dict[int, float]] = [{} for _ in vector]
    for chance, payload in compressor.outcomes(vector):
        for law, multiple in zip(laws, (payload.dense() / spacing).round().int().tolist(), strict=True):
            law[multiple] = law.get(multiple, 0.0) + chance
    return laws


def test_at_equal_bytes_a_unit_beats_top_k() -> None:
    vector, rng = VECTORS["student"], np.random.default_rng(0)
    digits, sparse = MLMC(FixedPoint(unit=2.0), "fixed"), MLMC(TopK(fraction=0.04))
    assert np.mean([len(digits.encode(vector, rng)) for _ in range(20)]) < len(sparse.encode(vector, rng))
    assert digits.omega(vector) < sparse.omega(vector) / 12


def test_floating_point_sends_neighbouring_powers_of_two() -> None:
    vector = VECTORS["normal"][:2000]
    low = torch.exp2(torch.floor(torch.log2(vector.abs())))
    sent = MLMC(FloatingPoint(), "fixed").compress(vector, np.random.default_rng(1)).payload.dense()
    assert torch.equal(sent.sign(), vector.sign())
    assert bool(((sent.abs() == low) | (sent.abs() == 2 * low)).all())


@pytest.mark.parametrize("compressor", [MLMC(FloatingPoint(), "fixed"), Natural()], ids=repr)
def test_powers_of_two_have_omega_of_one_eighth_at_most(compressor: Compressor) -> None:
    assert compressor.omega(torch.full((50,), 4 / 3)) == pytest.approx(1 / 8, rel=1e-6)
    assert all(compressor.omega(vector[:3000]) <= 1 / 8 for vector in VECTORS.values())


def test_log_ladder_and_cost_aware_chances_trade_variance_for_bits() -> None:
    vector = VECTORS["student"]
    cost, adaptive = (MLMC(TopK(count=100, growth=2), name) for name in ("cost", "adaptive"))
    rng = np.random.default_rng(0)
    products = [c.compress(vector, rng).expected_bits * (1 + c.omega(vector)) for c in (cost, adaptive)]
    assert products[0] < products[1]


def test_induced_and_scaled_follow_their_parts() -> None:
    vector = VECTORS["student"]
    induced = Induced(TopK(fraction=0.01), RandK(fraction=0.01))
    left = vector - TopK(fraction=0.01).compress(vector, np.random.default_rng(0)).payload.dense()
    expected = 99 * float(left.double().square().sum() / vector.double().square().sum())
    assert induced.omega(vector) == pytest.approx(expected)
    sent = Scaled(RandK(fraction=0.5), 1.0).compress(vector, np.random.default_rng(1)).payload.dense()
    assert torch.equal(sent[sent != 0], vector[sent != 0])


FORMULAS: list[tuple[Compressor, float]] = [
    (MLMC(TopK(fraction=0.01)), SIZE * 0.01 * (32 + 17)),
    (TopK(fraction=0.05), SIZE * 0.05 * (32 + 17)),
    (MLMC(FixedPoint(), "fixed"), 2 * SIZE + 32 + 5),
    (MLMC(FloatingPoint(), "fixed"), 10 * SIZE + 5),
    (RandK(fraction=0.01), SIZE * 0.01 * 32 + 64),
    (QSGD(), 32 + 2 * SIZE),
    (QSGD(levels=7), 32 + 4 * SIZE),
    (TernGrad(), 32 + math.log2(3) * SIZE),
    (Natural(), 9 * SIZE),
    (StochasticRounding(bits=4), 32 + 4 * SIZE),
    (Importance(), 32 + 1 + 17),
    (Importance(draws=100), 100 * (32 + 1 + 17)),
    (Systematic(fraction=0.01), SIZE * 0.01 * (32 + 17)),
    (RTN(bits=4), 32 + 4 * SIZE),
    (ECUQ(bits=3), 64 + 3 * SIZE),
    (FixedPoint(bits=4), 32 + 5 * SIZE),
    (FloatingPoint(bits=4), 13 * SIZE),
    (Systematic(fraction=0.01, values="bfloat16"), SIZE * 0.01 * (16 + 17)),
    (Dither(unit=1.0), 96 + 1.03 * SIZE * 2.10478),
    (Dither(unit=4.0), 96 + 1.03 * SIZE * 0.65828),
    (MLMC(TopK(fraction=0.01), values=Dither(unit=1.0)), 96 + SIZE * 0.01 * (1.03 * 2.10478 + 17)),
]


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize(("compressor", "bits"), FORMULAS, ids=lambda part: repr(part))
def test_payloads_are_no_longer_than_the_papers_formula(compressor: Compressor, bits: float, name: str) -> None:
    rng = np.random.default_rng(2)
    for vector in (VECTORS[name], VECTORS[name][:SIZE]):
        compressed = compressor.compress(vector, rng)
        assert compressed.expected_bits == pytest.approx(bits, rel=1e-3)
        assert 8 * (len(compressor.encode(vector, rng)) - OVERHEAD) <= bits


EVERY = [
    *(compressor for compressor, _ in FORMULAS),
    Identity(),
    TopK(fraction=0.6),
    MLMC(TopK(fraction=0.01), draws=4),
    MLMC(TopK(count=2, growth=2), "cost"),
    MLMC(TopK(fraction=0.1), values="bfloat16"),
    MLMC(TopK(count=1), draws=3, replacement=False),
    FixedPoint(bits=10),
    FixedPoint(bits=20),
    MLMC(FixedPoint()),
    QSGD(levels=127),
    QSGD(levels=1000),
    StochasticRounding(bits=2),
    StochasticRounding(bits=12),
    FloatingPoint(bits=1),
    FloatingPoint(bits=11),
    FloatingPoint(bits=18),
    FloatingPoint(bits=23),
    MLMC(FloatingPoint()),
    RTN(bits=1),
    RTN(bits=12),
    RTN(bits=3, kind="mid-rise"),
    MLMC(RTN(bits=4)),
    ECUQ(bits=1),
    ECUQ(bits=8),
    MLMC(ECUQ(bits=3)),
    MLMC(FixedPoint(), "fixed", draws=3),
    MLMC(FixedPoint(), draws=2, replacement=False),
    FixedPoint(unit=2.0),
    MLMC(FixedPoint(unit=2.0)),
    MLMC(FixedPoint(unit=2.0), "fixed"),
    MLMC(RTN(bits=4), draws=2),
    MLMC(ECUQ(bits=8), "cost"),
    MLMC(ECUQ(bits=3), draws=2, replacement=False),
    MLMC(TopK(count=1), draws=50),
    MLMC(Identity()),
    Dither(unit=0.2),
    Dither(unit=2.0),
    Dither(unit=8.0),
    Systematic(count=50, values="bfloat16"),
    Systematic(count=50, values=Dither(unit=1.0)),
    TopK(fraction=0.05, values=Dither(unit=0.5)),
    RandK(fraction=0.2, values=Dither(unit=2.0)),
    RandK(fraction=0.3, values=Natural()),
    Bernoulli(fraction=0.4, values="bfloat16"),
    RandK(fraction=0.8),
    RandK(fraction=0.2, values="bfloat16"),
    Bernoulli(fraction=0.1),
    Induced(TopK(fraction=0.1), RandK(fraction=0.1)),
    Scaled(RandK(fraction=0.1), 9.0),
]


@st.composite
def any_vectors(draw: st.DrawFn) -> Tensor:
    """Vectors of 1 to 20,000 coordinates that are smooth, heavy-tailed, uniform, wide, sparse, tied or two-valued."""
    size = int(10 ** draw(st.floats(0, 4.3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    normal = rng.standard_normal(size)
    values = draw(
        st.sampled_from(
            [
                normal,
                rng.standard_t(2, size),
                rng.uniform(-1, 1, size),
                10.0 ** rng.uniform(-37, 30, size) * np.sign(normal),
                normal * (rng.random(size) < 0.05),
                np.round(normal),
                np.sign(normal),
                normal * draw(st.sampled_from([1e-30, 1e20])),
            ]
        )
    )
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("compressor", EVERY, ids=repr)
@settings(max_examples=12, deadline=None)
@given(vector=any_vectors(), seed=st.integers(0, 100))
def test_no_payload_of_any_length_is_longer_than_its_formula(compressor: Compressor, vector: Tensor, seed: int) -> None:
    # What a dither's noise makes of few coordinates varies; its formula is of the mean.
    draws = 16 if isinstance(compressor, Dither) else 1
    drawn = [compressor.compress(vector, np.random.default_rng(seed + draw)) for draw in range(draws)]
    try:
        length = sum(len(encode_payload(each.payload)) for each in drawn) / draws
    except ValueError as error:  # rescaled, the widest vectors leave float32's range
        assert "scale the vector down" in str(error)  # noqa: PT017
        return
    assert 8 * (length - OVERHEAD) <= _formula(compressor, vector, drawn[0]) + 1e-6


def _formula(compressor: Compressor, vector: Tensor, compressed: Compressed) -> float:
    """Bits of this very outcome where `expected_bits` is a mean over outcomes."""
    if isinstance(compressor, MLMC):
        rungs = compressor.ladder.climb(vector)
        return rungs.base_bits + sum(rungs.costs()[level - 1] for level in compressed.levels)
    if isinstance(compressor, Bernoulli):
        kept = compressed.payload.blocks[0].indices.numel()  # type: ignore[attr-defined]
        return kept * (value_bits(compressor.values) + math.ceil(math.log2(max(vector.numel(), 2))))
    return compressed.expected_bits


def test_several_draws_are_counted_as_several_messages_over_one_base() -> None:
    vector, rng = VECTORS["normal"], np.random.default_rng(1)
    for ladder, base in ((TopK(fraction=0.01), 0), (FixedPoint(), 0), (FloatingPoint(), 9 * SIZE)):
        one, four = (MLMC(ladder, "fixed", draws=n).compress(vector, rng).expected_bits for n in (1, 4))
        assert four - base == pytest.approx(4 * (one - base))


def test_independent_coins_of_a_long_vector_fall_all_over_it() -> None:
    vector = torch.from_numpy(np.random.default_rng(5).standard_t(3, 300_000)).float()
    block = Bernoulli(count=3000).compress(vector, np.random.default_rng(0)).payload.blocks[0]
    places = np.histogram(block.indices.numpy(), bins=3, range=(0, 300_000))[0]  # type: ignore[attr-defined]
    assert (abs(places - 1000) < 200).all()
    assert torch.equal(block.values.sign(), vector[block.indices].sign())  # type: ignore[attr-defined]


def test_one_coordinate_a_level_travels_as_importance_sampling_does() -> None:
    vector, rng = VECTORS["student"][:20_000], np.random.default_rng(0)
    draws = MLMC(TopK(count=1), draws=200)
    assert draws.omega(vector) == pytest.approx(Importance(draws=200).omega(vector), rel=1e-6)
    assert len(draws.encode(vector, rng)) < 1.1 * len(Importance(draws=200).encode(vector, rng))


def test_omega_refuses_what_encode_refuses() -> None:
    for bad, word in (
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.ones(2, 2), "1-D"),
        (torch.ones(0), "empty"),
    ):
        with pytest.raises(ValueError, match=word):
            omega(MLMC(TopK(count=1)), bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TopK(fraction='a')", "fraction is a number in"),
        ("TopK(count=3, growth='2')", "growth is a number"),
        ("Scaled(Natural(), 'a')", "omega_bound is a number"),
        ("QSGD(-1)", "from 1 to 16383, got -1"),
        ("MLMC(QSGD())", "wraps a ladder such as"),
        ("MLMC(MLMC(TopK(count=1)))", "wraps a ladder such as"),
        ("MLMC(Topk(count=1))", "did you mean 'TopK'"),
    ],
)
def test_mistakes_in_a_spec_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_systematic_sampling_of_a_long_vector_keeps_exactly_its_share() -> None:
    vector = torch.from_numpy(np.random.default_rng(5).standard_t(3, 300_000)).float()
    for seed in range(3):
        block = Systematic(count=2500).compress(vector, np.random.default_rng(seed)).payload.blocks[0]
        assert block.indices.numel() == 2500  # type: ignore[attr-defined]
        assert int((block.indices > 200_000).sum()) > 500  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["normal", "laplaces", "ties"])
@pytest.mark.parametrize("bits", [7, 24])
def test_fixed_points_mean_length_with_its_dense_last_level_keeps_to_the_papers_formula(bits: int, name: str) -> None:
    vector = VECTORS[name][:20_000] if name in VECTORS else (torch.arange(20_000) % 5 - 2).float()
    compressor = MLMC(FixedPoint(bits=bits), "fixed")
    mean = sum(chance * 8 * len(encode_payload(payload)) for chance, payload in compressor.outcomes(vector))
    assert mean - 8 * OVERHEAD <= 2 * vector.numel() + 32 + math.ceil(math.log2(bits))
