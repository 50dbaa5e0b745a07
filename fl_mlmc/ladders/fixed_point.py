"""Fixed-point ladder: level l adds the l-th binary digit of every |v_j| / max|v|.

arXiv 2507.05508, section 3.1: with e = |v| / max|v| = Σ b_l 2^−l, the increment is sign · b_l · 2^−l · max|v|, a bit
plane. After `bits` planes the ladder ends with what they leave, so C^L = v. The best fixed probabilities are p_l = 2^−l
(Lemma 3.3) and 2^−bits for the end; every plane is then sent as 0 or ±max|v|, TernGrad's law a coordinate.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..blocks import DenseBlock, Lattice, SymbolBlock
from ..pointwise import EXACT_BELOW, energy, peak, pointwise, tally
from .base import Ladder, Rungs

_DIGITS = 12  # that share a histogram


@dataclass(frozen=True, repr=False)
class FixedPoint(Ladder):
    """Keep the first `bits` binary digits, 1 to 24, of each coordinate as a share of the largest one."""

    bits: int = 24

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 24:
            raise ValueError(f"FixedPoint's bits is a whole number from 1 to 24, got {self.bits!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        return self.bits

    def stop_bits(self, rungs: Rungs) -> float:
        return (1.0 + self.bits) * rungs.size + 32

    def climb(self, vector: Tensor) -> "FixedPointRungs":
        return FixedPointRungs(vector, self.bits)


class FixedPointRungs(Rungs):
    """The bit planes of one vector, and what they leave."""

    def __init__(self, vector: Tensor, bits: int) -> None:
        self.size = vector.numel()
        self.num_levels = bits + 1
        self._vector, self._bits = vector, bits
        self._peak = peak(vector)
        self._is_tiny = self._peak <= 1e-30
        self._largest_share = 1 - 2.0**-bits

    def norms(self) -> np.ndarray:
        if self.size < EXACT_BELOW:
            return self.exact_norms()
        # Late planes have a one for about half of the coordinates, and what the last of them leaves is uniform.
        ones = self._num_ones(min(self._bits, _DIGITS))
        nonzero = float(torch.count_nonzero(self._vector))
        ones = [*ones, *[nonzero / 2] * (self._bits - len(ones)), nonzero / 3]
        return self._peak * 2.0 ** -np.append(np.arange(1, self.num_levels), self._bits) * np.sqrt(ones)

    def exact_norms(self) -> np.ndarray:
        planes = self._peak * 2.0 ** -np.arange(1, self.num_levels) * np.sqrt(self._num_ones(self._bits))
        return np.append(planes, energy(self._rest()) ** 0.5)

    def costs(self) -> np.ndarray:
        plane = 2.0 * self.size + 32 + np.ceil(np.log2(self.num_levels))
        return np.array([plane] * self._bits + [32.0 * self.size])

    def prior(self) -> np.ndarray:
        return 2.0 ** -np.append(np.arange(1, self.num_levels), self._bits)

    def increment(self, level: int) -> SymbolBlock | DenseBlock:
        if level > self._bits:
            return DenseBlock(self._rest())
        return SymbolBlock(self._plane(level), Lattice(3, self._peak * 2.0**-level, -1))

    def rung(self, level: int) -> tuple[SymbolBlock | DenseBlock, ...]:
        if level > self._bits:
            return (DenseBlock(self._vector),)
        top = 2**level
        if level > 14 and self._peak < 2.0 ** (level - 126):  # a step of so few digits that they would show
            return (DenseBlock(pointwise(lambda v: self._truncated(v, level).float(), torch.float32, self._vector)),)
        symbols = pointwise(
            lambda v: self._digits(v, level).copysign_(v).add_(top - 1),
            torch.uint8 if level <= 7 else torch.int16 if level <= 14 else torch.int32,
            self._vector,
            kernel=self._kernel("digits", level, top - 1.0),
        )
        return (SymbolBlock(symbols, Lattice(2 * top - 1, self._peak * 2.0**-level, 1 - top)),)

    def _plane(self, level: int) -> Tensor:
        """1 + sign · b_l as uint8."""
        return pointwise(
            lambda v: 1 + (self._digits(v, level).int() & 1) * v.sign().int(),
            torch.uint8,
            self._vector,
            kernel=self._kernel("plane", level),
        )

    def _kernel(self, name: str, level: int, *more: float) -> tuple | None:
        return None if self._is_tiny else (name, 1 / self._peak, self._largest_share, 2.0**level, *more)

    def _digits(self, part: Tensor, level: int) -> Tensor:
        """The first `level` binary digits of each share, as a whole number in float32."""
        # The largest share is 1, one digit too many: it is cut short, and the last level makes up for that.
        # The reciprocal of a tiny peak is infinite in float32, so tiny vectors are divided.
        shares = (part.double().abs() / (self._peak or 1.0)).float() if self._is_tiny else part.abs() * (1 / self._peak)
        return shares.clamp_(max=self._largest_share).mul_(2.0**level).floor_()

    def _num_ones(self, planes: int) -> list[float]:
        """How many ones each of the first planes has, from histograms of several digits together."""
        ones: list[float] = []
        while len(ones) < planes:
            level = min(len(ones) + _DIGITS, planes)
            width = level - len(ones)
            groups = pointwise(
                lambda v, level=level, width=width: self._digits(v, level).int() & (1 << width) - 1,
                torch.int16,
                self._vector,
                kernel=self._kernel("last_digits", level, (1 << width) - 1),
            )
            counts = tally(groups, 1 << width)
            digits = np.arange(counts.size)
            ones += [float(counts @ (digits >> bit & 1)) for bit in reversed(range(width))]
        return ones

    def _truncated(self, part: Tensor, level: int) -> Tensor:
        return self._digits(part, level).double() * (self._peak * 2.0**-level) * part.sign()

    def _rest(self) -> Tensor:
        return pointwise(lambda v: (v.double() - self._truncated(v, self._bits)).float(), torch.float32, self._vector)
