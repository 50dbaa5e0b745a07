"""The MLMC compressor: one random, rescaled increment of a ladder, unbiased.

arXiv 2507.05508 (ICML 2025), Algorithms 2 and 3: draw a level l with probability p_l and send
C^0(v) + (C^l(v) − C^(l−1)(v)) / p_l. The factor 1 / p_l is folded into the values, so neither l nor p_l travels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from ..blocks import Payload
from ..ladders.base import Ladder, Rungs
from ..mlmc import adaptive_probabilities, second_moment
from .base import Compressed, Compressor

Probabilities = Literal["adaptive", "fixed"]


@dataclass(frozen=True, repr=False)
class MLMC(Compressor):
    """Multilevel Monte Carlo over `ladder`, the mean of `draws` independent draws.

    `probabilities` is "adaptive" (p_l ∝ ‖Δ_l‖ of each vector, Algorithm 3) or "fixed" (the best for the ladder
    without a look at the vector, Algorithm 2).
    """

    ladder: Ladder
    probabilities: Probabilities = "adaptive"
    draws: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.ladder, Ladder):
            raise ValueError(f"MLMC wraps a ladder such as TopK(fraction=0.01), got {self.ladder!r}")
        if self.probabilities not in get_args(Probabilities):
            raise ValueError(f"MLMC's probabilities are one of {get_args(Probabilities)}, got {self.probabilities!r}")
        if not isinstance(self.draws, int) or not 1 <= self.draws <= 254:
            raise ValueError(f"MLMC's draws is a whole number from 1 to 254, got {self.draws!r}")

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        rungs = self.ladder.climb(vector)
        probabilities = self.level_probabilities(rungs)
        if not probabilities.any():
            return Compressed(self.outcome(rungs, (), probabilities), 0.0)
        levels = tuple(int(level) + 1 for level in rng.choice(rungs.num_levels, self.draws, p=probabilities))
        return Compressed(
            self.outcome(rungs, levels, probabilities),
            float(self.draws * probabilities @ rungs.costs()),
            levels,
            tuple(float(probabilities[level - 1]) for level in levels),
        )

    def level_probabilities(self, rungs: Rungs) -> np.ndarray:
        """(L,) the probability of drawing each level; all zero where there is nothing to draw."""
        if self.probabilities == "adaptive":
            return adaptive_probabilities(rungs.norms())
        return rungs.prior()

    def outcome(self, rungs: Rungs, levels: tuple[int, ...], probabilities: np.ndarray) -> Payload:
        """The payload when `levels` are drawn: the base and the mean of their increments / p_l."""
        factors = {
            level: levels.count(level) / (len(levels) * float(probabilities[level - 1])) for level in set(levels)
        }
        return Payload(rungs.size, rungs.estimate(factors))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        rungs = self.ladder.climb(vector)
        probabilities = self.level_probabilities(rungs)
        drawn = [int(level) + 1 for level in np.flatnonzero(probabilities)]
        if not drawn:
            yield 1.0, self.outcome(rungs, (), probabilities)
            return
        for levels in product(drawn, repeat=self.draws):
            chance = math.prod(float(probabilities[level - 1]) for level in levels)
            yield chance, self.outcome(rungs, levels, probabilities)

    def omega(self, vector: Tensor) -> float:
        """Exact E‖C(v) − v‖² / ‖v‖² (Lemma 3.4, with a base: of the part above it)."""
        rungs = self.ladder.climb(vector)
        above = vector.double() if rungs.base is None else vector.double() - rungs.base.dense().to(vector.device)
        energy = float(above.square().sum())
        if energy == 0:
            return 0.0
        moment = second_moment(rungs.norms(), self.level_probabilities(rungs))
        return (moment - energy) / self.draws / float(vector.double().square().sum())
