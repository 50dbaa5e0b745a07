"""A ladder's increments cut into buckets of neighbouring coordinates, each of which draws a level of its own.

One level for a whole vector makes single steps huge: all coordinates of a digit, or a whole group of Top-k, stand or
fall together. With Δ_bl for what level l adds within bucket b, drawn with p_bl ∝ ‖Δ_bl‖, the second moment is
Σ_b (Σ_l ‖Δ_bl‖)², which by Minkowski's inequality is at most the (Σ_l ‖Δ_l‖)² of one draw for all: buckets never cost
variance.

>>> pieces = Pieces(2, np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([3.0, 1.0, 2.0]), np.ones(3))
>>> pieces.adaptive()
array([0.75, 0.25, 1.  ])
>>> pieces.drawn(pieces.adaptive(), np.array([0.8, 0.1]))
array([1, 2])
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ..blocks import Block


@dataclass(frozen=True, eq=False)
class Pieces:
    """What each level has in each bucket, where that is not zero: bucket after bucket, levels rising, all (pieces,)."""

    num_buckets: int
    buckets: np.ndarray
    """Numbers from 0 on."""
    levels: np.ndarray
    """Numbers from 1 on."""
    norms: np.ndarray
    """float64 ‖Δ_bl‖."""
    bits: np.ndarray
    """float64 expected bits of each."""

    def adaptive(self) -> np.ndarray:
        """(pieces,) p_bl = ‖Δ_bl‖ / Σ_l ‖Δ_bl‖, which makes the second moment smallest."""
        sums = np.bincount(self.buckets, self.norms, self.num_buckets)
        return self.norms / sums[self.buckets]

    def fixed(self, prior: np.ndarray) -> np.ndarray:
        """(pieces,) a level's own chance in each bucket; what is left of 1 there goes to levels that are zero."""
        return prior[self.levels - 1]

    def drawn(self, chances: np.ndarray, points: np.ndarray) -> np.ndarray:
        """(buckets,) the piece of each bucket under its uniform point in [0, 1); −1 where none lies there."""
        ends = np.cumsum(chances)
        firsts = np.searchsorted(self.buckets, np.arange(self.num_buckets + 1))
        before = np.append(0.0, ends)[firsts]
        places = np.searchsorted(ends, before[:-1] + points, side="right")
        # What rounding leaves beyond the last end belongs to the last piece.
        left = 1 - (before[1:] - before[:-1])
        places = np.where((places >= firsts[1:]) & (left < _ROUNDING), firsts[1:] - 1, places)
        return np.where((firsts[:-1] <= places) & (places < firsts[1:]), places, -1)

    def second_moment(self, chances: np.ndarray) -> float:
        """E‖Σ_b Δ_bl / p_bl‖² of one draw a bucket."""
        return float((self.norms**2 / chances).sum())


class Buckets(ABC):
    """One ladder against one vector, in stretches of `bucket` coordinates; the last one may be shorter."""

    size: int
    bucket: int
    pieces: Pieces

    @abstractmethod
    def estimate(self, levels: np.ndarray, factors: np.ndarray) -> tuple[Block, ...]:
        """The base, and of each bucket b its part of the increment of `levels[b]` times `factors[b]`, as blocks.

        Both are of shape (buckets,); level 0 means none.
        """


def num_buckets(size: int, bucket: int) -> int:
    """How many buckets a vector of `size` coordinates has."""
    return -(-size // bucket)


_ROUNDING = 1e-6
