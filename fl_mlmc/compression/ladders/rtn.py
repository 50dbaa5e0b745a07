"""Round-to-nearest ladder: level l rounds to 2^l − 1 or 2^l values between −c and c; the last level is v.

arXiv 2507.05508, section 4: C^l(v) = δ_l · clip(round(v / δ_l), ±⌊(2^l − 1) / 2⌋), δ_l = 2c / (2^l − 1). The paper
leaves open whether zero is a value. "mid-tread" has it (level 1 is then zero), "mid-rise" has 2^l values from −c to c.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..blocks import Lattice
from ..pointwise import peak
from .base import Ladder
from .lattice import LatticeRungs, peak_contraction

Kind = Literal["mid-tread", "mid-rise"]


@dataclass(frozen=True, repr=False)
class RTN(Ladder):
    """Round to the nearest of about 2^bits values, 1 to 14 bits, between −clip and clip.

    `clip` is a positive number or "max", the largest magnitude of the vector.
    """

    bits: int = 8
    clip: float | str = "max"
    kind: Kind = "mid-tread"

    is_quantiser = True

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 14:
            raise ValueError(f"RTN's bits is a whole number from 1 to 14, got {self.bits!r}")
        if self.clip != "max" and not (isinstance(self.clip, int | float) and 0 < self.clip < float("inf")):
            raise ValueError(f"RTN's clip is 'max' or a positive number, got {self.clip!r}")
        if self.kind not in get_args(Kind):
            raise ValueError(f"RTN's kind is one of {get_args(Kind)}, got {self.kind!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        """The level of `bits` bits."""
        return self.bits

    def stop_bits(self, rungs: object) -> float:
        """`bits` a coordinate, and 32 for the step."""
        return 32.0 + self.bits * rungs.size  # type: ignore[attr-defined]

    @property
    def is_whole(self) -> bool:
        """Whether it has two bits: every coordinate is then within a third of the largest; one bit may leave zero."""
        return self.bits > 1

    def contraction(self, size: int) -> float | None:
        """(h² − 1) / (h² + d − 1), h = 2^bits − 1, for "mid-tread"; 1 − (d − 1) / h² for "mid-rise", without a zero.

        None where that is not positive, and for a given `clip`, beyond which everything is lost.
        """
        steps = (2**self.bits - 1) ** 2
        alpha = peak_contraction(size, steps) if self.kind == "mid-tread" else 1 - (size - 1) / steps
        return alpha if self.clip == "max" and alpha > 0 else None

    def climb(self, vector: Tensor) -> LatticeRungs:
        """Lattices of 1, 2, …, `bits` bits between −clip and clip, and the vector itself."""
        limit = peak(vector) if self.clip == "max" else float(self.clip)
        return LatticeRungs(vector, [self._lattice(level, limit) for level in range(1, self.bits + 1)])

    def _lattice(self, level: int, limit: float) -> Lattice:
        step = 2 * limit / (2**level - 1)
        if step < 1e-37:  # also the zero vector: its reciprocal must stay finite
            return Lattice(1, 1.0)
        if self.kind == "mid-rise":
            return Lattice(2**level, step, -(2 ** (level - 1)), step / 2)
        half = (2**level - 1) // 2
        return Lattice(2 * half + 1, step, -half)
