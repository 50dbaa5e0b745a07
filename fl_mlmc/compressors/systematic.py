"""Systematic sampling: exactly s coordinates without replacement, each kept with its optimal chance min(1, c |v_j|).

MLMC over Top-1 with s draws, made the best of its kind: draws without replacement at the inclusion probabilities that
make Σ v_j² / p_j smallest. Lay the chances end to end on a line of length s and keep the coordinates under u, u + 1, …,
u + s − 1 with one uniform u (Madow 1949): every chance is met, the number is fixed, and the variance is that of the
optimal independent coins. Values travel as v_j / p_j.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from ..blocks import Payload
from ..pointwise import STRETCH
from .base import Compressed, Compressor
from .bernoulli import kept_entries
from .sparsity import check_sparsity, inclusion, inclusion_scale, num_kept, sparse_omega


@dataclass(frozen=True, repr=False)
class Systematic(Compressor):
    """Keep exactly a `fraction` of the coordinates, or `count` of them (all non-zeros where those are fewer)."""

    fraction: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        check_sparsity(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        size, kept = vector.numel(), num_kept(self, vector.numel())
        scale = inclusion_scale(vector, kept)
        block = kept_entries(vector, _places(vector, scale, float(rng.random())), scale)
        return Compressed(Payload(size, (block,)), kept * (32.0 + math.ceil(math.log2(max(size, 2)))))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        scale = inclusion_scale(vector, num_kept(self, vector.numel()))
        ends = _ends(inclusion(vector, scale).cpu().numpy(), 0.0)
        cuts = np.unique(np.concatenate([[0.0, 1.0], ends % 1.0]))
        for low, high in pairwise(cuts):
            block = kept_entries(vector, _places(vector, scale, (low + high) / 2), scale)
            yield float(high - low), Payload(vector.numel(), (block,))

    def omega(self, vector: Tensor) -> float:
        return sparse_omega(vector, inclusion_scale(vector, num_kept(self, vector.numel())))


def _places(vector: Tensor, scale: float, start: float) -> np.ndarray:
    """The coordinates j with a point start, start + 1, … in their stretch of the line."""
    places, end = [], 0.0
    for first in range(0, vector.numel(), STRETCH):
        ends = _ends(inclusion(vector[first : first + STRETCH], scale).cpu().numpy(), end)
        # A coordinate is kept if the number of points below its end grows there.
        points = np.ceil(ends - start)
        before = np.concatenate([[math.ceil(end - start)], points[:-1]])
        places.append(np.flatnonzero(points > before) + first)
        end = float(ends[-1])
    return np.concatenate(places)


def _ends(chances: np.ndarray, start: float) -> np.ndarray:
    """Where each chance ends on the line, the sums' rounding errors taken out at whole numbers."""
    ends = start + np.cumsum(chances)
    nearest = np.round(ends)
    return np.where(np.abs(ends - nearest) < 1e-9, nearest, ends)
