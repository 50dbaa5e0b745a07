"""Cohorts that are not uniform: their chances by enumeration, and the limits that the papers name."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from fl_mlmc.run.sampling import Crowd, inclusion, parse_sampling, systematic

SIZES = np.array([1.0, 2.0, 3.0, 4.0, 30.0])


def crowd(losses: list[float] | None = None, seconds: list[float] | None = None) -> Crowd:
    known = np.array(losses) if losses else np.full(5, math.inf)
    return Crowd(np.array([2, 3, 5, 7, 11]), SIZES, known, np.array(seconds) if seconds else np.zeros(5))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_by_size_the_mean_is_unbiased_over_every_offset_of_the_comb(count: int) -> None:
    """All cohorts that an order can give, each for the share of offsets that give it."""
    chances, values = inclusion(SIZES, count), np.array([5.0, -1.0, 2.0, 0.5, 3.0])
    assert chances.sum() == pytest.approx(count)
    assert chances.max() <= 1
    mean, seen = 0.0, np.zeros(5)
    edges = sorted({0.0, 1.0, *(float(edge % 1) for edge in np.cumsum(chances))})
    for start, stop in pairwise(edges):
        cohort = systematic(chances, (start + stop) / 2)
        weights = SIZES[cohort] / chances[cohort]
        assert len(cohort) == count
        assert weights.sum() == pytest.approx(SIZES.sum())  # so the weighted mean is linear in the updates
        mean += (stop - start) * float(weights @ values[cohort]) / float(weights.sum())
        seen[cohort] += stop - start
    np.testing.assert_allclose(seen, chances, atol=1e-9)
    assert mean == pytest.approx(float(SIZES @ values) / float(SIZES.sum()))


def test_a_draw_by_size_counts_by_one_over_its_chance() -> None:
    drawn = parse_sampling("size").draw(crowd(), 2, np.random.default_rng(0))
    chances = dict(zip([2, 3, 5, 7, 11], inclusion(SIZES, 2), strict=True))
    assert list(drawn) == sorted(drawn)
    assert len(drawn) == 2
    assert drawn == pytest.approx({client: 1 / chances[client] for client in drawn})
    assert parse_sampling("size").draw(crowd(), 9, np.random.default_rng(0)) == dict.fromkeys([2, 3, 5, 7, 11], 1.0)


def test_power_of_choice_takes_the_highest_losses_and_the_unknown_first() -> None:
    every = parse_sampling("loss(d=5)")
    assert list(every.draw(crowd([0.1, 0.5, 0.3, 0.9, 0.2]), 2, np.random.default_rng(0))) == [3, 7]
    assert list(every.draw(crowd([0.1, 0.5, math.inf, 0.9, 0.2]), 2, np.random.default_rng(0))) == [5, 7]


def test_power_of_choice_with_as_many_candidates_as_are_wanted_draws_by_size() -> None:
    losses = [0.1, 0.5, 0.3, 0.9, 0.2]
    counts = np.zeros(5)
    for seed in range(4000):
        [client] = parse_sampling("loss(d=1)").draw(crowd(losses), 1, np.random.default_rng(seed))
        counts[[2, 3, 5, 7, 11].index(client)] += 1
    np.testing.assert_allclose(counts / 4000, SIZES / SIZES.sum(), atol=0.02)


def test_a_deadline_leaves_the_slow_out() -> None:
    rule = parse_sampling("deadline(seconds=10)")
    seen = {c for s in range(50) for c in rule.draw(crowd(seconds=[1, 20, 10, 9, 11]), 2, np.random.default_rng(s))}
    assert seen == {2, 5, 7}
    assert rule.deadline == 10
    assert parse_sampling("uniform").deadline == math.inf
    with pytest.raises(ValueError, match="the fastest client takes 11 s; give more seconds"):
        rule.draw(crowd(seconds=[11, 20, 30, 12, 13]), 2, np.random.default_rng(0))


def test_uniform_cohorts_are_all_as_likely() -> None:
    seen = [tuple(parse_sampling("uniform").draw(crowd(), 2, np.random.default_rng(s))) for s in range(2000)]
    shares = {cohort: Fraction(seen.count(cohort), 2000) for cohort in set(seen)}
    assert len(shares) == 10
    assert all(abs(share - Fraction(1, 10)) < Fraction(3, 100) for share in shares.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random", "unknown sampling 'random'; known: deadline, loss, size, uniform"),
        ("loss(d=0)", "a whole number of candidates, at least 1, got 0"),
        ("deadline(seconds=0)", "seconds are above 0, got 0"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_sampling(text)
