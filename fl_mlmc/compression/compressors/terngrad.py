"""TernGrad: random rounding of v / max|v| to −1, 0 or 1. Wen et al., NeurIPS 2017, arXiv 1705.07878, eq. (3)."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..pointwise import peak
from .rounding import LatticeRounding, worst_below_peak


@dataclass(frozen=True, repr=False)
class TernGrad(LatticeRounding):
    """Round to max|v| · {−1, 0, 1}; ω(v) = max|v| · ‖v‖₁ / ‖v‖² − 1 ≤ (√d − 1) / 2."""

    def grid(self, vector: Tensor) -> tuple[float, int]:
        """(max|v|, 1)."""
        return peak(vector), 1

    # `rescales` stays True: every coordinate is sent as max|v| with the chance |v_j| / max|v|, or not at all.

    def worst_omega(self, size: int) -> float:
        """(√d − 1) / 2, attained by one entry of 1 and others of 1 / (1 + √d)."""
        return worst_below_peak(size, 1)

    @property
    def bits_per_entry(self) -> float:
        """log2 3."""
        return math.log2(3)
