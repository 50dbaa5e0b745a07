"""`omega=9` in place of a size: as few coordinates of each vector as keep its ω below that, and no fewer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_mlmc import MLMC, RandK, Systematic, TopK, omega, parse
from fl_mlmc.compression.compressors.sparsity import num_drawn
from fl_mlmc.compression.ladders.top_k import SORT_BELOW

SAMPLERS = ["Systematic", "Bernoulli"]


def vectors(size: int) -> dict[str, Tensor]:
    rng = np.random.default_rng(size)
    found = {
        "normal": rng.normal(size=size),
        "student": rng.standard_t(3, size),
        "even": np.ones(size),
        "falling": 0.9 ** np.arange(size),
        "one": 1e-4 + np.eye(1, size)[0],
        "lower edges": 1.0 + (np.arange(size) % 2) / 128,  # of a histogram's bins
        "upper edges": (1 - 2.0**-20) * (1.0 + (np.arange(size) % 3) / 128),
    }
    return {name: torch.from_numpy(values).float() for name, values in found.items()}


@pytest.mark.parametrize("bound", [0.05, 1.0, 3.7, 9, 99.5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_keeps_the_fewest_coordinates_that_keep_to_the_bound(name: str, bound: float) -> None:
    compressor = parse(f"{name}(omega={bound})")
    for what, vector in vectors(3000).items():
        count = num_drawn(compressor, vector)  # type: ignore[arg-type]
        found = omega(compressor, vector)
        assert found == pytest.approx(omega(parse(f"{name}(count={count})"), vector)), what  # type: ignore[arg-type]
        assert found <= bound * (1 + 1e-9), what  # type: ignore[operator]
        if count > 1:
            assert omega(parse(f"{name}(count={count - 1})"), vector) > bound * (1 - 1e-9), what  # type: ignore[operator]
    assert compressor.worst_omega(3000) == bound


@pytest.mark.parametrize("size", [300, 70_000])
@pytest.mark.parametrize("bound", [1.0, 3.7, 9])
def test_mlmc_takes_the_smallest_groups_that_keep_to_the_bound(size: int, bound: float) -> None:
    compressor = MLMC(TopK(omega=bound))  # type: ignore[call-arg]
    for what, vector in vectors(size).items():
        step = compressor.ladder.climb(vector)._edges[1]  # type: ignore[attr-defined]
        found = omega(compressor, vector)
        assert found <= bound * (1 + 1e-9), what  # type: ignore[operator]
        worse = omega(MLMC(TopK(count=max(int(step * 0.97) - 1, 1))), vector)
        rough = 0.0 if size < SORT_BELOW else 0.01 * (1 + bound)
        assert step == 1 or worse > bound - rough - 1e-6, what  # type: ignore[operator]
        payload = compressor.compress(vector, np.random.default_rng(0)).payload
        assert payload.blocks[0].indices.numel() <= step  # type: ignore[attr-defined]
    assert compressor.worst_omega(size) == bound


def test_a_heavy_tail_needs_fewer_bytes_for_the_same_variance() -> None:
    normal, student = vectors(20_000)["normal"], vectors(20_000)["student"]
    for text in ("MLMC(TopK(omega=9))", "Systematic(omega=9)", "Bernoulli(omega=9)"):
        lengths = [len(parse(text).encode(vector, np.random.default_rng(0))) for vector in (normal, student)]
        assert lengths[1] < 0.85 * lengths[0]
    assert parse("Systematic(omega=9)").longest(20_000) >= lengths[0]  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**60), 2.0**60, width=32), min_size=1, max_size=30),
    bound=st.floats(0.01, 50),
    text=st.sampled_from(["MLMC(TopK(omega={}))", "Systematic(omega={})", "Bernoulli(omega={})", "RandK(omega={})"]),
)
def test_no_vector_has_more_variance_than_the_bound(values: list[float], bound: float, text: str) -> None:
    found = omega(parse(text.format(bound)), torch.tensor(values))
    assert found is not None
    assert found <= bound * (1 + 1e-6)


def test_rand_k_keeps_what_the_bound_asks_for_of_every_vector() -> None:
    compressor = parse("RandK(omega=9)")
    assert compressor == RandK(omega=9)  # type: ignore[call-arg]
    assert compressor.worst_omega(1000) == omega(compressor, torch.ones(1000)) == pytest.approx(9)
    assert parse("RandK(omega=3.7)").worst_omega(1000) == pytest.approx(1000 / 213 - 1)


def test_a_dither_takes_the_unit_that_the_bound_asks_for() -> None:
    dither, vector = parse("Dither(omega=0.75)"), vectors(3000)["student"]
    assert repr(dither) == "Dither(omega=0.75)"
    assert dither.worst_omega(3000) == omega(dither, vector) == pytest.approx(0.75)
    same = parse("Dither(unit=3.0)")
    assert dither.encode(vector, np.random.default_rng(1)) == same.encode(vector, np.random.default_rng(1))
    both = parse("RandK(omega=9, values=Dither(omega=0.5))")
    assert both.worst_omega(1000) == pytest.approx(10 * 1.5 - 1)


def test_quantised_values_come_on_top() -> None:
    plain, rounded = (parse(f"MLMC(TopK(omega=9){end})").worst_omega(1000) for end in ("", ", values='bfloat16'"))
    assert (plain, rounded) == (9, pytest.approx(10 * (1 + 2**-16) - 1))


def test_top_k_alone_is_a_contraction_of_one_over_one_and_omega() -> None:
    for vector in vectors(500).values():
        [(_, payload)] = parse("TopK(omega=4.5)").outcomes(vector)
        left = float((payload.dense() - vector).square().sum() / vector.square().sum())
        assert left <= 1 - 1 / 5.5 + 1e-6
    assert parse("TopK(omega=4.5)").contraction(500) == pytest.approx(1 / 5.5)


def test_its_text_comes_back_and_a_budget_turns_it_into_a_fraction() -> None:
    for text in ("RandK(omega=9)", "Systematic(omega=9.5)", "MLMC(TopK(omega=9))", "Bernoulli(omega=2)"):
        assert repr(parse(text)) == text
        assert parse(repr(parse(text))) == parse(text)
    assert replace(parse("Systematic(omega=9)"), values="bfloat16").omega_bound == 9  # type: ignore[attr-defined, type-var]
    shorter = parse("Systematic(omega=9)").shortened(10_000, 500)
    assert isinstance(shorter, Systematic)
    assert shorter.omega_bound is None
    assert math.isclose(shorter.worst_omega(10_000), 10_000 / round(10_000 * shorter.fraction) - 1)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RandK(omega=0)", "omega is a number above 0"),
        ("RandK(omega=9, count=3)", "one of fraction=…, count=… and omega=…"),
        ("TopK(omega='a')", "omega is a number above 0"),
        ("TopK(omega=9, growth=2)", "groups of one size"),
        ("MLMC(TopK(omega=9), 'fixed')", "made for 'adaptive' probabilities"),
        ("Dither()", "either unit=… or omega=…"),
        ("Dither(unit=1.0, omega=2)", "either unit=… or omega=…"),
        ("Dither(omega=-1)", "omega is a number above 0"),
        ("Systematic(omgea=9)", "did you mean 'omega'"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
