"""Entropy-constrained uniform quantisation: level b rounds to the finest uniform lattice of at most b bits of entropy.

Dorfman, Vargaftik, Ben-Itzhak, Levy: DoCoFL, ICML 2023, arXiv 2302.00543 (ECUQ). K bins of width Δ = (max − min) / K,
values at their centres; K is the largest whose letters carry an empirical entropy of at most b bits. The paper on MLMC
names it as a ladder; here its levels are b = 1, 2, …, and then the vector itself.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..blocks import Lattice
from ..wire.symbols import most_together
from .base import Ladder, Rungs
from .lattice import Bins, LatticeRungs

_CODING = 0.02  # share of the bits left to the entropy coder, so that payloads keep to them too
_MOST = 1 << 14  # the most bins that the search may choose
_HEADER, _DESCRIPTION = 800, 12  # bits of a code's description, once and for each letter


@dataclass(frozen=True, repr=False)
class ECUQ(Ladder):
    """Round to a uniform lattice whose letters take `bits` bits each, 1 to 10, once they are entropy-coded."""

    bits: int = 4

    is_quantiser = True
    is_whole = True  # within a quarter of the span between least and largest coordinate

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 10:
            raise ValueError(f"ECUQ's bits is a whole number from 1 to 10, got {self.bits!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        """The level of `bits` bits."""
        return self.bits

    def stop_bits(self, rungs: Rungs) -> float:
        """`bits` a coordinate, and 64 for the least value and the width of a bin."""
        return 64.0 + self.bits * rungs.size

    def contraction(self, size: int) -> float | None:
        """1 − d / (2 · 4^bits): 2^bits bins or more leave (max − min) / 2^(bits+1) each, and ‖v‖² ≥ (max − min)² / 2.

        None where that is not positive: zero need not be the middle of a bin, so that many zeros may grow.
        """
        alpha = 1 - size / (2 * 4**self.bits)
        return alpha if alpha > 0 else None

    def climb(self, vector: Tensor) -> "ECUQRungs":
        """Levels of 1, 2, …, `bits` bits, each with as many bins as its entropy allows, and the vector itself."""
        low, high = (float(end) for end in torch.aminmax(vector))
        if (high - low) / _MOST < 1e-37:
            return ECUQRungs(vector, [Lattice(1, 1.0, 0, low)] * self.bits)
        bins = Bins.of(vector, low, high)
        lattices = [_lattice(bins.counts, bits, low, high) for bits in range(1, self.bits + 1)]
        return ECUQRungs(vector, lattices, bins)


class ECUQRungs(LatticeRungs):
    """Lattices of at most 1, 2, … bits of entropy over one vector."""

    def costs(self) -> np.ndarray:
        """(L,) bits of two lattices' letters and their table; 32 a coordinate at the top."""
        bits = np.arange(1, self.num_levels)
        # Letters of this level and the one before, as if coded apart (DoCoFL codes one of them).
        letters = [1, *(lattice.count for lattice in self._lattices)]
        tables = 32.0 * np.minimum([before + after for before, after in pairwise(letters)], self.size)
        coded = 64 + tables + self.size * (2.0 * bits - 1)
        return np.append(np.minimum(coded, 32.0 * self.size), 32.0 * self.size)


def _lattice(counts: np.ndarray, bits: int, low: float, high: float) -> Lattice:
    """The largest K that keeps to `bits`, by doubling, then bisection; 2^bits letters need no coder to keep to it."""
    allowed = bits * (1 - _CODING) - _HEADER / counts.sum()
    good = 2**bits
    while good < _MOST and _coded_bits(counts, min(2 * good, _MOST)) <= allowed:
        good = min(2 * good, _MOST)
    bad = min(2 * good, _MOST + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if _coded_bits(counts, middle) <= allowed else (good, middle)
    step = (high - low) / good
    return Lattice(good, step, 0, low + step / 2)


def _coded_bits(counts: np.ndarray, num_bins: int) -> float:
    """Bits a letter: entropy, of low and high bytes apart where they are coded so, and the code's own description."""
    merged = np.add.reduceat(counts, np.arange(num_bins) * counts.size // num_bins)
    described = _DESCRIPTION * float(np.count_nonzero(merged)) / counts.sum()
    if num_bins <= most_together(int(counts.sum())):
        return described + _entropy(merged)
    pages = np.append(merged, np.zeros(-num_bins % 256, np.int64)).reshape(-1, 256)
    return described + _entropy(pages.sum(axis=0)) + _entropy(pages.sum(axis=1))


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
