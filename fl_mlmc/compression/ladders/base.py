"""Ladders: families of biased compressors C^1, …, C^L that end in the identity, C^L(v) = v.

Level l's increment is C^l(v) − C^(l−1)(v); the increments (and the base C^0, where it is not zero) sum to v. A biased
compressor is a ladder plus the level it stops at; `MLMC` makes an unbiased one of the same ladder.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from ..blocks import Block, Payload
from ..compressors.base import Compressed, Compressor
from ..pointwise import energy
from .buckets import Buckets
from .joint import joined


class Rungs(ABC):
    """One ladder standing against one vector. Lazy: nothing is built before it is asked for.

    Only `size`, `num_levels` and `increment` have to be given; the rest has plain definitions that a ladder can better.
    """

    size: int
    num_levels: int
    base: Block | None = None
    """C^0(v), always sent; None where it is zero."""
    orthogonal: bool = False
    """Whether increments never share a coordinate."""
    sends_floats: bool = False
    """Whether every increment is float values, and there is no base."""
    base_bits: float = 0.0
    """Expected bits of the base."""

    def norms(self) -> np.ndarray:
        """(L,) float64 ‖C^l(v) − C^(l−1)(v)‖₂; may be rough, but zero only where the increment is zero."""
        return np.array([energy(self.increment(level).dense()) ** 0.5 for level in range(1, self.num_levels + 1)])

    def exact_norms(self) -> np.ndarray:
        """`norms` to float64's precision, however long that takes."""
        return self.norms()

    def costs(self) -> np.ndarray:
        """(L,) float64 expected bits of each increment."""
        return np.full(self.num_levels, 32.0 * self.size)

    def prior(self) -> np.ndarray:
        """(L,) the best level probabilities that do not look at the vector, for `probabilities="fixed"`."""
        return np.full(self.num_levels, 1 / self.num_levels)

    @abstractmethod
    def increment(self, level: int) -> Block:
        """C^l(v) − C^(l−1)(v) for l = 1 … L."""

    def cut(self, bucket: int) -> Buckets:
        """The increments in stretches of `bucket` coordinates; ValueError where the ladder has no buckets."""
        raise ValueError(f"{type(self).__name__} does not say what its increments are in buckets")

    def estimate(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        """The base plus factor · increment(l) for each level l in `factors`, as blocks."""
        base = () if self.base is None else (self.base,)
        return joined((*base, *(self.increment(level).scaled(factor) for level, factor in sorted(factors.items()))))

    def rung(self, level: int) -> tuple[Block, ...]:
        """C^l(v) as blocks: the base and the increments up to `level`, unless the ladder has a shorter form."""
        return self.estimate(dict.fromkeys(range(1, level + 1), 1.0))


class Ladder(Compressor):
    """A family of biased compressors; used alone, the member at level `stop`."""

    is_unbiased = False
    stop: int = 1
    """The level at which it stops alone."""
    adapts: bool = False
    """Whether its levels are made for a vector and for chances that look at it, so that no others do."""
    rescales = False  # alone, nothing of it is drawn
    has_buckets: bool = False
    """Whether its rungs know their increments in buckets (`Rungs.cut`), for `MLMC(…, bucket=…)`."""
    draws: bool = False
    """Whether something of it is drawn even alone: its values are quantised then. `MLMC` takes no such ladder."""

    @abstractmethod
    def climb(self, vector: Tensor) -> Rungs:
        """The ladder against one vector."""

    def worst_draw(self, size: int, probabilities: str) -> float | None:
        """The least known ω of C^0(v) + (C^l(v) − C^(l−1)(v)) / p_l, one level drawn by a rule of `MLMC`.

        None where no bound is known: increments may then oppose each other, and exceed the vector.
        """
        return None

    def left_at(self, size: int, level: int) -> float | None:
        """The least known share of ‖v‖² that ‖v − C^level(v)‖² may be; None where no bound is known."""
        return None

    def group(self, size: int) -> int | None:
        """The most coordinates of an increment, of `size`, where an option sets that number; None elsewhere."""
        return None

    def with_group(self, count: int, size: int) -> "Ladder":
        """The ladder whose `group` of `size` coordinates is `count`; ValueError where no option sets it."""
        raise ValueError(f"{self!r} has no option for how many coordinates an increment holds")

    def bias_and_variance(self, size: int) -> tuple[float, float] | None:
        """(√(1−α), 0): nothing is drawn, so all of the error is bias."""
        if self.is_unbiased:
            return super().bias_and_variance(size)
        alpha = self.contraction(size)
        return None if alpha is None else (math.sqrt(1 - alpha), 0.0)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """C^stop(v), for which nothing is drawn."""
        rungs = self.climb(vector)
        bits = self.stop_bits(rungs)
        return Compressed(Payload(rungs.size, rungs.rung(self.stop)), bits)

    def stop_bits(self, rungs: Rungs) -> float:
        """Expected bits of C^stop(v) alone."""
        return rungs.base_bits + float(rungs.costs()[: self.stop].sum())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """The only one."""
        rungs = self.climb(vector)
        yield 1.0, Payload(rungs.size, rungs.rung(self.stop))
