"""What a subtractive dither sends: whole numbers of steps, and the seed of the noise that is subtracted again."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .blocks import Pointwise, single
from .kernels import kernel_for
from .noise import noise
from .pointwise import peak

SPREAD = 1 << 15
"""Coordinates whose noise is worked out together, so that it stays in the cache."""

_XI = 2.0**-25
_LARGE = 1e38


def dither(words: Tensor) -> Tensor:
    """float32 ξ in (−½, ½) of each word of `noise`: odd multiples of 2^−25, exact in float32 and symmetric."""
    return ((words >> 7) | 1).float().mul_(_XI)


@dataclass(frozen=True, eq=False)
class DitherBlock(Pointwise):
    """step · (q_j − ξ_j): `numbers` q are int8, int16 or int32 of shape (size,), ξ follows from `seed`, below 2^64.

    `step` travels as a float32 number, and values are worked out from that, in float32.
    """

    seed: int
    step: float
    numbers: Tensor
    seed_bits = 64
    span = SPREAD

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many numbers there are."""
        return self.numbers.numel()

    @property
    def held_bytes(self) -> int:
        """1, 2 or 4 a number."""
        return self.size * self.numbers.element_size()

    def peak(self) -> float:
        """|step| times the largest |q| and a half."""
        return abs(single(self.step)) * (peak(self.numbers) + 0.5)

    def is_finite(self) -> bool:
        """Whether all values stay in float32's range; looks at each where the largest q could leave it."""
        if self.peak() < _LARGE:
            return True
        parts = range(0, self.size, SPREAD)
        return all(bool(self.stretch(start, min(start + SPREAD, self.size)).isfinite().all()) for start in parts)

    def scaled(self, factor: float) -> "DitherBlock":
        """The same numbers of a scaled step."""
        return replace(self, step=self.step * factor)

    def stretch(self, start: int, stop: int) -> Tensor:
        """(q − ξ) · step."""
        words = noise(self.seed, start, stop, self.numbers.device, self.size)
        out, part = torch.empty(stop - start, device=words.device), self.numbers[start:stop]
        compiled = kernel_for("undithered", self.size) if words.device.type == "cpu" else None
        if compiled is None:
            return torch.sub(part, dither(words), out=out).mul_(single(self.step))
        compiled(words.numpy(), part.numpy(), out.numpy(), np.float32(single(self.step)))
        return out
