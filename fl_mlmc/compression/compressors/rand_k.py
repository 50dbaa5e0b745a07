"""Rand-k: k coordinates drawn uniformly, times d / k. Their indices follow from a seed, so only values travel."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from ...run.rng import random_subset
from ..blocks import Payload, SeededBlock, SparseBlock
from ..pointwise import drawn_seed, energy
from .base import Compressed, Compressor
from .sparsity import bounded, check_sparsity, keeping_fewer, longest_seeded, num_kept, takes_omega
from .values import (
    Values,
    error_of,
    quantised,
    quantised_outcomes,
    quantiser,
    read_values,
    value_bits,
    worst_composed,
)


@takes_omega
@dataclass(frozen=True, repr=False)
class RandK(Compressor):
    """Keep a `fraction` of the coordinates or `count` of them, whichever they are; ω = d / k − 1.

    Or the k = ⌈d / (1 + ω̂)⌉ that an `omega` ω̂ asks for.
    """

    fraction: float | None = None
    count: int | None = None
    values: Values = "float32"
    omega_bound: float | None = bounded()

    def __post_init__(self) -> None:
        check_sparsity(self)
        read_values(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A seeded block: k values and the 64 bits of the seed that their places follow from."""
        size, kept = vector.numel(), num_kept(self, vector.numel())
        seed = drawn_seed(rng)
        indices = torch.from_numpy(random_subset(size, kept, seed)).to(vector.device)
        block = SeededBlock(size, seed, vector[indices] * (size / kept))
        bits = value_bits(self.values) * kept + 64
        return quantised(Compressed(Payload(size, (block,)), bits), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every subset of k coordinates, equally likely, with every outcome of the values."""
        return quantised_outcomes(self._subsets(vector), self.values)

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    def omega(self, vector: Tensor) -> float | None:
        """d / k − 1 for every v but zero, and what the quantiser of the values adds, where a formula has it."""
        if not vector.any():
            return 0.0
        share = num_kept(self, vector.numel()) / vector.numel()
        error = 0.0 if self.values == "float32" else error_of(vector * (1 / share), self.values)
        return None if error is None else 1 / share - 1 + share * error / energy(vector)

    def worst_omega(self, size: int) -> float | None:
        """d / k − 1, the same for every vector, and what the quantiser of the values adds."""
        return worst_composed(size / num_kept(self, size) - 1, self.values, num_kept(self, size))

    def longest(self, size: int) -> int:
        """The values alone: their places follow from a seed."""
        return longest_seeded(num_kept(self, size), self.values)

    def shortened(self, size: int, budget: int) -> "RandK":
        """With the largest fraction that is sure to fit."""
        return keeping_fewer(
            self,
            size,
            budget,
            num_kept(self, size),
            lambda count: replace(self, fraction=count / size, count=None, omega_bound=None),
        )

    def _subsets(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        size, kept = vector.numel(), num_kept(self, vector.numel())
        for subset in combinations(range(size), kept):
            indices = torch.tensor(subset)
            yield 1 / comb(size, kept), Payload(size, (SparseBlock(size, indices, vector[indices] * (size / kept)),))
