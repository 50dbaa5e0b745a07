"""Values as bfloat16, rounded at random: half the bytes, and the estimate stays unbiased.

bfloat16 is the upper half of a float32. Adding random bits to the lower half carries into the upper one with just the
probability that makes the rounding unbiased.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import DenseBlock, Payload
from ..noise import noise
from ..pointwise import drawn_seed, energy
from .base import Compressed, Compressor

_LOW = 0xFFFF
_ROUNDING = 2.0**-16  # variance over square: neighbours of 2^E (1 + …) are 2^(E−7) apart


@dataclass(frozen=True, repr=False)
class BFloat16(Compressor):
    """Round each value at random to a neighbour in bfloat16; as `values` of others its name is "bfloat16"."""

    rescales = False
    is_whole = True
    is_quantiser = True

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A dense block, 16 bits a value."""
        words = noise(drawn_seed(rng), 0, vector.numel(), vector.device, vector.numel())
        values = ((vector.contiguous().view(torch.int32) + (words & _LOW)) & ~_LOW).view(torch.float32)
        return Compressed(Payload(vector.numel(), (DenseBlock(values),)), 16.0 * vector.numel())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every way of rounding, 2^d of them."""
        words = vector.contiguous().view(torch.int32)
        shares = ((words & _LOW).double() / (_LOW + 1)).tolist()
        choices = [(0,) if share == 0 else (0, 1) for share in shares]
        for ups in product(*choices):
            chance = math.prod(p if up else 1 - p for up, p in zip(ups, shares, strict=True))
            values = ((words & ~_LOW) + torch.tensor(ups, dtype=torch.int32) * (_LOW + 1)).view(torch.float32)
            yield chance, Payload(vector.numel(), (DenseBlock(values),))

    def variances(self, vector: Tensor) -> Tensor:
        """(v − low)(high − v) of each value between its neighbours."""
        words = vector.contiguous().view(torch.int32)
        low, high = (bits.view(torch.float32).double() for bits in (words & ~_LOW, (words & ~_LOW) + _LOW + 1))
        return (vector.double() - low).abs() * (high - vector.double()).abs() * ((words & _LOW) != 0)

    def omega(self, vector: Tensor) -> float:
        """Σ (v − low)(high − v) / ‖v‖²."""
        norm = energy(vector)
        return float(self.variances(vector).sum()) / norm if norm > 0 else 0.0

    def worst_omega(self, size: int) -> float:
        """2⁻¹⁶: rounding a float v at random has variance at most 2⁻¹⁶ v²."""
        return _ROUNDING

    def longest(self, size: int) -> int:
        """2 bytes a value, and the headers."""
        return 2 * size + 14 + 5
