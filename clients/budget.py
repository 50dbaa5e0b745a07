"""A device's own uplink budget: the largest fraction of the run's compressor whose payload is sure to fit.

The fraction depends on the submodel's size alone, never on what was drawn, so an unbiased compressor stays unbiased.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from fl_mlmc import MLMC, RandK, TopK
from fl_mlmc.compression.compressors.base import Compressor
from fl_mlmc.compression.compressors.sparsity import num_kept
from fl_mlmc.run.config import RunConfig
from fl_mlmc.run.protocol import TrainTask

from .local_training import TrainingError

_FRAME = 14 + 5 + 8  # headers of the payload and of its block, and the longest head of a body


def uplink_of(task: TrainTask, config: RunConfig, size: int) -> Compressor:
    """The compressor of a client's update of `size` coordinates: the run's own, unless the budget asks for less.

    TrainingError where the scheme counts on the run's own.
    """
    if not task.uplink_budget:
        return config.uplink
    uplink = fitting(config.uplink, size, task.uplink_budget)
    if uplink is not config.uplink and (scheme := config.resolved_scheme(size)).name != "direct":
        raise TrainingError(
            f"the uplink-budget of {task.uplink_budget} bytes asks for {uplink!r}, and scheme {scheme.name} has its "
            f"steps from {config.compressor}: raise the budget, or run scheme 'direct'"
        )
    return uplink


def fitting(compressor: Compressor, size: int, budget: int) -> Compressor:
    """`compressor`, with a smaller fraction if the payload of `size` coordinates could be longer than `budget` bytes.

    A compressor without a fraction to choose is given back as it is: see `check_budget`. TrainingError where not even
    one coordinate fits.
    """
    most = longest(compressor, size)
    if most is None or most <= budget:
        return compressor
    fits, too_many = 0, _kept(compressor, size)
    while too_many - fits > 1:
        count = (fits + too_many) // 2
        length = longest(_keeping(compressor, count, size), size)
        fits, too_many = (count, too_many) if length is not None and length <= budget else (fits, count)
    if fits == 0:
        raise TrainingError(f"uplink-budget of {budget} bytes does not hold a payload of one coordinate")
    return _keeping(compressor, fits, size)


def check_budget(payloads: Sequence[bytes], compressor: Compressor, task: TrainTask) -> None:
    """TrainingError if `payloads` together are over the budget that the task has, if it has one."""
    if task.uplink_budget and (length := sum(map(len, payloads))) > task.uplink_budget:
        raise TrainingError(
            f"an update of {length} bytes is over the uplink-budget of {task.uplink_budget}, and {compressor!r} has no "
            "fraction to choose; TopK(fraction=…), RandK(fraction=…) and MLMC(TopK(fraction=…)) have one"
        )


def longest(compressor: Compressor, size: int) -> int | None:
    """A bound on the bytes of a payload of `size` coordinates; None where the compressor has no fraction."""
    kept = _kept(compressor, size)
    if not kept:
        return None
    kept = min(kept * (compressor.draws if isinstance(compressor, MLMC) else 1), size)
    value_bytes = 2 if getattr(compressor, "values", "float32") == "bfloat16" else 4
    if isinstance(compressor, RandK):
        return _FRAME + value_bytes * kept
    # Rice code of gaps: with b low bits, b = ⌊log2 mean⌋, a gap takes at most b + 3 bits, and log2 is concave.
    bits = kept * (math.log2(1 + size / kept) + 3)
    return _FRAME + min(4 * size, value_bytes * kept + math.ceil(bits / 8) + 2 * math.ceil(kept / 4096))


def _kept(compressor: Compressor, size: int) -> int:
    """Coordinates that a draw keeps; 0 where that is not an option of the compressor."""
    inner = compressor.ladder if isinstance(compressor, MLMC) else compressor
    if isinstance(inner, TopK):  # growing groups do not end at the fraction
        return num_kept(inner, size) if inner.growth == 1 or inner is compressor else 0
    return num_kept(inner, size) if isinstance(inner, RandK) else 0


def _keeping(compressor: Compressor, count: int, size: int) -> Compressor:
    if isinstance(compressor, MLMC):
        return replace(compressor, ladder=_keeping(compressor.ladder, count, size))  # type: ignore[arg-type]
    assert isinstance(compressor, TopK | RandK)
    return replace(compressor, fraction=count / size, count=None)
