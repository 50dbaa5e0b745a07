"""EDEN: a random rotation, then the best quantiser of normal numbers. Vargaftik et al., ICML 2022, arXiv 2108.08842.

After the rotation x = R v every coordinate of x · √n / ‖x‖ is nearly standard normal, whatever v was, so one fixed
table serves all vectors: q, the nearest of the 2^bits levels of Lloyd and Max. The scale S = ‖x‖² / ⟨x, q⟩ (with a bit
DRIVE, NeurIPS 2021, arXiv 2105.08339) puts the estimate R⁻¹ S q where its part along v is v itself.

How near to unbiased that is: exactly for a rotation that is uniform among all. This one is made of random signs and
Hadamard transforms, so the mean of the estimate is off by about 1/n of ‖v‖, n = 4096 or what d allows: for a
vector of thousands of coordinates far below the noise of any number of clients, for one of four as large as the noise.
`is_unbiased` is therefore False, and what asks for an exactly unbiased compressor refuses EDEN.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, RotatedBlock, SymbolBlock, Table
from ..pointwise import peak
from ..rotation import Rotation
from .base import Compressed, Compressor

_FRAME = 14 + 5  # headers of the payload and of its block
_NEWTON_STEPS = 12  # each doubles the digits


@dataclass(frozen=True, repr=False)
class EDEN(Compressor):
    """`bits` a coordinate, 1 to 8; ω(v) tends to 0.571, 0.133, 0.0358, 0.0096 for 1 to 4 of them, whatever v is."""

    is_unbiased = False

    bits: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 8:
            raise ValueError(f"EDEN's bits is a whole number from 1 to 8, got {self.bits!r}")

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A letter of the table for each rotated coordinate, a scale for each part, and the seed of the rotation."""
        size, largest = vector.numel(), peak(vector)
        seed = int(rng.integers(2**64, dtype=np.uint64))
        if largest == 0:
            return Compressed(Payload(size), 0.0)
        rotation, levels = Rotation(size, seed), normal_levels(self.bits)
        letters, scales = [], []
        for start, stop, signs in rotation.pieces():
            rotated = signs.forth((vector[start:stop].double() / largest).float())
            for part in _equal(rotated, rotation.part_lengths(start, stop)):
                symbols, factors = _quantised(part, levels)
                letters.append(symbols.view(-1))
                scales.append(factors * largest)
        block = RotatedBlock(SymbolBlock(torch.cat(letters), Table(levels)), torch.cat(scales).float(), seed)
        return Compressed(Payload(size, (block,)), self._formula(size))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """ValueError: there are as many as seeds, 2⁶⁴."""
        raise ValueError(f"the outcomes of {self!r} cannot be listed: there is one for each of 2⁶⁴ seeds")

    def limit(self) -> float:
        """What ω(v) tends to for long vectors, 1 / E q² − 1 for a standard normal number: π/2 − 1 with one bit."""
        levels = normal_levels(self.bits)
        return float(1 / (_chances(levels) @ levels**2) - 1)

    def longest(self, size: int) -> int:
        """The formula filled up to bytes, or that of a dense block."""
        fixed = 8 + 4 * Rotation(size, 0).num_parts + 3 + 4 * 2**self.bits + 1
        return _FRAME + min(4 * size, fixed + self.bits * math.ceil(size / 8))

    def shortened(self, size: int, budget: int) -> "EDEN":
        """With the most bits that fit; ValueError where not even one a coordinate does."""
        for bits in range(self.bits, 0, -1):
            if (fewer := replace(self, bits=bits)).longest(size) <= budget:
                return self if bits == self.bits else fewer
        raise ValueError(f"{budget} bytes does not hold a payload of one bit for each of {size} coordinates")

    @property
    def rescales(self) -> bool:
        """No: everything travels, and the estimate is √(1 + ω) times as long as the vector."""
        return False

    def _formula(self, size: int) -> float:
        """`bits` a coordinate, 32 a part and a level, and the 64 of the seed."""
        return float(self.bits * size + 32 * (Rotation(size, 0).num_parts + 2**self.bits) + 64)


@cache
def normal_levels(bits: int) -> np.ndarray:
    """(2^bits,) float64: the levels nearest to a standard normal number in the mean square, increasing.

    Lloyd (1957) and Max (1960): a level is the mean of the numbers that are nearest to it. Newton's method on that for
    the positive half, from the levels that are best for many bits.
    """
    half = 2 ** (bits - 1)
    shares = (torch.arange(half, dtype=torch.float64) + 0.5) / (2 * half) + 0.5
    levels = math.sqrt(3) * torch.special.ndtri(shares).numpy()
    for _ in range(_NEWTON_STEPS):
        away, slope = _away(levels)
        levels = levels - np.linalg.solve(slope, away)
    return np.concatenate([-levels[::-1], levels])


def _away(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each positive level is from the mean of the numbers that are nearest to it; the derivative of that."""
    middles = (levels[1:] + levels[:-1]) / 2
    ends = np.concatenate([[0.0], middles])
    density = np.append(np.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi), 0.0)
    above = np.append(torch.special.ndtr(-torch.from_numpy(ends)).numpy(), 0.0)
    mass = above[:-1] - above[1:]
    means = (density[:-1] - density[1:]) / mass
    # A mean follows its ends, and an end the two levels that it is the middle of.
    by_low = np.append(0.0, (density[1:-1] * (means[1:] - middles) / mass[1:]) / 2)
    by_high = np.append((density[1:-1] * (middles - means[:-1]) / mass[:-1]) / 2, 0.0)
    slope = np.eye(levels.size) - np.diag(by_low + by_high) - np.diag(by_low[1:], -1) - np.diag(by_high[:-1], 1)
    return levels - means, slope


def _chances(levels: np.ndarray) -> np.ndarray:
    """How likely each level is the nearest to a standard normal number."""
    ends = torch.from_numpy((levels[1:] + levels[:-1]) / 2)
    return np.diff(torch.special.ndtr(ends).numpy(), prepend=0.0, append=1.0)


def _equal(piece: Tensor, lengths: list[int]) -> Iterator[Tensor]:
    """The parts of a piece, those of one length together as rows: neighbours in `lengths`."""
    start = 0
    for length, count in _runs(lengths):
        yield piece[start : start + length * count].view(count, length)
        start += length * count


def _runs(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """(length, how often it comes in a row)."""
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    for low, high in pairwise(edges):
        yield lengths[low], high - low


def _quantised(rows: Tensor, levels: np.ndarray) -> tuple[Tensor, Tensor]:
    """(uint8 letters, float64 S) of rows of rotated coordinates; S is zero for a row of zeros."""
    squares = rows.double().square().sum(dim=1)
    rms = (squares / rows.shape[1]).sqrt().float().clamp(min=torch.finfo(torch.float32).tiny)
    ends = torch.from_numpy(((levels[1:] + levels[:-1]) / 2).astype(np.float32)).to(rows.device)
    symbols = torch.bucketize(rows / rms[:, None], ends, out_int32=True)
    sent = torch.from_numpy(levels.astype(np.float32)).to(rows.device)[symbols]
    along = (rows.double() * sent).sum(dim=1)
    return symbols.byte(), torch.where(along > 0, squares / along, 0.0)
