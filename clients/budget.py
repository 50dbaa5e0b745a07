"""A device's own uplink budget: the run's compressor, shortened until a payload is sure to fit.

How far depends on the submodel's size alone, never on what was drawn, so an unbiased compressor stays unbiased.
"""

from collections.abc import Sequence

from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.run.protocol import TrainTask
from fl_mlmc.schemes import Scheme
from fl_mlmc.training.local import TrainingError


def uplink_of(task: TrainTask, compressor: Compressor, scheme: Scheme, size: int) -> Compressor:
    """What compresses a client's update of `size` coordinates: the run's `compressor`, or less of it to fit the budget.

    TrainingError where the scheme counts on the run's own.
    """
    if not task.uplink_budget:
        return compressor
    uplink = fitting(compressor, size, task.uplink_budget)
    if uplink is not compressor and not scheme.takes_any_compressor:
        raise TrainingError(
            f"the uplink-budget of {task.uplink_budget} bytes asks for {uplink!r}, and scheme {scheme.name} has its "
            f"steps from {compressor!r}: raise the budget, or run scheme 'direct'"
        )
    return uplink


def fitting(compressor: Compressor, size: int, budget: int) -> Compressor:
    """`compressor`, shortened if the payload of `size` coordinates could be longer than `budget` bytes.

    One that cannot be shortened is given back as it is: see `check_budget`. TrainingError where not even one coordinate
    fits.
    """
    try:
        return compressor.shortened(size, budget)
    except ValueError as error:
        raise TrainingError(f"uplink-budget: {error}") from error


def check_budget(payloads: Sequence[bytes], compressor: Compressor, task: TrainTask) -> None:
    """TrainingError if `payloads` together are over the budget that the task has, if it has one."""
    if task.uplink_budget and (length := sum(map(len, payloads))) > task.uplink_budget:
        raise TrainingError(
            f"an update of {length} bytes is over the uplink-budget of {task.uplink_budget}, and {compressor!r} has no "
            "fraction to choose that bounds its payloads; TopK(fraction=…), RandK(fraction=…), Systematic(fraction=…) "
            "and MLMC(TopK(fraction=…)) have one"
        )
