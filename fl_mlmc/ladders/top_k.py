"""Top-k ladder: level l adds the l-th group of largest coordinates.

C^l(v) keeps the l · s largest entries of v, so an increment is one group of s entries (the last may be shorter) and
C^L(v) = v with L = ⌈d / s⌉. This is s-Top-k of arXiv 2507.05508, section 4; alone it is the usual Top-k with k = s.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..blocks import SparseBlock
from .base import Ladder, Rungs


@dataclass(frozen=True, repr=False)
class TopK(Ladder):
    """Keep coordinates in order of magnitude, a `fraction` of all or `count` of them at a time.

    Exactly one of the two is given: 0 < fraction ≤ 1, rounded to at least one coordinate, or count ≥ 1.
    Ties break by position, so the ladder is a function of v alone.
    """

    fraction: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.count is None):
            raise ValueError(f"TopK takes either fraction=… or count=…, got {self!r}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"TopK's fraction lies in (0, 1], got {self.fraction}")
        if self.count is not None and (not isinstance(self.count, int) or self.count < 1):
            raise ValueError(f"TopK's count is a whole number of at least 1, got {self.count!r}")

    def step(self, size: int) -> int:
        """Coordinates in a group, s, for a vector of `size` coordinates."""
        wanted = self.count if self.fraction is None else round(self.fraction * size)
        return min(max(1, wanted or 1), size)

    def climb(self, vector: Tensor) -> "TopKRungs":
        return TopKRungs(vector, self.step(vector.numel()))


class TopKRungs(Rungs):
    """Groups of `step` coordinates of one vector, largest first."""

    def __init__(self, vector: Tensor, step: int) -> None:
        self.size = vector.numel()
        self.num_levels = -(-self.size // step)
        self._vector, self._step = vector, step
        self._order = torch.argsort(vector.abs(), descending=True, stable=True)

    def norms(self) -> np.ndarray:
        squares = self._vector[self._order].double().square()
        padded = torch.nn.functional.pad(squares, (0, self.num_levels * self._step - self.size))
        return padded.view(self.num_levels, self._step).sum(dim=1).sqrt().cpu().numpy()

    def costs(self) -> np.ndarray:
        return self._lengths() * (32 + np.ceil(np.log2(max(self.size, 2))))

    def prior(self) -> np.ndarray:
        # The least informed vector has equal coordinates: a group's norm is the root of its length.
        roots = np.sqrt(self._lengths())
        return roots / roots.sum()

    def increment(self, level: int) -> SparseBlock:
        group = self._order[(level - 1) * self._step : level * self._step]
        indices = group.sort().values  # sorted indices have short codes
        return SparseBlock(self.size, indices, self._vector[indices])

    def _lengths(self) -> np.ndarray:
        lengths = np.full(self.num_levels, self._step, np.float64)
        lengths[-1] = self.size - self._step * (self.num_levels - 1)
        return lengths
