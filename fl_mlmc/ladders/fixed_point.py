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
from ..pointwise import energy, peak, pointwise
from .base import Ladder, Rungs


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
        # The reciprocal of a tiny peak is infinite in float32, so tiny vectors are divided.
        self._shares = (lambda v: v.abs() * (1 / self._peak)) if self._peak > 1e-30 else self._tiny_shares
        self._largest_share = 1 - 2.0**-bits

    def norms(self) -> np.ndarray:
        planes = [
            self._peak * 2.0**-level * float(torch.count_nonzero(self._plane(level) - 1)) ** 0.5
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
        return SymbolBlock(self._plane(level), Lattice(3, self._peak * 2.0**-level, -1))

    def rung(self, level: int) -> tuple[SymbolBlock | DenseBlock, ...]:
        if level > self._bits:
            return (DenseBlock(self._vector),)
        top = 2**level
        if top > 2**14:
            return (DenseBlock(self._truncated(level).float()),)
        symbols = pointwise(
            lambda v: (self._digits(v, level) * v.sign() + (top - 1)).to(torch.int16),
            torch.uint8 if 2 * top - 1 <= 256 else torch.int16,
            self._vector,
        )
        return (SymbolBlock(symbols, Lattice(2 * top - 1, self._peak * 2.0**-level, 1 - top)),)

    def _plane(self, level: int) -> Tensor:
        """1 + sign · b_l as uint8."""
        return pointwise(lambda v: 1 + (self._digits(v, level).int() & 1) * v.sign().int(), torch.uint8, self._vector)

    def _digits(self, part: Tensor, level: int) -> Tensor:
        """The first `level` binary digits of each share, as a whole number in float32."""
        # The largest share is 1, one digit too many: it is cut short, and the last level makes up for that.
        return self._shares(part).clamp_(max=self._largest_share).mul_(2.0**level).floor_()

    def _truncated(self, level: int) -> Tensor:
        return self._digits(self._vector, level).double() * (self._peak * 2.0**-level) * self._vector.sign()

    def _rest(self) -> Tensor:
        return (self._vector.double() - self._truncated(self._bits)).float()

    def _tiny_shares(self, part: Tensor) -> Tensor:
        return (part.double().abs() / (self._peak or 1.0)).float()
