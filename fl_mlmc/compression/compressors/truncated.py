"""The lower part of a ladder, of which one increment is drawn: between the biased compressor and the unbiased MLMC.

`Truncated(TopK(fraction=0.01), levels=20)` draws among the 20 groups of the largest coordinates and sends no other.
E C(v) = C^20(v), so the bias is what the ladder leaves above, and the variance that of MLMC below: with one level it is
Top-k, with all of them MLMC. On a Student-t3 vector ‖E C(v) − v‖ = 0.41 ‖v‖ and the variance is 11 ‖v‖², where the
whole ladder has 0 and 41. Of the class of EF-BV (Condat, Yi, Richtárik, NeurIPS 2022, arXiv 2205.04180), whose scheme
takes it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload
from ..ladders.base import Ladder, Rungs
from ..pointwise import energy
from ..probabilities import adaptive_probabilities, second_moment
from .base import Compressed, Compressor


@dataclass(frozen=True, repr=False)
class Truncated(Compressor):
    """One increment of the first `levels` of a ladder, drawn in proportion to its norm and over its chance.

    A base always travels, as in MLMC. All levels count where the ladder has no more than `levels`.
    """

    is_unbiased = False

    ladder: Ladder
    levels: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.ladder, Ladder):
            raise ValueError(f"Truncated takes a ladder such as TopK(fraction=0.01), got {self.ladder!r}")
        if self.ladder.draws:
            raise ValueError(f"over a ladder Truncated draws levels only: leave out the values of {self.ladder!r}")
        if not isinstance(self.levels, int) or isinstance(self.levels, bool) or self.levels < 1:
            raise ValueError(f"Truncated's levels is a whole number of at least 1, got {self.levels!r}")

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """The base and an increment over its chance; bits are the base's and the expected ones of the draw."""
        rungs = self.ladder.climb(vector)
        chances = self._chances(rungs)
        if not chances.any():
            return Compressed(self._outcome(rungs, 0, 1.0), rungs.base_bits)
        level = int(rng.choice(chances.size, p=chances)) + 1
        chance = float(chances[level - 1])
        bits = rungs.base_bits + float(chances @ rungs.costs()[: chances.size])
        return Compressed(self._outcome(rungs, level, chance), bits, (level,), (chance,))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every level that may be drawn."""
        rungs = self.ladder.climb(vector)
        chances = self._chances(rungs)
        if not chances.any():
            yield 1.0, self._outcome(rungs, 0, 1.0)
        for place in np.flatnonzero(chances):
            yield float(chances[place]), self._outcome(rungs, int(place) + 1, float(chances[place]))

    def bias_and_variance(self, size: int) -> tuple[float, float] | None:
        """(η, ℓ − 1), η that of the ladder's level ℓ: by Cauchy–Schwarz (ΣΔ)² ≤ ℓ ΣΔ² where increments share nothing.

        None where they share coordinates, or what the ladder leaves at ℓ has no known bound.
        """
        rungs = self.ladder.climb(torch.ones(size))
        count = self.levels if self.ladder.adapts else min(self.levels, rungs.num_levels)
        left = self.ladder.left_at(size, count)
        return None if left is None or not rungs.orthogonal else (math.sqrt(left), count - 1.0)

    def measured(self, vector: Tensor) -> tuple[float, float]:
        """(η², ω) of this very vector: ‖E C(v) − v‖² = η²‖v‖² and E‖C(v) − E C(v)‖² = ω‖v‖². (0, 0) for zero."""
        norm = energy(vector)
        if norm == 0:
            return 0.0, 0.0
        rungs = self.ladder.climb(vector)
        chances = self._chances(rungs)
        left = vector.double()
        Payload(rungs.size, rungs.rung(min(self.levels, rungs.num_levels))).add_to(left, -1.0)
        climbed = vector.double() - left
        if rungs.base is not None:
            rungs.base.add_to(climbed, -1.0)
        moment = second_moment(rungs.exact_norms()[: chances.size], chances)
        return float(left.square().sum()) / norm, max(moment - float(climbed.square().sum()), 0.0) / norm

    def contraction(self, size: int) -> float | None:
        """1 − η² − ω, which is positive for one level alone."""
        pair = self.bias_and_variance(size)
        alpha = 0.0 if pair is None else 1 - pair[0] ** 2 - pair[1]
        return alpha if alpha > 0 else None

    def longest(self, size: int) -> int | None:
        """That of the ladder alone: an increment holds no more than the first, where their size can be chosen."""
        return self.ladder.longest(size) if self.ladder.group(size) is not None else None

    @property
    def rescales(self) -> bool:
        """Whether there is a draw."""
        return self.levels > 1 or self.ladder.rescales

    def _chances(self, rungs: Rungs) -> np.ndarray:
        """The probabilities of the first levels."""
        return adaptive_probabilities(rungs.norms()[: self.levels])

    def _outcome(self, rungs: Rungs, level: int, chance: float) -> Payload:
        return Payload(rungs.size, rungs.estimate({level: 1 / chance} if level else {}))
