"""What cannot be combined is refused with the reason."""

from typing import Any

import pytest

from fl_mlmc.run.config import ConfigError, RunConfig

MEDIAN: dict[str, Any] = {"aggregation": "median"}
PRIVATE: dict[str, Any] = {"dp_noise": 1.0, "dp_clip": 0.5}
INDUCED = "Induced(TopK(fraction=0.1), RandK(fraction=0.1))"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({**MEDIAN, "compressor": "MLMC(TopK(fraction=0.1))"}, "of MLMC most are zero or rescaled"),
        ({**MEDIAN, "compressor": "TopK(fraction=0.1)"}, "of TopK most are zero"),
        ({**MEDIAN, "compressor": "TernGrad()"}, "Use one of Identity"),
        ({**MEDIAN, "compressor": "RTN(bits=1)"}, "of RTN most are zero"),
        ({**MEDIAN, "compressor": "Scaled(Natural(), 99.0)"}, "of Scaled most are zero or rescaled, or may be"),
        ({**MEDIAN, "compressor": INDUCED}, "of Induced most are zero"),
        ({**MEDIAN, "scheme": "ef21", "compressor": "Identity()"}, "goes with scheme 'direct', not 'ef21'"),
        ({**MEDIAN, "average_by_label": True}, "does not go with average-by-label"),
        ({**MEDIAN, "task": "bilevel", "scheme": "rabo"}, "is for task 'classification'"),
        ({"aggregation": "krum"}, "known: 'mean', 'median'"),
        ({"dp_noise": 1.0}, "give both or none, got 1 and 0"),
        ({"dp_clip": 1.0}, "give both or none, got 0 and 1"),
        ({**PRIVATE, "compressor": "MLMC(TopK(fraction=0.1))"}, "would cut most of them and bias the mean"),
        ({**PRIVATE, "compressor": "RandK(fraction=0.1)"}, "those of RandK are rescaled"),
        ({**PRIVATE, "compressor": "Bernoulli(fraction=0.1)"}, "those of Bernoulli are rescaled"),
        ({**PRIVATE, "compressor": "Importance(draws=9)"}, "those of Importance are rescaled"),
        ({**PRIVATE, "compressor": INDUCED}, "those of Induced are rescaled"),
        ({**PRIVATE, "compressor": "Systematic(fraction=0.1)"}, "those of Systematic are rescaled"),
        ({**PRIVATE, "compressor": "Scaled(RandK(fraction=0.1))"}, "those of Scaled are rescaled"),
        ({**PRIVATE, "compressor": "TernGrad()"}, "those of TernGrad are rescaled"),
        ({**PRIVATE, "compressor": "StochasticRounding(bits=2)"}, "those of StochasticRounding are rescaled"),
        ({**PRIVATE, "compressor": "QSGD(levels=1)"}, "those of QSGD are rescaled"),
        ({**PRIVATE, "scheme": "ef14", "compressor": "TopK(fraction=0.1)"}, "would count again in later rounds"),
        ({**PRIVATE, **MEDIAN}, "adds noise to a sum"),
        ({**PRIVATE, "least_coverage": 2}, "counts on a cohort drawn uniformly"),
        ({**PRIVATE, "engine": "flower", "over_sampling": 0.5}, "over-sampling takes the fastest"),
        ({**PRIVATE, "width_rule": "rolling"}, "width-rule 'nested'"),
        ({**PRIVATE, "tier_assignment": "redrawn"}, "tiers that stay"),
        (
            {"over_sampling": 0.5, "scheme": "marina", "compressor": "RandK(fraction=0.5)", "clients_per_round": 60},
            "scheme marina needs every client in every round, and with over-sampling = 0.5",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        RunConfig().changed(**changes)


@pytest.mark.parametrize(
    "compressor", ["Identity()", "FixedPoint(bits=8)", "RTN(bits=4)", "Natural()", "Scaled(Natural())"]
)
@pytest.mark.parametrize("aggregation", ["median", "trimmed-mean:0.2"])
def test_whole_updates_may_be_aggregated_robustly(compressor: str, aggregation: str) -> None:
    RunConfig().changed(compressor=compressor, aggregation=aggregation)


@pytest.mark.parametrize(
    "compressor",
    ["TopK(fraction=0.1)", "StochasticRounding(bits=8)", "Scaled(Natural())", "Induced(TopK(fraction=0.1), Natural())"],
)
def test_what_rescales_nothing_may_be_private(compressor: str) -> None:
    RunConfig().changed(compressor=compressor, **PRIVATE)


def test_over_sampling_asks_more_but_never_more_than_all() -> None:
    config = RunConfig(engine="flower", num_clients=12, clients_per_round=10)
    assert config.changed(over_sampling=0.1).cohort.num_asked == 11
    assert config.changed(over_sampling=0.15).cohort.num_asked == 12
    assert config.changed(over_sampling=3.0).cohort.num_asked == 12
    assert config.cohort.num_asked == 10
    many = RunConfig(engine="flower", num_clients=200, clients_per_round=100, over_sampling=0.1)
    assert many.cohort.num_asked == 110, "100 * 1.1 is a little above 110 in floating point"
