"""Seconds from tier, parameters, steps and bytes; and what may stretch them, by seed."""

import numpy as np
import pytest

from fl_mlmc.run.clock import Clock, Pace
from fl_mlmc.run.slowdown import SLOWDOWNS, Even, parse_slowdown
from fl_mlmc.submodels.tier import parse_tiers

TEXTS = ["none", "lognormal(sigma=0.5)", "exponential(mean=0.5)", "pareto(shape=3)", "slow(share=0.1, times=10)"]


def test_a_part_is_download_then_steps_then_upload() -> None:
    (tier,) = parse_tiers("phone:0.5:1:speed=0.1:up=1000:down=500")
    assert tier.pace(2_000_000).seconds(4, 80, 200) == pytest.approx(200 / 500 + 4 * 2e6 / 1e7 + 80 / 1000)
    assert Pace(3.0).seconds(2, 1e9, 1e9) == 6.0


def test_every_distribution_is_tried_and_has_the_mean_that_it_says() -> None:
    means = dict(zip(TEXTS, [1, 1, 1.5, 1.5, 1.9], strict=True))
    assert {text.partition("(")[0] for text in TEXTS} == set(SLOWDOWNS)
    for text, mean in means.items():
        rng, slowdown = np.random.default_rng(0), parse_slowdown(text)
        drawn = [slowdown.factor(rng) for _ in range(20_000)]
        assert min(drawn) > 0
        assert np.mean(drawn) == pytest.approx(mean, rel=0.03), text


def test_stragglers_stay_so_and_jitter_is_new_and_both_follow_from_the_seed() -> None:
    usual = Pace(2.0, up=10, down=20)
    clock = Clock(3, parse_slowdown("lognormal(sigma=0.5)"), parse_slowdown("pareto(shape=2)"))
    slow_only = Clock(3, Even(), parse_slowdown("pareto(shape=2)"))
    times = {(client, n): clock.pace(usual, client, n).seconds(5, 30, 40) for client in range(3) for n in range(4)}
    assert len(set(times.values())) == 12
    again = Clock(3, parse_slowdown("lognormal(sigma=0.5)"), parse_slowdown("pareto(shape=2)"))
    assert again.pace(usual, 2, 3).seconds(5, 30, 40) == times[2, 3]
    assert len({slow_only.pace(usual, 1, n).seconds(5, 30, 40) for n in range(4)}) == 1
    assert slow_only.pace(usual, 1, 0).seconds(5, 30, 40) > usual.seconds(5, 30, 40) == 15
    assert Clock(3).pace(usual, 1, 0) is usual


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normal(1)", "unknown slowdown 'normal'; known: .*lognormal"),
        ("lognormal(sigma=0)", "sigma is above 0, got 0"),
        ("exponential(mean=-1)", "mean is above 0, got -1"),
        ("pareto(shape=1)", "shape is above 1, got 1"),
        ("slow(share=2, times=3)", r"share lies in \[0, 1\], got 2"),
        ("slow(share=0.5, times=0)", "times is above 0, got 0"),
    ],
)
def test_what_is_no_distribution_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_slowdown(text)
