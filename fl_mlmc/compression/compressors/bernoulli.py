"""The optimal sparsifier with independent coins: keep v_j with probability p_j = min(1, c |v_j|), as v_j / p_j.

Wangni et al., NeurIPS 2018, arXiv 1710.09854: of all chances of sum s these give the least variance, Σ v²/p − ‖v‖².
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, SparseBlock
from ..pointwise import STRETCH
from .base import Compressed, Compressor
from .sparsity import (
    bounded,
    check_sparsity,
    equal_chances_omega,
    inclusion,
    inclusion_scale,
    num_drawn,
    sparse_omega,
    takes_omega,
)
from .values import Values, quantised, quantised_outcomes, quantiser, read_values, value_bits, worst_composed


@takes_omega
@dataclass(frozen=True, repr=False)
class Bernoulli(Compressor):
    """Keep an expected `fraction` of the coordinates, or `count` of them, the large ones more often.

    Or, with an `omega`, as few of each vector as keep its ω below that.
    """

    fraction: float | None = None
    count: int | None = None
    values: Values = "float32"
    omega_bound: float | None = bounded()

    def __post_init__(self) -> None:
        check_sparsity(self)
        read_values(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A sparse block: as many coordinates as the coins fall for; bits are those of the expected number."""
        size, kept = vector.numel(), num_drawn(self, vector)
        scale = inclusion_scale(vector, kept)
        places = []
        for start in range(0, size, STRETCH):
            chances = inclusion(vector[start : start + STRETCH], scale).cpu().numpy()
            places.append(np.flatnonzero(rng.random(chances.size) < chances) + start)
        payload = Payload(size, (kept_entries(vector, np.concatenate(places), scale),))
        bits = kept * (value_bits(self.values) + math.ceil(math.log2(max(size, 2))))
        return quantised(Compressed(payload, bits), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every fall of the coins, 2^d of them, with every outcome of the values."""
        return quantised_outcomes(self._kept(vector), self.values)

    def _kept(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        scale = inclusion_scale(vector, num_drawn(self, vector))
        chances = inclusion(vector, scale).tolist()
        for keeps in product((0, 1), repeat=vector.numel()):
            chance = math.prod(p if keep else 1 - p for keep, p in zip(keeps, chances, strict=True))
            if chance > 0:
                yield chance, Payload(vector.numel(), (kept_entries(vector, np.flatnonzero(keeps), scale),))

    def worst_omega(self, size: int) -> float | None:
        """d / k − 1, attained where all magnitudes are equal, and what the quantiser of the values adds."""
        return worst_composed(equal_chances_omega(self, size), self.values, size)

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    def omega(self, vector: Tensor) -> float | None:
        """Σ v_j² (1 / p_j − 1) / ‖v‖², and what the quantiser of the values adds, where a formula has it."""
        return sparse_omega(vector, inclusion_scale(vector, num_drawn(self, vector)), self.values)


def kept_entries(vector: Tensor, places: np.ndarray, scale: float) -> SparseBlock:
    """The coordinates at `places`, each over its chance of being kept: ±1 / scale, or itself where it is certain."""
    indices = torch.from_numpy(places.astype(np.int64)).to(vector.device)
    entries = vector[indices]
    # Exactly equal magnitudes, which take a bit each on the wire; v / (|v| · scale) could differ in its last place.
    shared = torch.full_like(entries, 1 / scale).copysign_(entries)
    return SparseBlock(vector.numel(), indices, torch.where(inclusion(entries, scale) < 1, shared, entries))
