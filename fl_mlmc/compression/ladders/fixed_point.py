"""Fixed-point ladder: level l adds the l-th binary digit of every |v_j| / max|v|.

arXiv 2507.05508, section 3.1: with e = |v| / max|v| = Σ b_l 2^−l, the increment is sign · b_l · 2^−l · max|v|, a bit
plane. After `bits` planes the ladder ends with what they leave, so C^L = v. The best fixed probabilities are p_l = 2^−l
(Lemma 3.3) and 2^−bits for the end; every plane is then sent as 0 or ±max|v|, TernGrad's law a coordinate.

With a `unit`, e = |v| / (unit · rms) and whole numbers of units are a base C^0 that always travels; levels are the
digits behind the point. With fixed probabilities a plane is worth one unit, so base and plane have one letter between
them, and a coordinate goes to a neighbour on the lattice of units. That is QSGD's law with √d / unit levels: ω is at
most unit² / 4 for every vector, whatever its length and its largest entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Lattice, SymbolBlock
from ..compressors.rounding import worst_below_peak
from ..pointwise import EXACT_BELOW, energy, peak, pointwise, tally
from ..probabilities import cost_excess, largest_moment
from .base import Ladder, Rungs
from .fixed_point_buckets import FixedPointBuckets
from .lattice import peak_contraction

_DIGITS = 12  # that share a histogram
_MOST_LETTERS = 2**30  # of a digit: more are written as float32
_MOST_UNITS = 2**13
_SHORTEST_UNIT = 1e-37  # shorter ones have no digits left in float32


@dataclass(frozen=True, repr=False)
class FixedPoint(Ladder):
    """Keep the first `bits` binary digits, 1 to 24, of each coordinate as a share of the largest one.

    Or as a multiple of `unit` root mean squares: digits behind the point, after the whole multiples. The largest
    coordinate counts 8192 units at most; a unit is longer where it would be more.
    """

    bits: int = 24
    unit: float | None = None

    is_quantiser = True
    has_buckets = True
    is_whole = True  # within 2^−bits of the largest coordinate, or of the unit

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 24:
            raise ValueError(f"FixedPoint's bits is a whole number from 1 to 24, got {self.bits!r}")
        if self.unit is not None and not (isinstance(self.unit, int | float) and 0 < self.unit < float("inf")):
            raise ValueError(f"FixedPoint's unit is a positive number of root mean squares, got {self.unit!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        """The level of `bits` digits."""
        return self.bits

    def stop_bits(self, rungs: Rungs) -> float:
        """A sign and `bits` digits a coordinate, those of whole units too, and 32 for the unit."""
        return (rungs.base_bits or rungs.size + 32.0) + self.bits * rungs.size

    def contraction(self, size: int) -> float | None:
        """(4^b − 1) / (4^b + d − 1), b = `bits`: at worst one entry and others, all of them just short of a digit.

        With a unit u, 1 − u² / 4^b: no entry is off by 2^−b units or more. None where that is not positive. Where the
        unit is an 8192nd of the largest entry, it is as without one and with 13 digits more.
        """
        if self.unit is None:
            return peak_contraction(size, 4**self.bits)
        alpha = min(1 - self.unit**2 / 4**self.bits, peak_contraction(size, 4**self.bits * _MOST_UNITS**2))
        return alpha if alpha > 0 else None

    def worst_draw(self, size: int, probabilities: str) -> float:
        """With fixed chances (√d − 1) / 2, TernGrad's; with a unit u, u² / 4, whatever d is.

        A coordinate's variance is at most unit² / 4 then, which flat vectors attain with u = 2. Where the unit is an
        8192nd of the largest entry, it is that of rounding to 8192 steps. Adaptive chances do no worse, and those by
        cost by no more than `cost_excess`. Digits never oppose each other, so it is never above `largest_moment` − 1:
        `bits` with adaptive chances, 2^bits − 1 with fixed ones.
        """
        rungs = self.climb(torch.ones(size))
        best = worst_below_peak(size, 1)
        if self.unit is not None:
            best = max(self.unit**2 / 4, worst_below_peak(size, _MOST_UNITS))
        if probabilities == "cost":
            best = (1 + best) * cost_excess(rungs.costs()) - 1
        return min(best, largest_moment(probabilities, rungs.prior(), rungs.costs()) - 1)

    def climb(self, vector: Tensor) -> "FixedPointRungs":
        """Digits of |v_j| / max|v|, or behind the point of |v_j| / (unit · rms)."""
        largest = peak(vector)
        if self.unit is None:
            return FixedPointRungs(vector, self.bits, largest, 0)
        unit = max(self.unit * (energy(vector) / vector.numel()) ** 0.5, largest / _MOST_UNITS, _SHORTEST_UNIT)
        return FixedPointRungs(vector, self.bits, unit, int(largest / unit))


class FixedPointRungs(Rungs):
    """The digits of one vector in units of `unit`, and what they leave; coordinates have up to `most` whole units."""

    def __init__(self, vector: Tensor, bits: int, unit: float, most: int) -> None:
        self.size = vector.numel()
        self.num_levels = bits + 1
        self.base_bits = self.size * (1.0 + most.bit_length()) + 32 if most else 0.0
        self.vector, self._bits, self.unit, self.most = vector, bits, unit, most
        # The reciprocal of a tiny unit is infinite in float32, so tiny vectors are divided.
        self._is_tiny = unit <= 1e-30
        # The largest coordinate may be a whole unit, one digit too many: it is cut short, and the last level makes up.
        self._largest = float(np.nextafter(np.float32(most + 1), np.float32(0)))

    @property
    def base(self) -> Block | None:  # type: ignore[override]
        """Whole units with their signs; None without a `unit`, or where no coordinate has any."""
        return self.rung(0)[0] if self.most else None

    def norms(self) -> np.ndarray:
        """(L,) of planes and of the rest; for long vectors the planes from the 13th on are taken as half ones."""
        if self.size < EXACT_BELOW:
            return self.exact_norms()
        # Late planes have a one for about half of the coordinates, and what the last of them leaves is uniform.
        ones = self._num_ones(min(self._bits, _DIGITS))
        nonzero = float(torch.count_nonzero(self.vector))
        ones = [*ones, *[nonzero / 2] * (self._bits - len(ones)), nonzero / 3]
        return self.unit * 2.0 ** -np.append(np.arange(1, self.num_levels), self._bits) * np.sqrt(ones)

    def exact_norms(self) -> np.ndarray:
        """(L,) with the ones of every plane counted."""
        planes = self.unit * 2.0 ** -np.arange(1, self.num_levels) * np.sqrt(self._num_ones(self._bits))
        return np.append(planes, energy(self._rest()) ** 0.5)

    def costs(self) -> np.ndarray:
        """(L,) 2 bits a coordinate for a plane, 32 for its unit and the level's number; 32 a coordinate at the top."""
        plane = 2.0 * self.size + 32 + np.ceil(np.log2(self.num_levels))
        return np.array([plane] * self._bits + [32.0 * self.size])

    def prior(self) -> np.ndarray:
        """(L,) 2^−l (Lemma 3.3), and 2^−bits for the rest."""
        return 2.0 ** -np.append(np.arange(1, self.num_levels), self._bits)

    def increment(self, level: int) -> SymbolBlock | DenseBlock:
        """Symbols −1, 0, 1 times unit · 2^−level; at the top a dense block of what all digits leave."""
        if level > self._bits:
            return DenseBlock(self._rest())
        return SymbolBlock(self._plane(level), Lattice(3, self.unit * 2.0**-level, -1))

    def estimate(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        """As blocks; base and one plane as one block, where the plane is worth a whole unit."""
        if self.most and len(factors) == 1:
            [(level, factor)] = factors.items()
            if level <= self._bits and factor == 2.0**level:
                kernel = self._kernel("units_and_digit", 2.0**level, float(self.most + 1))
                return (self._letters(lambda v: self._digits(v, 0) + self._digit(v, level), self.most + 1, 0, kernel),)
        return super().estimate(factors)

    def rung(self, level: int) -> tuple[SymbolBlock | DenseBlock, ...]:
        """One block: whole multiples of unit · 2^−level, or a dense one where those have too many letters."""
        if level > self._bits:
            return (DenseBlock(self.vector),)
        most = (self.most + 1) * 2**level - 1
        # A step of few digits would show, where there are many of them.
        if most >= _MOST_LETTERS or (most >= 2**14 and self.unit < 2.0 ** (level - 126)):
            return (DenseBlock(pointwise(lambda v: self._truncated(v, level).float(), torch.float32, self.vector)),)
        return (self._letters(lambda v: self._digits(v, level), most, level, self._kernel("digits", 2.0**level, most)),)

    def _letters(self, digits: Callable[[Tensor], Tensor], most: int, level: int, kernel: tuple | None) -> SymbolBlock:
        """Whole numbers `digits`(v), up to `most`, of unit · 2^−level, each with the sign of its coordinate."""
        dtype = torch.uint8 if 2 * most < 256 else torch.int16 if most < 2**14 else torch.int32
        symbols = pointwise(lambda v: (digits(v) * v.sign()).int() + most, dtype, self.vector, kernel=kernel)
        return SymbolBlock(symbols, Lattice(2 * most + 1, self.unit * 2.0**-level, -most))

    def _plane(self, level: int) -> Tensor:
        """1 + sign · b_l as uint8."""
        kernel = self._kernel("plane", 2.0**level)
        return pointwise(lambda v: 1 + self._digit(v, level) * v.sign().int(), torch.uint8, self.vector, kernel=kernel)

    def cut(self, bucket: int) -> FixedPointBuckets:
        """The digits of stretches of `bucket` coordinates."""
        return FixedPointBuckets(self, bucket)

    def rest(self, part: Tensor) -> Tensor:
        """What all digits leave of some coordinates."""
        return (part.double() - self._truncated(part, self._bits)).float()

    def whole_units(self, part: Tensor) -> Tensor:
        """How many whole units each magnitude has, as float32."""
        return self._digits(part, 0)

    def _digit(self, part: Tensor, level: int) -> Tensor:
        """b_l, as int32."""
        return self.behind_point(part, level) & 1

    def behind_point(self, part: Tensor, level: int) -> Tensor:
        """The first digits behind the point, as int32."""
        # The fraction is exact, and short enough for whole numbers of 32 bits.
        return self._units(part).clamp_(max=self._largest).frac_().mul_(2.0**level).int()

    def _digits(self, part: Tensor, level: int) -> Tensor:
        """Each magnitude in whole multiples of unit · 2^−level, as float32."""
        return self._units(part).clamp_(max=self._largest).mul_(2.0**level).floor_()

    def _num_ones(self, planes: int) -> list[float]:
        """How many ones each of the first planes has, from histograms of several digits together."""
        ones: list[float] = []
        while len(ones) < planes:
            level = min(len(ones) + _DIGITS, planes)
            width = level - len(ones)
            mask = (1 << width) - 1
            groups = pointwise(
                lambda v, level=level, mask=mask: self.behind_point(v, level) & mask,
                torch.int16,
                self.vector,
                kernel=self._kernel("last_digits", 2.0**level, mask),
            )
            counts = tally(groups, 1 << width)
            digits = np.arange(counts.size)
            ones += [float(counts @ (digits >> bit & 1)) for bit in reversed(range(width))]
        return ones

    def _truncated(self, part: Tensor, level: int) -> Tensor:
        return self._digits(part, level).double() * (self.unit * 2.0**-level) * part.sign()

    def _rest(self) -> Tensor:
        return pointwise(self.rest, torch.float32, self.vector)

    def _kernel(self, name: str, *more: float) -> tuple | None:
        return None if self._is_tiny else (name, 1 / self.unit, self._largest, *more)

    def _units(self, part: Tensor) -> Tensor:
        if self._is_tiny:
            return (part.double().abs() / (self.unit or 1.0)).float()
        return part.abs() * (1 / self.unit)
