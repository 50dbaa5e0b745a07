"""Every aggregation by its text, what it folds by, and what it needs of a run."""

import doctest
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_mlmc import aggregation, parse
from fl_mlmc.aggregation import (
    Average,
    CoverageMean,
    Folding,
    Ledger,
    Private,
    PrivateMean,
    Setting,
    Trimmed,
    TrimmedMean,
    parse_aggregation,
)
from fl_mlmc.submodels import Axis, WidthSpec, plan

PLAIN = Setting(parse("Identity()"))
PRIVATE = Private(clip=1.0, noise=2.0, delta=1e-5, cohort_size=3, num_clients=6)
EVERYTHING: dict[str, Any] = {
    "compressor": parse("MLMC(TopK(fraction=0.1))"),
    "scheme": "ef21",
    "is_bilevel": True,
    "averages_by_label": True,
    "draws_uniformly": False,
    "keeps_holders": False,
}


@pytest.mark.parametrize("text", ["mean", "median", "trimmed-mean:0.2", "trimmed-mean:0.123456789"])
def test_the_text_of_an_aggregation_gives_it_back(text: str) -> None:
    assert str(parse_aggregation(text)) == text
    assert parse_aggregation(str(parse_aggregation(text))) == parse_aggregation(text)


@pytest.mark.parametrize(
    "text",
    ["", "trimmed-mean", "trimmed-mean:0", "trimmed-mean:0.5", "trimmed-mean:nan", "krum", "mean:0.1", "median:"],
)
def test_an_unknown_aggregation_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"known: 'mean', 'median', 'trimmed-mean:SHARE' .*of your own"):
        parse_aggregation(text)


@pytest.mark.parametrize("trim", [0.0, -0.1, 0.6, float("nan")])
def test_a_trim_is_a_share(trim: float) -> None:
    with pytest.raises(ValueError, match="cuts above 0 and at most"):
        Trimmed(trim)


def test_the_plain_mean_goes_with_everything() -> None:
    Average().check(replace(PLAIN, **EVERYTHING))


def test_the_others_go_with_a_plain_run() -> None:
    Trimmed(0.5).check(PLAIN)
    PRIVATE.check(PLAIN)


@pytest.mark.parametrize("what", [Trimmed(0.5), Trimmed(0.2), PRIVATE])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scheme", "goes with scheme 'direct', not 'ef21'"),
        ("is_bilevel", "is for task 'classification'"),
        ("averages_by_label", "does not go with average-by-label"),
        ("compressor", "of MLMC .* or may be"),
    ],
)
def test_what_robust_and_private_means_refuse_alike(what: Trimmed | Private, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        what.check(replace(PLAIN, **{name: EVERYTHING[name]}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"draws_uniformly": False}, "counts on a cohort drawn uniformly"),
        ({"keeps_holders": False}, "width-rule 'nested' and tiers that stay"),
        ({"aggregation": "median"}, "aggregation 'median' is none"),
    ],
)
def test_what_a_private_mean_refuses_alone(changes: dict[str, Any], reason: str) -> None:
    Trimmed(0.5).check(replace(PLAIN, **changes))
    with pytest.raises(ValueError, match=reason):
        PRIVATE.check(replace(PLAIN, **changes))


@pytest.mark.parametrize(("text", "fold"), [("mean", CoverageMean), ("median", TrimmedMean)])
def test_a_round_folds_by_the_runs_aggregation(text: str, fold: type, tmp_path: Path) -> None:
    folding = Folding(parse_aggregation(text), 4)
    assert type(folding.start(1)) is fold
    assert folding.start(1) is not folding.start(2)
    assert type(Folding(parse_aggregation(text), 4, PRIVATE, Ledger(tmp_path / "ledger")).start(1)) is PrivateMean


def test_a_private_mean_divides_by_how_many_of_a_cohort_hold_a_coordinate_on_average(tmp_path: Path) -> None:
    spec = WidthSpec({"units": 4}, {"x": (4,)}, {"x": (Axis("units"),)})
    plans = [plan(spec, "nested", width) for width in (0.5, 0.5, 1.0, 1.0)]
    # Two of six clients are not there yet and may hold anything; three of six are drawn.
    assert PRIVATE.expected_holders(4, plans).tolist() == [3.0, 3.0, 2.0, 2.0]
    folding = Folding(Average(), 4, replace(PRIVATE, noise=1e-12), Ledger(tmp_path / "ledger"))
    folding.meet(plans)
    fold = folding.start(1)
    fold.add(plans[2], parse("Identity()").compress(torch.full((4,), 0.3), None).payload, 1)  # type: ignore[arg-type]
    torch.testing.assert_close(fold.result().update, torch.tensor([0.1, 0.1, 0.15, 0.15]))


def test_the_example_of_the_room_is_true() -> None:
    assert doctest.testmod(aggregation).attempted > 0
    assert doctest.testmod(aggregation).failed == 0
