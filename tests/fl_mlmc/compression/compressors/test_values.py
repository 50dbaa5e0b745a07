"""`values` always does what it says: as text or as a compressor, of few coordinates and of many, within known bytes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_mlmc import Dither, Importance, RandK, Systematic, decode, parse
from fl_mlmc.compression.blocks import Payload, PlacedBlock, values_seed
from fl_mlmc.compression.dithered import DitherBlock, dither
from fl_mlmc.compression.noise import noise
from fl_mlmc.compression.wire import decode_payload, encode_payload
from fl_mlmc.testing import check_hostile

SIZE = 10_000
VECTOR = torch.randn(SIZE, generator=torch.Generator().manual_seed(5))

OUTER = [
    "TopK(count=4{})",
    "MLMC(TopK(count=4){})",
    "RandK(count=4{})",
    "Systematic(count=4{})",
    "Bernoulli(count=4{})",
    "Importance(draws=4{})",
]


def encoded(text: str, seed: int = 0) -> bytes:
    return parse(text).encode(VECTOR, np.random.default_rng(seed))


@pytest.mark.parametrize("outer", OUTER)
def test_a_text_means_the_compressor_that_it_names(outer: str) -> None:
    for values in ("Dither(unit=1.0)", "Natural"):
        quoted, plain = parse(outer.format(f', values="{values}"')), parse(outer.format(f", values={values}"))
        assert quoted == plain
        assert repr(quoted) == repr(plain)
        assert quoted.values == parse(values)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"values is 'float32', .* got 'float16': unknown compressor 'float16'"):
        parse(outer.format(", values='float16'"))
    with pytest.raises(ValueError, match="is biased"):
        parse(outer.format(", values='FixedPoint(bits=4)'"))


@pytest.mark.parametrize("outer", ["TopK(fraction={}{})", "MLMC(TopK(fraction={}){})", "Systematic(fraction={}{})",
                                   "Bernoulli(fraction={}{})", "RandK(fraction={}{})"])  # fmt: skip
def test_any_share_of_the_coordinates_has_the_values_asked_for(outer: str) -> None:
    for share in (0.05, 0.2, 0.5, 0.9):
        plain, short = (encoded(outer.format(share, values)) for values in ("", ", values=Dither(unit=1.0)"))
        kept = share * SIZE
        # 2.2 bits a value, a bit a coordinate to say which, and the headers of contexts
        assert 8 * len(short) < 2.4 * kept + SIZE + 1500, share
        if "Systematic" not in outer and "Bernoulli" not in outer:  # of whose floats most are one magnitude
            assert len(short) < 0.45 * len(plain), share
        natural = encoded(outer.format(share, ", values=Natural()"))
        assert 8 * len(natural) < 5 * kept + SIZE + 1500, share


def test_places_are_marked_where_indices_would_take_more_memory() -> None:
    few, many = (
        decode_payload(encoded(f"TopK(fraction={share}, values=Dither(unit=1.0))"), SIZE).blocks[0]
        for share in (0.12, 0.13)
    )
    assert isinstance(few, PlacedBlock)
    assert isinstance(many, PlacedBlock)
    assert few.places.dtype == torch.int64  # type: ignore[union-attr]
    assert many.places.dtype == torch.bool  # type: ignore[union-attr]
    assert many.held_bytes == SIZE + 1300  # indices would be 8 bytes each
    data = encoded("Systematic(count=20, values=Dither(unit=1.0))")
    assert len(decode_payload(data, SIZE).blocks[0].places) == 20  # type: ignore[attr-defined]
    small = torch.randn(60, generator=torch.Generator().manual_seed(3))
    marked = PlacedBlock(
        60, small > 0, Payload(int((small > 0).sum()), (DitherBlock(3, 1.0, small[small > 0].byte()),))
    )
    check_hostile(encode_payload(Payload(60, (marked,))), 60, np.random.default_rng(1), 25)


def test_one_seed_serves_places_and_values() -> None:
    compressor = RandK(fraction=0.1, values=Dither(unit=2.8))
    sent = compressor.compress(VECTOR, np.random.default_rng(0))
    [block] = sent.payload.blocks
    [values] = block.values.blocks  # type: ignore[attr-defined]
    assert values.seed == values_seed(block.places)  # type: ignore[attr-defined]
    assert block.seed_bits == 64
    data = encode_payload(sent.payload)
    assert sent.unseeded_bits == pytest.approx(sent.expected_bits - 64)
    other = PlacedBlock(SIZE, block.places, Payload(1000, (DitherBlock(7, values.step, values.numbers),)))  # type: ignore[attr-defined]
    assert len(encode_payload(Payload(SIZE, (other,)))) >= len(data) + 8 - 40  # other noise, other contexts
    assert other.seed_bits == 128
    head = data[14 + 5 : 14 + 5 + 6 + 8 + 1]
    assert head[-1] == 14  # the kind of a block that has no seed of its own
    assert encode_payload(decode_payload(data, SIZE)) == data
    small = RandK(count=30, values=Dither(unit=2.8)).encode(VECTOR[:60], np.random.default_rng(0))
    check_hostile(small, 60, np.random.default_rng(1), 25)


def test_another_seed_is_another_noise() -> None:
    """Places and values both follow from one seed, and neither tells of the other: errors are as of two."""
    compressor, error = RandK(fraction=0.5, values=Dither(unit=2.0)), []
    for seed in range(40):
        data = compressor.encode(VECTOR, np.random.default_rng(seed))
        error.append(float((decode(data, SIZE) - VECTOR).square().sum() / VECTOR.square().sum()))
    assert np.mean(error) == pytest.approx(compressor.omega(VECTOR), rel=0.03)  # type: ignore[arg-type]


def test_importance_has_the_variance_of_both() -> None:
    plain, both = Importance(draws=50), Importance(draws=50, values=Dither(unit=1.0))
    own = plain.omega(VECTOR)
    assert own is not None
    assert both.omega(VECTOR) == pytest.approx((1 + own) * 13 / 12 - 1)
    assert both.worst_omega(100) == pytest.approx((1 + 99 / 50) * 13 / 12 - 1)
    assert Importance(draws=50, values="Natural()").omega(VECTOR) is None
    assert both.shortened(SIZE, 150).draws < 50
    for seed in range(5):
        assert len(both.encode(VECTOR, np.random.default_rng(seed))) <= both.longest(SIZE)


@settings(max_examples=40, deadline=None)
@given(
    unit=st.sampled_from([0.01, 0.3, 1.0, 2.8, 8.0, 100.0]),
    size=st.sampled_from([1, 9, 200, 3000]),
    spikes=st.integers(0, 30),
    luck=st.sampled_from(["none", "bad", "mixed"]),
    seed=st.integers(0, 5),
)
def test_no_vector_and_no_noise_makes_a_dithered_payload_longer_than_it_says(
    unit: float, size: int, spikes: int, luck: str, seed: int
) -> None:
    rng = np.random.default_rng([seed, spikes])
    steps = rng.standard_normal(size)
    steps[rng.integers(size, size=min(spikes, size))] *= 1000.0
    steps *= math.sqrt(size / np.square(steps).sum()) / unit  # a sum of squares of size / unit²
    exact = noise(seed, 0, size)
    xi = dither(exact).numpy().astype(np.float64)
    if luck != "none":  # numbers that the coin makes as large as it can, which no seed may ever do
        away = np.sign(steps) * 0.499999
        xi = away if luck == "bad" else np.where(rng.random(size) < 0.5, away, xi)
    block = DitherBlock(seed, 1.0, torch.from_numpy(np.rint(steps + xi).astype(np.int32)))
    assert len(encode_payload(Payload(size, (block,)))) <= Dither(unit).longest(size)


def test_what_a_dither_says_of_its_length_is_worth_having() -> None:
    for unit, most in ((0.5, 5.3), (1.0, 4.6), (2.8, 3.4), (8.0, 2.2)):
        assert 8 * Dither(unit).longest(10**6) / 10**6 < most
    for vector in (torch.randn(3000) * 1e-44, torch.randn(3000) * 3e-45, torch.ones(3000) * 1e-45):
        for unit in (0.3, 1.0, 2.8):
            assert len(Dither(unit).encode(vector, np.random.default_rng(0))) <= Dither(unit).longest(3000)


def test_a_budget_keeps_several_times_as_many_dithered_values_as_floats() -> None:
    for plain, dithered in (
        (RandK(fraction=0.9), RandK(fraction=0.9, values=Dither(unit=2.8))),
        (Systematic(fraction=0.9), Systematic(fraction=0.9, values=Dither(unit=2.8))),
    ):
        floats, short = (each.shortened(SIZE, 600).fraction for each in (plain, dithered))
        assert short > 3 * floats  # type: ignore[operator]
        shorter = dithered.shortened(SIZE, 600)
        assert max(len(shorter.encode(VECTOR, np.random.default_rng(seed))) for seed in range(5)) <= 600
