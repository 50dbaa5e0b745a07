"""Induced compressors: a biased compressor made unbiased by an unbiased one for what it leaves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..blocks import Payload
from ..ladders.base import Ladder
from ..pointwise import energy
from .base import Compressed, Compressor


@dataclass(frozen=True, repr=False)
class Induced(Compressor):
    """B(v) + U(v − B(v)): a biased compressor, and an unbiased one for what it leaves.

    Horváth and Richtárik, ICLR 2021, arXiv 2006.11077: unbiased with ω = ω_U (1 − α_B); both parts travel.
    """

    biased: Compressor
    unbiased: Compressor

    def __post_init__(self) -> None:
        for part in (self.biased, self.unbiased):
            if not isinstance(part, Compressor):
                raise ValueError(f"Induced takes two compressors, got {part!r}")
        if not self.unbiased.is_unbiased:
            raise ValueError(f"Induced's second compressor must be unbiased, {self.unbiased!r} is not")

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """The blocks of both parts, and the bits of both."""
        first = self.biased.compress(vector, rng)
        second = self.unbiased.compress(self._left(vector, first.payload), rng)
        return Compressed(
            Payload(vector.numel(), first.payload.blocks + second.payload.blocks),
            first.expected_bits + second.expected_bits,
            first.levels + second.levels,
            first.probabilities + second.probabilities,
        )

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every outcome of the first part with every outcome of the second on what that leaves."""
        for chance, payload in self.biased.outcomes(vector):
            for rest_chance, rest in self.unbiased.outcomes(self._left(vector, payload)):
                yield chance * rest_chance, Payload(vector.numel(), payload.blocks + rest.blocks)

    def omega(self, vector: Tensor) -> float | None:
        """ω_U(v − B(v)) ‖v − B(v)‖² / ‖v‖²; None where the first part draws, or the second has no formula."""
        if not isinstance(self.biased, Ladder) or self.biased.draws:
            return None
        left = self._left(vector, self.biased.compress(vector, np.random.default_rng(0)).payload)
        rest = self.unbiased.omega(left)
        norm = energy(vector)
        return None if rest is None else rest * energy(left) / norm if norm > 0 else 0.0

    def worst_omega(self, size: int) -> float | None:
        """ω_U (1 − α_B), as the paper has it, or ω_U ω_B where the first part has a bound on its variance only."""
        alpha, rest = self.biased.contraction(size), self.unbiased.worst_omega(size)
        left = self.biased.worst_omega(size) if alpha is None else 1 - alpha
        return None if left is None or rest is None else rest * left

    @property
    def lists_outcomes(self) -> bool:
        """Whether both parts do."""
        return self.biased.lists_outcomes and self.unbiased.lists_outcomes

    @property
    def rescales(self) -> bool:
        """Whether one of its parts does."""
        return self.biased.rescales or self.unbiased.rescales

    @property
    def is_whole(self) -> bool:
        """Whether both parts are: the second is then near what the first leaves, which is little."""
        return self.biased.is_whole and self.unbiased.is_whole

    def _left(self, vector: Tensor, payload: Payload) -> Tensor:
        left = vector.clone()
        payload.add_to(left, -1.0)
        return left
