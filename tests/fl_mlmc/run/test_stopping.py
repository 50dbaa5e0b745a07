"""When a run has seen enough."""

import math

import pytest

from fl_mlmc.run.stopping import Patience, Reached, is_new_best, parse_stop


@pytest.mark.parametrize(
    ("values", "high", "stops"),
    [
        ([0.1, 0.5, 0.5, 0.5], True, False),
        ([0.1, 0.5, 0.5, 0.5, 0.4], True, True),
        ([0.1, 0.5, 0.5, 0.51, 0.4], True, False),
        ([0.9, 0.5, 0.6, 0.6, 0.6], False, True),
        ([0.9, 0.5, 0.6, 0.4, 0.6], False, False),
        ([], True, False),
    ],
)
def test_patience_counts_evaluations_since_the_best(values: list[float], high: bool, stops: bool) -> None:
    assert bool(Patience("x", 3).reason(values, high)) == stops


def test_a_gain_below_the_least_is_none() -> None:
    assert Patience("x", 2, least=0.1).reason([0.5, 0.55, 0.58], True)
    assert not Patience("x", 2, least=0.01).reason([0.5, 0.55, 0.58], True)


def test_reached_looks_at_the_last_value() -> None:
    assert Reached("accuracy", 0.9).reason([0.95], True) == "accuracy 0.95 is as good as 0.9"
    assert not Reached("accuracy", 0.9).reason([0.95, 0.8], True)
    assert Reached("loss", 0.1).reason([0.05], False)
    assert not Reached("loss", 0.1).reason([], False)


def test_texts_are_read_and_the_best_is_strictly_better() -> None:
    assert parse_stop("") is None
    assert parse_stop("patience('loss', evaluations=4)") == Patience("loss", 4)
    with pytest.raises(ValueError, match="is a text"):
        parse_stop("reached(1, 2)")
    assert [is_new_best(values, True) for values in ([0.5], [0.5, 0.5], [0.5, 0.6], [math.nan])] == [
        True, False, True, False
    ]  # fmt: skip
