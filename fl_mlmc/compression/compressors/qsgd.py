"""QSGD: random rounding of v / ‖v‖₂ to multiples of 1/levels. Alistarh et al., NeurIPS 2017, arXiv 1610.02132."""

import math
from dataclasses import dataclass

from torch import Tensor

from ..pointwise import energy
from .rounding import LatticeRounding


@dataclass(frozen=True, repr=False)
class QSGD(LatticeRounding):
    """Round to ‖v‖₂ · {−s, …, s} / s with s = `levels`, 1 to 16383; ω(v) ≤ min(d / 4s², √d / s)."""

    levels: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.levels, int) or not 1 <= self.levels <= 16383:
            raise ValueError(f"QSGD's levels is a whole number from 1 to 16383, got {self.levels!r}")

    def grid(self, vector: Tensor) -> tuple[float, int]:
        """(‖v‖₂ / s, s)."""
        return energy(vector) ** 0.5 / self.levels, self.levels

    # `rescales` stays True: from s² coordinates on most lie below one step, and travel as the step over their chance.

    def worst_omega(self, size: int) -> float:
        """min(d / 4s², √d / s): Lemma 3.1 of the paper, but for its d / s², as p(1 − p) is at most 1/4.

        The first is attained where all entries are half a step off the lattice.
        """
        return min(size / (4 * self.levels**2), math.sqrt(size) / self.levels)

    @property
    def bits_per_entry(self) -> float:
        """A sign and a whole number up to s, 1 + ⌈log2(s + 1)⌉: the paper's formula before Elias coding."""
        return 1.0 + math.ceil(math.log2(self.levels + 1))
