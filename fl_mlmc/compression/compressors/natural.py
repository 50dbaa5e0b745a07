"""Natural compression: random rounding to a power of two. Horváth et al., 2019, arXiv 1905.10988, definition 2.

Adding random bits to the mantissa carries into the exponent with just the probability that makes it unbiased.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, PowerBlock
from ..pointwise import STRETCH, energy, negative, pointwise
from .base import Compressed, Compressor

_MANTISSA = (1 << 23) - 1


@dataclass(frozen=True, repr=False)
class Natural(Compressor):
    """Round each |v_j| to the power of two below or above it; ω ≤ 1/8."""

    rescales = False
    is_quantiser = True
    is_whole = True  # a coordinate keeps its sign and at most doubles

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A block of powers: a sign and an exponent, 9 bits, for each coordinate."""
        exponents = pointwise(
            lambda words, random: (words & 0x7FFFFFFF).add_(random & _MANTISSA) >> 23,
            torch.uint8,
            vector.contiguous().view(torch.int32),
            rng=rng,
            kernel=("round_exponent",),
        )
        return Compressed(Payload(vector.numel(), (PowerBlock(negative(vector), exponents),)), 9.0 * vector.numel())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every way of rounding, 2^d of them."""
        magnitude = vector.view(torch.int32) & 0x7FFFFFFF
        up_chances = ((magnitude & _MANTISSA).double() / 2**23).tolist()
        for ups in product((0, 1), repeat=vector.numel()):
            chance = math.prod(p if up else 1 - p for up, p in zip(ups, up_chances, strict=True))
            if chance > 0:
                exponents = ((magnitude >> 23) + torch.tensor(ups)).to(torch.uint8)
                yield chance, Payload(vector.numel(), (PowerBlock(vector < 0, exponents),))

    def omega(self, vector: Tensor) -> float:
        """Σ (|v_j| − low_j)(high_j − |v_j|) / ‖v‖², between the powers of two around each."""
        norm = energy(vector)
        variance = sum(float(self.variances(part).sum()) for part in vector.split(STRETCH))
        return variance / norm if norm > 0 else 0.0

    def variances(self, vector: Tensor) -> Tensor:
        """(|v_j| − low_j)(high_j − |v_j|)."""
        magnitude = vector.abs().double()
        low = (vector.abs().contiguous().view(torch.int32) & ~_MANTISSA).view(torch.float32).double()
        width = low.clamp(min=2.0**-126)  # between zero and the smallest normal number the spacing is that number
        return (magnitude - low) * (low + width - magnitude)

    def worst_omega(self, size: int) -> float:
        """1/8, as the paper has it, attained by entries of 4/3 · 2^E."""
        return 1 / 8
