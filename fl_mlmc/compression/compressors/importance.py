"""Importance sampling: coordinates drawn with probability |v_j| / ‖v‖₁, with replacement, each worth ±‖v‖₁ / draws.

With one draw this is MLMC over Top-1 (arXiv 2507.05508, section 4).
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, SparseBlock
from ..pointwise import energy, total
from .base import Compressed, Compressor
from .sparsity import keeping_fewer, longest_sparse
from .values import Values, composed, quantised, quantised_outcomes, quantiser, read_values, value_bits, worst_composed


@dataclass(frozen=True, repr=False)
class Importance(Compressor):
    """The mean of `draws` draws of one coordinate; ω(v) = (‖v‖₁² / ‖v‖² − 1) / draws, and what `values` add."""

    draws: int = 1
    values: Values = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ValueError(f"Importance's draws is a whole number of at least 1, got {self.draws!r}")
        read_values(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A sparse block: the coordinates drawn, each once, worth ±‖v‖₁ / draws times how often it was drawn."""
        bits = float(self.draws * (value_bits(self.values) + 1 + math.ceil(math.log2(max(vector.numel(), 2)))))
        if not vector.any():
            return Compressed(Payload(vector.numel()), 0.0)
        shares = vector.abs().double().cumsum(0).cpu().numpy()
        places = np.searchsorted(shares, rng.random(self.draws) * shares[-1], side="right")
        indices, counts = np.unique(places, return_counts=True)
        return quantised(Compressed(self._payload(vector, indices, counts), bits), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every sequence of draws from the non-zero coordinates, with every outcome of the values."""
        return quantised_outcomes(self._drawn(vector), self.values)

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    def _drawn(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        chances = (vector.abs().double() / (total(vector) or 1.0)).tolist()
        possible = [place for place, chance in enumerate(chances) if chance > 0]
        if not possible:
            yield 1.0, Payload(vector.numel())
            return
        for places in product(possible, repeat=self.draws):
            seen = sorted(Counter(places).items())
            chance = math.prod(chances[place] for place in places)
            yield chance, self._payload(vector, np.array([p for p, _ in seen]), np.array([n for _, n in seen]))

    def omega(self, vector: Tensor) -> float | None:
        """(‖v‖₁² / ‖v‖² − 1) / draws; with quantised values that of both, None where theirs depends on the vector."""
        norm = energy(vector)
        own = (total(vector) ** 2 / norm - 1) / self.draws if norm > 0 else 0.0
        return composed(own, quantiser(self.values).even_omega) if norm > 0 and self.values != "float32" else own

    def worst_omega(self, size: int) -> float | None:
        """(d − 1) / draws, as ‖v‖₁² ≤ d‖v‖², attained where all magnitudes are equal; and what the values add."""
        return worst_composed((size - 1) / self.draws, self.values, min(self.draws, size))

    def longest(self, size: int) -> int:
        """A bound on as many values as there are draws, and the code of their indices."""
        return longest_sparse(size, self.draws, self.values)

    def shortened(self, size: int, budget: int) -> "Importance":
        """With the most draws that are sure to fit."""
        return keeping_fewer(self, size, budget, self.draws, lambda count: replace(self, draws=count))

    def _payload(self, vector: Tensor, indices: np.ndarray, counts: np.ndarray) -> Payload:
        where = torch.from_numpy(indices).to(vector.device)
        worth = torch.from_numpy(counts * (total(vector) / self.draws)).float().to(vector.device)
        return Payload(vector.numel(), (SparseBlock(vector.numel(), where, worth.copysign(vector[where])),))
