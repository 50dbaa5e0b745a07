"""What a compressor knows of its worst case is true of vectors made to prove it wrong, and attained where it says so.

Errors are exact: `omega` for unbiased compressors, one outcome for ladders, which draw nothing, and inner ω for Scaled.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_mlmc import Scaled, parse
from fl_mlmc.compression.compressors.base import Compressor

UNBIASED = [
    "Bernoulli(count=2)", "Bernoulli(count=3, values='bfloat16')", "Dither(unit=0.5)", "Dither(unit=3.0)",
    "Identity()", "Importance(draws=2)",
    "Induced(TopK(count=2), RandK(count=2))", "Induced(FloatingPoint(bits=1), TernGrad())",
    "MLMC(FixedPoint(), 'fixed')", "MLMC(FixedPoint(bits=2), 'fixed')", "MLMC(FixedPoint(), 'fixed', draws=3)",
    "MLMC(FixedPoint(bits=4), 'fixed', draws=3, replacement=False)", "MLMC(FixedPoint(bits=4))",
    "MLMC(FixedPoint(bits=4), 'cost')", "MLMC(FixedPoint(bits=4), draws=2, replacement=False)",
    "MLMC(FixedPoint(unit=2.0), 'fixed')", "MLMC(FixedPoint(unit=0.5), 'fixed')", "MLMC(FixedPoint(unit=3.0), 'fixed')",
    "MLMC(FixedPoint(unit=2.0), 'fixed', draws=2)", "MLMC(FixedPoint(unit=1.0, bits=3), 'cost')",
    "MLMC(FixedPoint(unit=1e-4), 'fixed')", "MLMC(FixedPoint(unit=1.0, bits=2), values='bfloat16')",
    "MLMC(FloatingPoint(), 'fixed')", "MLMC(FloatingPoint(), 'fixed', draws=2)", "MLMC(FloatingPoint())",
    "MLMC(Identity(), values='bfloat16')",
    "MLMC(TopK(count=3))", "MLMC(TopK(count=2), draws=2)", "MLMC(TopK(count=2), draws=2, replacement=False)",
    "MLMC(TopK(count=1, growth=2), 'fixed')", "MLMC(TopK(count=1, growth=2), 'cost')", "MLMC(TopK(count=3), 'cost')",
    "MLMC(TopK(count=3), bucket=4)", "MLMC(TopK(count=2), 'fixed', bucket=3)", "MLMC(FixedPoint(bits=3), bucket=4)",
    "MLMC(FixedPoint(unit=2.0, bits=4), bucket=4)", "MLMC(FixedPoint(unit=2.0, bits=4), 'fixed', bucket=4)",
    "MLMC(TopK(count=3), values='bfloat16')", "Natural()", "QSGD(levels=1)", "QSGD(levels=2)", "QSGD(levels=5)",
    "RandK(count=3)", "RandK(count=3, values='bfloat16')", "RandK(count=3, values=Dither(unit=2.0))",
    "MLMC(TopK(count=3), values=Dither(unit=2.0))", "Bernoulli(count=3, values=Natural())",
    "StochasticRounding(bits=2)", "StochasticRounding(bits=4)",
    "Systematic(count=2)", "Systematic(count=3, values='bfloat16')", "TernGrad()",
]  # fmt: skip
BIASED = [
    "ECUQ(bits=1)", "ECUQ(bits=2)", "ECUQ(bits=4)", "FixedPoint(bits=1)", "FixedPoint(bits=3)",
    "FixedPoint(unit=1.0, bits=1)", "FixedPoint(unit=2.0, bits=2)", "FixedPoint(unit=1e-4, bits=1)",
    "FloatingPoint(bits=0)", "FloatingPoint(bits=1)", "FloatingPoint(bits=4)", "RTN(bits=2)", "RTN(bits=5)",
    "RTN(bits=2, kind='mid-rise')", "RTN(bits=4, kind='mid-rise')", "Scaled(RandK(count=3))",
    "Scaled(MLMC(TopK(count=2)))", "Scaled(TernGrad())", "Scaled(RandK(count=3), 1.5)", "Scaled(RandK(count=3), 40.0)",
    "Scaled(QSGD(levels=1))", "TopK(count=2)", "TopK(count=2, growth=2)",
]  # fmt: skip


def suspects(size: int) -> Iterator[Tensor]:
    """Vectors that the worst cases are made of: flat, spiky, geometric, one peak over many small ones, random."""
    generator = torch.Generator().manual_seed(size)
    yield torch.ones(size)
    yield torch.full((size,), 4 / 3)
    yield torch.full((size,), 1 - 2**-20)
    for number in {1, size // 2, size} - {0}:
        yield torch.tensor([1.0] * number + [0.0] * (size - number))
        for small in (0.03, 0.3, 1 / (1 + math.sqrt(size)), 1 / 2 - 1e-6, 1 / 4 - 1e-6, 1 / 8 - 1e-6, 1 / 32 - 1e-6):
            yield torch.tensor([1.0] * number + [small] * (size - number))
            yield torch.tensor([(-1.0) ** place for place in range(number)] + [small / 3] * (size - number))
    for rate in (0.5, 0.8, 0.97):
        yield rate ** torch.arange(size)
    for _ in range(3):
        normal = torch.randn(size, generator=generator)
        yield from (normal, normal**3, normal.sign() * 1e-3, normal * (torch.rand(size, generator=generator) < 0.3))
    yield 1 / 8192 * (torch.randint(5, (size,), generator=generator) + 0.5) + torch.eye(size)[0]


def worst_found(error: Callable[[Tensor], float], size: int, steps: int = 30) -> float:
    """The largest error / ‖v‖² of the suspects, and of what climbing from the worst of them finds."""
    ranked = sorted((v.float() for v in suspects(size) if v.any()), key=error, reverse=True)
    rng = np.random.default_rng(size)
    best = error(ranked[0])
    for start in ranked[:3]:
        at, height = start, error(start)
        for step in range(steps):
            changed = at.clone()
            some = torch.from_numpy(rng.random(size) < rng.choice([0.1, 0.5, 1.0]))
            match step % 3:
                case 0:
                    changed[some] *= torch.from_numpy(np.exp(rng.normal(0, 0.1, size))).float()[some]
                case 1:  # to one magnitude
                    changed[some] = changed[int(rng.integers(size))]
                case _:
                    changed[some] *= float(np.exp(rng.normal(0, 0.3)))
            if changed.any() and (there := error(changed)) > height:
                at, height = changed, there
        best = max(best, height)
    return best


def squared_error(compressor: Compressor, vector: Tensor) -> float:
    """Exact E‖C(v) − v‖² / ‖v‖²."""
    if compressor.is_unbiased:
        omega = compressor.omega(vector)
        assert omega is not None
        return omega
    norm = float(vector.double().square().sum())
    if isinstance(compressor, Scaled):
        omega = compressor.inner.omega(vector)
        assert omega is not None
        bound = omega if compressor.omega_bound is None else compressor.omega_bound
        return (bound**2 + omega) / (1 + bound) ** 2
    [(_, payload)] = compressor.outcomes(vector)
    return float((payload.dense().double() - vector.double()).square().sum()) / norm


@pytest.mark.parametrize("size", [1, 6, 33])
@pytest.mark.parametrize("text", UNBIASED)
def test_no_vector_is_worse_than_the_worst_omega(text: str, size: int) -> None:
    compressor = parse(text)
    bound = compressor.worst_omega(size)
    assert bound is not None
    assert worst_found(lambda v: squared_error(compressor, v), size) <= bound * (1 + 1e-5) + 1e-6
    alpha = compressor.contraction(size)
    assert alpha == (pytest.approx(1 - bound) if bound < 1 else None)
    assert compressor.bias_and_variance(size) == (0, bound)


@pytest.mark.parametrize("size", [1, 6, 33])
@pytest.mark.parametrize("text", BIASED)
def test_no_vector_loses_more_than_the_contraction_leaves(text: str, size: int) -> None:
    compressor = parse(text)
    assert compressor.worst_omega(size) is None
    alpha = compressor.contraction(size)
    if alpha is not None:
        assert 0 < alpha <= 1
        assert worst_found(lambda v: squared_error(compressor, v), size) <= (1 - alpha) * (1 + 1e-5) + 1e-6


EVEN = torch.ones(16)
PEAKED = torch.tensor([1.0] + 15 * [0.2])  # 1 and 1 / (1 + √d): the worst of the rules that scale by the largest
PEAKED_7 = torch.tensor([1.0] + 99 * [1 / (1 + math.sqrt(1 + 99 / 49)) / 7])  # the same for 7 steps
THIRD = torch.full((16,), 4 / 3)  # a third of the way to the next power of two
ALONE = torch.tensor([1.0] + 14 * [0.0])  # all of it in the level that is drawn least
HALVES = torch.tensor(3 * [3.0] + 5 * [1.0])  # rms 2: all entries are 1/2 or 3/2 of it


@pytest.mark.parametrize(
    ("text", "omega", "worst"),
    [
        ("RandK(count=4)", 3, EVEN),
        ("Bernoulli(count=4)", 3, EVEN),
        ("Systematic(count=4)", 3, EVEN),
        ("MLMC(TopK(count=4))", 3, EVEN),
        ("MLMC(TopK(count=4), draws=3)", 1, EVEN),
        ("MLMC(TopK(count=4), 'fixed')", 3, EVEN),
        ("MLMC(TopK(count=4), 'cost')", 3, EVEN),
        ("MLMC(TopK(count=1, growth=2), 'fixed')", 2 + 3 * 2**0.5, ALONE),  # chances as √1, √2, √4, √8
        ("MLMC(TopK(count=1, growth=2), 'fixed', draws=2)", 1 + 1.5 * 2**0.5, ALONE),
        ("Importance(draws=3)", 5, EVEN),
        ("Induced(TopK(count=4), RandK(count=4))", 2.25, EVEN),
        ("TernGrad()", 1.5, PEAKED),
        ("StochasticRounding(bits=2)", 1.5, PEAKED),
        ("StochasticRounding(bits=4)", (math.sqrt(1 + 99 / 49) - 1) / 2, PEAKED_7),
        ("MLMC(FixedPoint(), 'fixed')", 1.5, PEAKED),
        ("MLMC(FixedPoint(), 'fixed', draws=3)", 0.5, PEAKED),
        ("MLMC(FixedPoint(unit=2.0), 'fixed')", 1.0, EVEN),  # u² / 4
        ("MLMC(FixedPoint(unit=2.0), 'fixed', draws=2)", 0.5, EVEN),
        ("MLMC(FixedPoint(unit=1.0), 'fixed')", 0.25, HALVES),
        ("QSGD(levels=2)", 1.0, EVEN),  # d / 4s²
        ("QSGD(levels=3)", 1 / 3, torch.tensor(3 * [3.0] + 9 * [1.0])),  # norm 6: all half a step off
        ("Natural()", 1 / 8, THIRD),
        ("MLMC(FloatingPoint(), 'fixed')", 1 / 8, THIRD),
        ("MLMC(FloatingPoint(), 'fixed', draws=2)", 1 / 16, THIRD),
        ("MLMC(Identity())", 0, EVEN),
        ("Dither(unit=3.0)", 3 / 4, EVEN),
        ("Dither(unit=3.0)", 3 / 4, PEAKED),
        ("RandK(count=4, values=Dither(unit=3.0))", 6, EVEN),
        ("RandK(count=4, values=Natural())", 3.5, THIRD),
        ("Identity()", 0, EVEN),
        ("MLMC(Identity(), values='bfloat16')", 2**-16, torch.full((3,), 1 + 2**-8)),
        ("RandK(count=2, values='bfloat16')", 1 + 2**-15, torch.full((4,), 1 + 2**-8)),
    ],
)
def test_a_compressor_attains_its_worst_omega(text: str, omega: float, worst: Tensor) -> None:
    assert parse(text).worst_omega(worst.numel()) == pytest.approx(omega)
    assert parse(text).omega(worst) == pytest.approx(omega, rel=1e-5, abs=1.3e-7)


JUST_BELOW = torch.tensor(30 * [3.0] + 50 * [1.0] + [3.01])  # of multiples of half their rms


@pytest.mark.parametrize(
    ("text", "alpha", "worst"),
    [
        ("TopK(count=4)", 1 / 4, EVEN),
        ("Scaled(RandK(count=4))", 1 / 4, EVEN),
        ("Scaled(RandK(count=4), 3.0)", 1 / 4, EVEN),
        ("Scaled(RandK(count=4), 9.0)", 1 - 84 / 100, EVEN),  # b² + ω over (1 + b)²
        ("Scaled(Natural())", 8 / 9, THIRD),
        ("Natural()", 7 / 8, THIRD),
        ("FloatingPoint(bits=0)", 3 / 4, torch.full((3,), 2 - 2**-23)),
        ("FloatingPoint(bits=2)", 1 - 1 / 25, torch.full((3,), 1.25 - 2**-23)),
        ("FixedPoint(bits=2)", 15 / 31, torch.tensor([1.0] + 15 * [1 / 4 - 2**-24])),
        ("FixedPoint(unit=1.0, bits=1)", 3 / 4, JUST_BELOW),
        ("RTN(bits=2)", 8 / 24, torch.tensor([1.0] + 15 * [1 / 3 - 1e-7])),
        ("RTN(bits=4, kind='mid-rise')", 1 - 15 / 225, torch.tensor([1.0] + 15 * [0.0])),
        ("ECUQ(bits=2)", 1 - 6 / 32, torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])),
    ],
)
def test_a_compressor_attains_its_contraction(text: str, alpha: float, worst: Tensor) -> None:
    assert parse(text).contraction(worst.numel()) == pytest.approx(alpha)
    assert squared_error(parse(text), worst) == pytest.approx(1 - alpha, rel=0.03 if worst is JUST_BELOW else 1e-5)


def test_nothing_is_said_where_nothing_is_known() -> None:
    for text in ("MLMC(RTN(bits=4))", "MLMC(ECUQ(bits=2), 'fixed')", "Induced(RTN(bits=1), RandK(count=4))"):
        assert parse(text).worst_omega(16) is None
        assert parse(text).contraction(16) is None
        assert parse(text).bias_and_variance(16) is None
    for text in ("RTN(bits=1)", "RTN(bits=4, clip=1.0)", "RTN(bits=2, kind='mid-rise')", "ECUQ(bits=1)"):
        assert parse(text).contraction(16) is None
    for text in ("RandK(count=3)", "FixedPoint(bits=1, unit=2.0)", "Scaled(MLMC(RTN(bits=4)))"):
        assert parse(text).contraction(12) is None
    # What the user says of it is believed, where nothing else is known.
    assert parse("Scaled(MLMC(RTN(bits=4)), 3.0)").contraction(12) == pytest.approx(1 / 4)
    assert parse("Scaled(RandK(count=3), 0.5)").contraction(12) is None  # ω is 3, so it may be √13 / 3 · ‖v‖ off


def test_bias_and_variance_are_those_of_ef_bv() -> None:
    assert parse("Scaled(RandK(count=4))").bias_and_variance(40) == pytest.approx((9 / 10, 9 / 100))
    assert parse("Scaled(RandK(count=4), 19.0)").bias_and_variance(40) == pytest.approx((19 / 20, 9 / 400))
    assert parse("TopK(count=4)").bias_and_variance(40) == pytest.approx((math.sqrt(0.9), 0))
    assert parse("RandK(count=4)").bias_and_variance(40) == (0, 9)
    assert parse("Identity()").bias_and_variance(40) == (0, 0)


def test_bounds_are_those_of_the_notes() -> None:
    for size in (5, 100, 4097):
        for levels in (1, 3, 40):
            bound = min(size / (4 * levels**2), math.sqrt(size) / levels)
            assert parse(f"QSGD(levels={levels})").worst_omega(size) == pytest.approx(bound)
        for unit in (0.1, 0.5, 2.0, 4.0):
            assert parse(f"MLMC(FixedPoint(unit={unit}), 'fixed')").worst_omega(size) == pytest.approx(unit**2 / 4)
        for bits in (2, 4, 8):
            half = 2 ** (bits - 1) - 1
            bound = (math.sqrt(1 + (size - 1) / half**2) - 1) / 2
            assert parse(f"StochasticRounding(bits={bits})").worst_omega(size) == pytest.approx(bound)
        for text in ("RandK(count=5", "Systematic(count=5", "Bernoulli(count=5", "MLMC(TopK(count=5)"):
            plain, rounded = (parse(text + end).worst_omega(size) for end in (")", ", values='bfloat16')"))
            assert plain is not None
            assert rounded == pytest.approx((1 + plain) * (1 + 2**-16) - 1)


@pytest.mark.parametrize(
    "text", ["MLMC(FixedPoint(unit=0.001), 'fixed')", "MLMC(TopK(fraction=0.01))", "QSGD(levels=9)"]
)
def test_bounds_hold_for_long_vectors_too(text: str) -> None:
    compressor, size = parse(text), 200_000
    bound = compressor.worst_omega(size)
    assert bound is not None
    peak = torch.full((size,), 0.5 / 8192)  # where a unit is as short as it gets
    peak[0] = 1
    flat = torch.ones(size)
    flat[size // 2 :] = 1 - 2**-7  # half of them a bin of the histogram lower
    for vector in (peak, flat, torch.randn(size, generator=torch.Generator().manual_seed(1))):
        # Rough norms of long vectors may cost the second moment 2⁻¹⁶ of itself.
        assert squared_error(compressor, vector) <= bound + (1 + bound) * 2**-16


def test_draws_without_replacement_are_worth_as_many_only_where_increments_share_nothing() -> None:
    assert parse("MLMC(TopK(count=4), draws=2, replacement=False)").worst_omega(40) == 9 / 2
    for end in ("", ", draws=2, replacement=False"):
        assert parse(f"MLMC(FixedPoint(bits=4), 'fixed'{end})").worst_omega(36) == pytest.approx(5 / 2)
