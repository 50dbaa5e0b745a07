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
from ..pointwise import energy, peak, pointwise
from .base import Ladder, Rungs

_MOST_LETTERS = 2**14  # of a digit with its sign: more are written as floats
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

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 24:
            raise ValueError(f"FixedPoint's bits is a whole number from 1 to 24, got {self.bits!r}")
        if self.unit is not None and not (isinstance(self.unit, int | float) and 0 < self.unit < float("inf")):
            raise ValueError(f"FixedPoint's unit is a positive number of root mean squares, got {self.unit!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        return self.bits

    def stop_bits(self, rungs: Rungs) -> float:
        return rungs.base_bits + (1.0 + self.bits) * rungs.size + 32

    def climb(self, vector: Tensor) -> "FixedPointRungs":
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
        self.base_bits = self.size * float(np.log2(most + 1))
        self._vector, self._bits, self._unit, self._most = vector, bits, unit, most
        # The reciprocal of a tiny unit is infinite in float32, so tiny vectors are divided.
        self._units = (lambda v: v.abs() * (1 / unit)) if unit > 1e-30 else self._tiny_units
        # The largest coordinate may be a whole unit, one digit too many: it is cut short, and the last level makes up.
        self._largest = float(np.nextafter(np.float32(most + 1), np.float32(0)))

    @property
    def base(self) -> Block | None:  # type: ignore[override]
        return self.rung(0)[0] if self._most else None

    def norms(self) -> np.ndarray:
        planes = [
            self._unit * 2.0**-level * float(torch.count_nonzero(self._plane(level) - 1)) ** 0.5
            for level in range(1, self.num_levels)
        ]
        return np.array([*planes, energy(self._rest()) ** 0.5])

    def costs(self) -> np.ndarray:
        plane = 2.0 * self.size + 32 + np.ceil(np.log2(self.num_levels))
        return np.array([plane] * self._bits + [32.0 * self.size])

    def prior(self) -> np.ndarray:
        return 2.0 ** -np.append(np.arange(1, self.num_levels), self._bits)

    def increment(self, level: int) -> SymbolBlock | DenseBlock:
        if level > self._bits:
            return DenseBlock(self._rest())
        return SymbolBlock(self._plane(level), Lattice(3, self._unit * 2.0**-level, -1))

    def estimate(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        if self._most and len(factors) == 1:
            [(level, factor)] = factors.items()
            if level <= self._bits and factor == 2.0**level:
                return (self._letters(lambda v: self._digits(v, 0) + self._digit(v, level), self._most + 1, 0),)
        return super().estimate(factors)

    def rung(self, level: int) -> tuple[SymbolBlock | DenseBlock, ...]:
        if level > self._bits:
            return (DenseBlock(self._vector),)
        most = (self._most + 1) * 2**level - 1
        if most >= _MOST_LETTERS:
            return (DenseBlock(self._truncated(level).float()),)
        return (self._letters(lambda v: self._digits(v, level), most, level),)

    def _letters(self, digits: Callable[[Tensor], Tensor], most: int, level: int) -> SymbolBlock:
        """Whole numbers `digits`(v), up to `most`, of unit · 2^−level, each with the sign of its coordinate."""
        symbols = pointwise(
            lambda v: (digits(v) * v.sign() + most).to(torch.int16),
            torch.uint8 if 2 * most < 256 else torch.int16,
            self._vector,
        )
        return SymbolBlock(symbols, Lattice(2 * most + 1, self._unit * 2.0**-level, -most))

    def _plane(self, level: int) -> Tensor:
        """1 + sign · b_l as uint8."""
        return pointwise(lambda v: 1 + self._digit(v, level) * v.sign().int(), torch.uint8, self._vector)

    def _digit(self, part: Tensor, level: int) -> Tensor:
        """b_l, as int32."""
        units = self._units(part).clamp_(max=self._largest)
        if self._most:
            units = units.frac_()  # exact, and short enough for whole numbers of 32 bits
        return units.mul_(2.0**level).int() & 1

    def _digits(self, part: Tensor, level: int) -> Tensor:
        """Each magnitude in whole multiples of unit · 2^−level, as float32."""
        return self._units(part).clamp_(max=self._largest).mul_(2.0**level).floor_()

    def _truncated(self, level: int) -> Tensor:
        return self._digits(self._vector, level).double() * (self._unit * 2.0**-level) * self._vector.sign()

    def _rest(self) -> Tensor:
        return (self._vector.double() - self._truncated(self._bits)).float()

    def _tiny_units(self, part: Tensor) -> Tensor:
        return (part.double().abs() / (self._unit or 1.0)).float()
