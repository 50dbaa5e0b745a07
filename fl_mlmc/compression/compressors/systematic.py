"""Systematic sampling: exactly s coordinates without replacement, each kept with its optimal chance min(1, c |v_j|).

MLMC over Top-1 with s draws, made the best of its kind: draws without replacement at the inclusion probabilities that
make Σ v_j² / p_j smallest. Lay the chances end to end on a line of length s and keep the coordinates under u, u + 1, …,
u + s − 1 with one uniform u (Madow 1949): every chance is met, the number is fixed, and the variance is that of the
optimal independent coins. Values travel as v_j / p_j.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload
from ..kernels import kernel_for
from ..pointwise import STRETCH
from ..probabilities import line_ends, systematic_outcomes
from .base import Compressed, Compressor
from .bernoulli import kept_entries
from .sparsity import (
    bounded,
    check_sparsity,
    equal_chances_omega,
    inclusion,
    inclusion_scale,
    keeping_fewer,
    longest_sparse,
    num_drawn,
    num_kept,
    sparse_omega,
    takes_omega,
)
from .values import Values, quantised, quantised_outcomes, quantiser, read_values, value_bits, worst_composed


@takes_omega
@dataclass(frozen=True, repr=False)
class Systematic(Compressor):
    """Keep exactly a `fraction` of the coordinates, or `count` of them (all non-zeros where those are fewer).

    Or, with an `omega`, as few of each vector as keep its ω below that; what quantised `values` add comes on top.
    """

    fraction: float | None = None
    count: int | None = None
    values: Values = "float32"
    omega_bound: float | None = bounded()

    def __post_init__(self) -> None:
        check_sparsity(self)
        read_values(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A sparse block of exactly k coordinates, or of all non-zeros where those are fewer."""
        size, kept = vector.numel(), num_drawn(self, vector)
        scale = inclusion_scale(vector, kept)
        block = kept_entries(vector, _places(vector, scale, float(rng.random())), scale)
        bits = kept * (value_bits(self.values) + math.ceil(math.log2(max(size, 2))))
        return quantised(Compressed(Payload(size, (block,)), bits), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """One for each stretch of the uniform start within which the same coordinates are kept."""
        return quantised_outcomes(self._kept(vector), self.values)

    def _kept(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        scale = inclusion_scale(vector, num_drawn(self, vector))
        for chance, start in systematic_outcomes(inclusion(vector, scale).cpu().numpy()):
            block = kept_entries(vector, _places(vector, scale, start), scale)
            yield chance, Payload(vector.numel(), (block,))

    def worst_omega(self, size: int) -> float | None:
        """d / k − 1, attained where all magnitudes are equal, and what the quantiser of the values adds."""
        return worst_composed(equal_chances_omega(self, size), self.values, num_kept(self, size))

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    def omega(self, vector: Tensor) -> float | None:
        """As for independent coins: Σ v_j² (1 / p_j − 1) / ‖v‖², and what the quantiser of the values adds."""
        return sparse_omega(vector, inclusion_scale(vector, num_drawn(self, vector)), self.values)

    def longest(self, size: int) -> int:
        """A bound on the values and the code of the indices that it keeps."""
        return longest_sparse(size, num_kept(self, size), self.values)

    def shortened(self, size: int, budget: int) -> "Systematic":
        """With the largest fraction that is sure to fit."""
        return keeping_fewer(
            self,
            size,
            budget,
            num_kept(self, size),
            lambda count: replace(self, fraction=count / size, count=None, omega_bound=None),
        )


def _places(vector: Tensor, scale: float, start: float) -> Tensor:
    """(kept,) int64 the coordinates j with a point start, start + 1, … in their stretch of the line."""
    places, end = [], 0.0
    compiled = kernel_for("points", vector.numel()) if vector.device.type == "cpu" else None
    for first in range(0, vector.numel(), STRETCH):
        if compiled is not None:
            part = vector[first : first + STRETCH].numpy()
            found = np.empty(part.size, np.int64)
            count, end = compiled(part, found, scale, start, end)
            places.append(found[:count] + first)
            continue
        ends = line_ends(inclusion(vector[first : first + STRETCH], scale).cpu().numpy(), end)
        # A coordinate is kept if the number of points below its end grows there.
        points = np.ceil(ends - start)
        before = np.concatenate([[math.ceil(end - start)], points[:-1]])
        places.append(np.flatnonzero(points > before) + first)
        end = float(ends[-1])
    return torch.from_numpy(np.concatenate(places)).to(vector.device)
