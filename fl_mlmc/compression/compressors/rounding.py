"""What the stochastic quantisers share: each coordinate goes at random to a neighbour on a symmetric lattice.

A coordinate v between neighbours a < b becomes b with probability (v − a) / (b − a), independently of the others:
unbiased, with variance (v − a)(b − v).
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import Lattice, Payload, SymbolBlock
from ..pointwise import STRETCH, energy, pointwise
from .base import Compressed, Compressor

_TINY = 1e-30


class LatticeRounding(Compressor):
    """Random rounding to step · {−h, …, h}."""

    is_quantiser = True

    @abstractmethod
    def grid(self, vector: Tensor) -> tuple[float, int]:
        """(step, h) for a vector; |v_j| ≤ step · h."""

    @property
    @abstractmethod
    def bits_per_entry(self) -> float:
        """Formula bits of one symbol."""

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A block of whole numbers from −h to h, 32 bits for the step and `bits_per_entry` a coordinate."""
        step, half = self.grid(vector)

        def round_at_random(part: Tensor, words: Tensor) -> Tensor:
            shares, low = _shares(part, step, half)
            low += (words & 0x7FFFFFFF) < shares.mul_(2.0**31).int()
            return low.copysign_(part).add_(half)

        kernel = ("round_at_random", 1 / step, float(half), 2.0**31) if step > _TINY else None
        symbols = pointwise(round_at_random, _dtype(half), vector, rng=rng, kernel=kernel)
        payload = Payload(vector.numel(), (SymbolBlock(symbols, Lattice(2 * half + 1, step, -half)),))
        return Compressed(payload, 32 + self.bits_per_entry * vector.numel())

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every way of rounding, 2^d of them."""
        step, half = self.grid(vector)
        shares, low = _shares(vector, step, half)
        up_chances = shares.double().tolist()
        for ups in product((0, 1), repeat=vector.numel()):
            chance = math.prod(p if up else 1 - p for up, p in zip(ups, up_chances, strict=True))
            if chance > 0:
                symbols = ((low + torch.tensor(ups)).copysign(vector) + half).to(_dtype(half))
                yield chance, Payload(vector.numel(), (SymbolBlock(symbols, Lattice(2 * half + 1, step, -half)),))

    def omega(self, vector: Tensor) -> float:
        """step² Σ p_j (1 − p_j) / ‖v‖², p_j being the chance of going up."""
        step, half = self.grid(vector)
        norm = energy(vector)
        if norm == 0:
            return 0.0
        variance = 0.0
        for part in vector.split(STRETCH):
            shares, _ = _shares(part, step, half)
            variance += float((shares.double() * (1 - shares.double())).sum())
        return variance * step**2 / norm


def worst_below_peak(size: int, half: int) -> float:
    """The worst ω of rounding v at random to max|v| / half · {−half, …, half}: (√(1 + (d−1)/half²) − 1) / 2.

    The largest entry is half steps long and is met exactly. Another one of x steps adds a variance of at most x(1 − x)
    and x² to the square; a ratio that is largest where they all have x = 1 / (1 + √(1 + (d−1)/half²)).
    """
    return (math.sqrt(1 + (size - 1) / half**2) - 1) / 2


def _dtype(half: int) -> torch.dtype:
    return torch.uint8 if 2 * half < 256 else torch.int16


def _shares(part: Tensor, step: float, half: int) -> tuple[Tensor, Tensor]:
    """(chance of going up, lower neighbour) of each magnitude in steps."""
    # A reciprocal is exact enough and quick, and infinite for denormal steps.
    steps = part.abs().mul_(1 / step) if step > _TINY else (part.abs().double() / (step or 1.0)).float()
    low = steps.clamp_(max=half).floor()
    return steps.sub_(low), low
