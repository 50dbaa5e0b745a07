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
        first = self.biased.compress(vector, rng)
        second = self.unbiased.compress(self._left(vector, first.payload), rng)
        return Compressed(
            Payload(vector.numel(), first.payload.blocks + second.payload.blocks),
            first.expected_bits + second.expected_bits,
            first.levels + second.levels,
            first.probabilities + second.probabilities,
        )

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        for chance, payload in self.biased.outcomes(vector):
            for rest_chance, rest in self.unbiased.outcomes(self._left(vector, payload)):
                yield chance * rest_chance, Payload(vector.numel(), payload.blocks + rest.blocks)

    def omega(self, vector: Tensor) -> float | None:
        if not isinstance(self.biased, Ladder):
            return None
        left = self._left(vector, self.biased.compress(vector, np.random.default_rng(0)).payload)
        rest = self.unbiased.omega(left)
        norm = energy(vector)
        return None if rest is None else rest * energy(left) / norm if norm > 0 else 0.0

    def _left(self, vector: Tensor, payload: Payload) -> Tensor:
        left = vector.clone()
        payload.add_to(left, -1.0)
        return left
