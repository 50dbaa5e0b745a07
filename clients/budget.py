"""A client's uplink budget, its tier's or its device's: the run's compressor, or what makes the most of the bytes.

Which one depends on the submodel's size and on the update, never on what was drawn, so the mean stays unbiased.
"""

from collections.abc import Sequence

from fl_mlmc.compression import Budget
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.schemes import Scheme
from fl_mlmc.training.local import TrainingError


def uplink_of(task: TrainTask, config: RunConfig, scheme: Scheme, size: int) -> Compressor:
    """What compresses a client's update of `size` coordinates: the run's compressor, or what fits the budget.

    TrainingError where the scheme counts on the run's own.
    """
    compressor = config.compression.uplink
    if not task.uplink_budget:
        return compressor
    is_mean = config.aggregation.rule == "mean" and not config.privacy.is_on
    uplink = fitting(compressor, size, task.uplink_budget, is_mean)
    if uplink is not compressor and not scheme.takes_any_compressor:
        raise TrainingError(
            f"the uplink-budget of {task.uplink_budget} bytes asks for {uplink!r}, and scheme {scheme.name} has its "
            f"steps from {compressor!r}: raise the budget, or run scheme 'direct'"
        )
    return uplink


def fitting(compressor: Compressor, size: int, budget: int, is_mean: bool = True) -> Compressor:
    """`compressor`, if no payload of `size` coordinates is longer than `budget` bytes; else one that keeps to them.

    An unbiased one whose longest payload is known, or that loses nothing, gives way to `Budget(bytes=budget)`; a biased
    one is shortened. `Budget` may rescale coordinates and leave some out, so where not the mean is taken (`is_mean`) it
    stands in only for what rescales them anyway. One that can be neither is given back as it is: see `check_budget`.
    TrainingError where not even one coordinate fits.
    """
    longest = compressor.longest(size)
    if longest is not None and longest <= budget:
        return compressor
    gives_way = compressor.is_unbiased and (longest is not None or compressor.is_exact)
    try:
        if gives_way and (is_mean or (compressor.rescales and not compressor.is_whole)):
            return Budget(budget).shortened(size, budget)
        return compressor.shortened(size, budget)
    except ValueError as error:
        raise TrainingError(f"uplink-budget: {error}") from error


def check_budget(payloads: Sequence[bytes], compressor: Compressor, task: TrainTask) -> None:
    """TrainingError if `payloads` together are over the budget that the task has, if it has one."""
    if task.uplink_budget and (length := sum(map(len, payloads))) > task.uplink_budget:
        raise TrainingError(
            f"an update of {length} bytes is over the uplink-budget of {task.uplink_budget}, and {compressor!r} has no "
            "fraction to choose that bounds its payloads; TopK(fraction=…) has one, and Budget(bytes=…) keeps to any"
        )
