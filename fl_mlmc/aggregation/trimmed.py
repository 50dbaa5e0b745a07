"""Coordinate-wise median and trimmed mean over the clients that hold a coordinate.

Yin, Chen, Ramchandran, Bartlett (ICML 2018), arXiv 1803.01498, Definitions 1 and 2. Clients weigh the same: a weight
would be what a client says of itself. Memory is that of all updates of a round together.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import Payload
from ..submodels.plan import IndexPlan
from .base import Aggregation, Setting
from .fold import LARGEST, Fold, Mean

_STRETCH = 1 << 16  # coordinates sorted at a time


@dataclass(frozen=True)
class Trimmed(Aggregation):
    """The mean of the middle after `trim` of the values are cut at each end, above 0 and at most 0.5.

    0.5 is the median: all but the middle one or two are cut. ValueError if `trim` is out of range.
    """

    trim: float

    def __post_init__(self) -> None:
        if not 0 < self.trim <= 0.5:
            raise ValueError(f"a trimmed mean cuts above 0 and at most 0.5 at each end, got {self.trim}")

    def start(self, size: int, largest: float = LARGEST) -> Fold:
        """An empty `TrimmedMean`."""
        return TrimmedMean(size, self.trim, largest)

    def check(self, setting: Setting) -> None:
        """It needs whole updates, and a server that steps by their mean alone."""
        what = f"aggregation {str(self)!r}"
        if not setting.compressor.is_whole:
            raise ValueError(
                f"{what} needs updates that are whole in every coordinate, and of {type(setting.compressor).__name__} "
                "most are zero or rescaled, or may be: the median of these is not that of the updates. Use one of "
                "Identity(), Natural() and ladders that round, such as FixedPoint(bits=8) or RTN(bits=8)"
            )
        setting.need_direct(what, "its memories are kept by the mean of all messages")

    def __str__(self) -> str:
        return "median" if self.trim == 0.5 else f"trimmed-mean:{self.trim!r}"


class TrimmedMean(Fold):
    """Of each coordinate's c values, ⌊trim · c⌋ are cut at each end, but the middle one or two always stay.

    Weights are not looked at. With no more liars among the holders of a coordinate than are cut at an end, its mean
    lies within the honest values.
    """

    def __init__(self, size: int, trim: float, largest: float = LARGEST) -> None:
        super().__init__(size, largest)
        self._trim = trim
        self._updates: list[tuple[IndexPlan, Tensor]] = []

    def take(
        self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None, only: Tensor | None
    ) -> None:
        """Keep it until the mean is asked for."""
        self._updates.append((plan, payload.dense().cpu()))

    def _mean(self) -> Mean:
        values = torch.full((len(self._updates), self._size), torch.inf)
        for row, (plan, update) in zip(values, self._updates, strict=True):
            held = torch.zeros(self._size)
            plan.scatter_add(held, torch.ones(1).expand(plan.size))
            own = torch.zeros(self._size)
            plan.scatter_add(own, update)
            torch.where(held > 0, own, row, out=row)
        counts = (values < torch.inf).sum(0)
        update = torch.zeros(self._size)
        if self._updates:
            for start in range(0, self._size, _STRETCH):
                part = slice(start, start + _STRETCH)
                update[part] = trimmed_mean(values[:, part], counts[part], self._trim)
        return Mean(update, counts.int())


def trimmed_mean(values: Tensor, counts: Tensor, trim: float) -> Tensor:
    """(d,) the trimmed mean of each column of `values` (n, d), of which the `counts` (d,) least are values.

    The others are +inf. Zero where the count is. What is cut has no part in any sum: with no more than ⌊trim · c⌋ liars
    among the c values of a column, the mean lies within the honest ones, whatever the liars say.
    """
    ordered = np.sort(np.ascontiguousarray(values.numpy().T), axis=1)  # ten times as fast as torch's of columns
    count = counts.numpy()[:, None]
    cut = np.minimum(np.floor(count * trim + 1e-9).astype(np.int64), np.maximum(count - 1, 0) // 2)
    rank = np.arange(ordered.shape[1])
    ordered[(rank < cut) | (rank >= count - cut)] = 0.0
    # Float64 holds the sum of millions of float32 values far below their last digit.
    total = ordered.sum(1, dtype=np.float64)
    return torch.from_numpy((total / np.maximum(count - 2 * cut, 1)[:, 0]).astype(np.float32))
