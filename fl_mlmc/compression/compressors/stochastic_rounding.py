"""Uniform quantisation between −max|v| and max|v| with random rounding: the fair rival of MLMC over RTN."""

from dataclasses import dataclass

from torch import Tensor

from ..pointwise import peak
from .rounding import LatticeRounding, worst_below_peak


@dataclass(frozen=True, repr=False)
class StochasticRounding(LatticeRounding):
    """Round at random to one of 2^bits − 1 values, zero among them, 2 to 14 bits; with 2 bits this is TernGrad."""

    bits: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 2 <= self.bits <= 14:
            raise ValueError(f"StochasticRounding's bits is a whole number from 2 to 14, got {self.bits!r}")

    def grid(self, vector: Tensor) -> tuple[float, int]:
        """(max|v| / h, h) with h = 2^(bits−1) − 1."""
        return peak(vector) / self._half, self._half

    def worst_omega(self, size: int) -> float:
        """(√(1 + (d−1)/h²) − 1) / 2 with h = 2^(bits−1) − 1, attained as TernGrad's."""
        return worst_below_peak(size, self._half)

    @property
    def rescales(self) -> bool:
        """With 2 bits, where it is TernGrad; else a coordinate goes no further than to its neighbour of many."""
        return self._half == 1

    @property
    def _half(self) -> int:
        return int(2 ** (self.bits - 1) - 1)

    @property
    def bits_per_entry(self) -> float:
        """`bits`."""
        return float(self.bits)
