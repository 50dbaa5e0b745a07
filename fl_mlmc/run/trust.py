"""What a run config may combine where updates are not trusted, or must not tell on their clients."""

from typing import TYPE_CHECKING

from ..aggregation.trimmed import parse_aggregation

if TYPE_CHECKING:
    from .config import RunConfig


def check_trust(config: "RunConfig") -> None:
    """ValueError with the reason if the aggregation or the privacy of `config` does not go with the rest of it."""
    if parse_aggregation(config.aggregation).is_robust:
        _check_robust(config)
    if (config.dp_noise > 0) != (config.dp_clip > 0):
        raise ValueError(
            f"dp-noise is in units of dp-clip: give both or none, got {config.dp_noise:g} and {config.dp_clip:g}"
        )
    if config.dp_noise:
        _check_private(config)


def _check_robust(config: "RunConfig") -> None:
    what = f"aggregation {config.aggregation!r}"
    if not config.uplink.is_whole:
        raise ValueError(
            f"{what} needs updates that are whole in every coordinate, and of {type(config.uplink).__name__} most are "
            "zero or rescaled, or may be: the median of these is not that of the updates. Use one of Identity(), "
            "Natural() and ladders that round, such as FixedPoint(bits=8) or RTN(bits=8)"
        )
    _check_direct(config, what, "its memories are kept by the mean of all messages")


def _check_private(config: "RunConfig") -> None:
    what = "differential privacy (dp-noise)"
    if config.uplink.rescales:
        raise ValueError(
            f"{what} clips every decoded update, and those of {type(config.uplink).__name__} are rescaled by one over "
            "a chance, or may be: the clip would cut most of them and bias the mean. Use Identity(), TopK(…) or a "
            "quantiser"
        )
    _check_direct(config, what, "what a client remembers would count again in later rounds")
    if config.aggregation != "mean":
        raise ValueError(f"{what} adds noise to a sum of updates, and aggregation {config.aggregation!r} is none")
    if config.over_sampling or config.least_coverage:
        raise ValueError(
            f"{what} counts on a cohort drawn uniformly: over-sampling takes the fastest and least-coverage picks; "
            "leave both at 0"
        )
    if config.width_rule != "nested" or config.tier_assignment == "redrawn":
        raise ValueError(
            f"{what} divides by how many clients hold a coordinate on average, which it knows for width-rule 'nested' "
            "and tiers that stay"
        )


def _check_direct(config: "RunConfig", what: str, why: str) -> None:
    if config.task == "bilevel":
        raise ValueError(f"{what} is for task 'classification': the steps of a bilevel problem are those of its mean")
    if config.scheme != "direct":
        raise ValueError(f"{what} goes with scheme 'direct', not {config.scheme!r}: {why}")
    if config.average_by_label:
        raise ValueError(f"{what} does not go with average-by-label, whose labels are what clients say of themselves")
