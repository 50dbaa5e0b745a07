"""An unbiased compressor scaled down to a contraction, C(v) / (1 + ω), as error feedback wants it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..blocks import Payload
from .base import Compressed, Compressor


@dataclass(frozen=True, repr=False)
class Scaled(Compressor):
    """`inner` over 1 + `omega_bound`: contractive with α = 1 / (1 + ω) if its ω never exceeds the bound.

    Without a bound, ω is measured for each vector.
    """

    is_unbiased = False

    inner: Compressor
    omega_bound: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Compressor) or not self.inner.is_unbiased:
            raise ValueError(f"Scaled takes an unbiased compressor, got {self.inner!r}")
        bound = 0 if self.omega_bound is None else self.omega_bound
        if not (isinstance(bound, int | float) and 0 <= bound < float("inf")):
            raise ValueError(f"Scaled's omega_bound is a number of at least 0, got {self.omega_bound!r}")

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        inner = self.inner.compress(vector, rng)
        payload = _times(inner.payload, self._factor(vector))
        return Compressed(payload, inner.expected_bits, inner.levels, inner.probabilities)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        factor = self._factor(vector)
        for chance, payload in self.inner.outcomes(vector):
            yield chance, _times(payload, factor)

    def _factor(self, vector: Tensor) -> float:
        omega = self.inner.omega(vector) if self.omega_bound is None else self.omega_bound
        if omega is None:
            raise ValueError(f"{self.inner!r} has no formula for omega: give Scaled an omega_bound")
        return 1 / (1 + omega)


def _times(payload: Payload, factor: float) -> Payload:
    return Payload(payload.size, tuple(block.scaled(factor) for block in payload.blocks))
