"""What a run config may combine where updates are not trusted, or must not tell on their clients."""

from ...aggregation.trimmed import parse_aggregation
from .aggregation import AggregationConfig
from .cohort import CohortConfig
from .compression import CompressionConfig
from .privacy import PrivacyConfig
from .training import TrainingConfig


def check_trust(
    cohort: CohortConfig,
    training: TrainingConfig,
    compression: CompressionConfig,
    aggregation: AggregationConfig,
    privacy: PrivacyConfig,
) -> None:
    """ValueError with the reason if the aggregation or the privacy of a run does not go with the rest of it."""
    if parse_aggregation(aggregation.rule).is_robust:
        what = f"aggregation {aggregation.rule!r}"
        _check_robust(what, compression)
        _check_direct(what, "its memories are kept by the mean of all messages", training, compression, aggregation)
    if privacy.is_on:
        what = "differential privacy (dp-noise)"
        _check_private(what, cohort, compression, aggregation)
        _check_direct(
            what, "what a client remembers would count again in later rounds", training, compression, aggregation
        )


def _check_robust(what: str, compression: CompressionConfig) -> None:
    if not compression.uplink.is_whole:
        raise ValueError(
            f"{what} needs updates that are whole in every coordinate, and of {type(compression.uplink).__name__} most "
            "are zero or rescaled, or may be: the median of these is not that of the updates. Use one of Identity(), "
            "Natural() and ladders that round, such as FixedPoint(bits=8) or RTN(bits=8)"
        )


def _check_private(
    what: str, cohort: CohortConfig, compression: CompressionConfig, aggregation: AggregationConfig
) -> None:
    if compression.uplink.rescales:
        raise ValueError(
            f"{what} clips every decoded update, and those of {type(compression.uplink).__name__} are rescaled by one "
            "over a chance, or may be: the clip would cut most of them and bias the mean. Use Identity(), TopK(…), "
            "Natural() or StochasticRounding(bits=8)"
        )
    if aggregation.rule != "mean":
        raise ValueError(f"{what} adds noise to a sum of updates, and aggregation {aggregation.rule!r} is none")
    if cohort.over_sampling or cohort.least_coverage:
        raise ValueError(
            f"{what} counts on a cohort drawn uniformly: over-sampling takes the fastest and least-coverage picks; "
            "leave both at 0"
        )
    if cohort.width_rule != "nested" or cohort.tier_assignment == "redrawn":
        raise ValueError(
            f"{what} divides by how many clients hold a coordinate on average, which it knows for width-rule 'nested' "
            "and tiers that stay"
        )


def _check_direct(
    what: str, why: str, training: TrainingConfig, compression: CompressionConfig, aggregation: AggregationConfig
) -> None:
    if training.is_bilevel:
        raise ValueError(f"{what} is for task 'classification': the steps of a bilevel problem are those of its mean")
    if compression.scheme != "direct":
        raise ValueError(f"{what} goes with scheme 'direct', not {compression.scheme!r}: {why}")
    if aggregation.average_by_label:
        raise ValueError(f"{what} does not go with average-by-label, whose labels are what clients say of themselves")
