"""When a run is given up for its curvature, and that no client alone can have it given up."""

import math
from collections.abc import Mapping

import pytest
import torch

from fl_mlmc.bilevel import ConvexityWatch, DivergenceError, NotStronglyConvexError, Point
from fl_mlmc.bilevel.quadratic import quadratic

PROBLEM = quadratic(num_clients=3).problem
MU = PROBLEM.strong_convexity
POINT = Point(torch.ones(2), torch.ones(2), torch.ones(2))
WELL, BAD, NONE = 2 * MU + 1.0, -1e300, math.inf


def watch_of(num_clients: int = 3) -> ConvexityWatch:
    return ConvexityWatch(PROBLEM, num_clients)


def tell(watch: ConvexityWatch, *rounds: Mapping[int, float]) -> None:
    for number, curvatures in enumerate(rounds, start=1):
        watch.add(number, curvatures, POINT)


def test_rounds_in_a_row_in_which_most_clients_see_it_end_the_run() -> None:
    bad = {0: -1.0, 1: MU, 2: -1e300}  # the lowest counts as the next: one client bends the advice by no more
    tell(watch_of(), bad, bad)
    tell(watch_of(), bad, bad, {0: WELL, 1: WELL, 2: -2.0}, bad, bad)
    tell(watch_of(), *[{0: -1.0, 1: -1.0, 2: 10.0}] * 9)  # convex in the mean, as a shared g must be
    with pytest.raises(NotStronglyConvexError, match=r"down to -0.667 in the rounds up to 3.*Try strong_convexity = "):
        tell(watch_of(), bad, bad, bad)


@pytest.mark.parametrize("lie", [BAD, -math.inf, NONE, math.nan, 1e300])
@pytest.mark.parametrize("others", [(1,), (1, 2), ()])
def test_what_one_client_says_ends_no_run(lie: float, others: tuple[int, ...]) -> None:
    tell(watch_of(), *[{0: lie, **dict.fromkeys(others, WELL)}] * 20)


def test_different_clients_one_a_round_are_believed_and_so_is_a_client_that_is_alone() -> None:
    with pytest.raises(NotStronglyConvexError):
        tell(watch_of(), {0: -1.0}, {0: -1.0}, {1: -1.0})
    with pytest.raises(NotStronglyConvexError):
        tell(watch_of(1), *[{0: -1.0}] * 3)
    with pytest.raises(DivergenceError, match="Take shorter steps"):
        tell(watch_of(1), *[{0: NONE}] * 3)


def test_rounds_in_which_nobody_sees_anything_end_the_run_once_there_is_something_to_be_seen() -> None:
    blind = {0: NONE, 1: math.nan}
    with pytest.raises(DivergenceError, match=r"‖v‖ = 1.41 after round 3; the steps|the steps diverge"):
        tell(watch_of(), blind, blind, blind)
    watch = watch_of()
    for number in range(20):
        watch.add(number, blind, POINT._replace(v=torch.zeros(2)))


def test_of_clients_that_diverged_most_say_which_error_it_is() -> None:
    assert isinstance(watch_of().diverged(1, [-1.0, -2.0, WELL]), NotStronglyConvexError)
    assert not isinstance(watch_of().diverged(1, [BAD, WELL]), NotStronglyConvexError)
    assert not isinstance(watch_of().diverged(1, [math.nan]), NotStronglyConvexError)
