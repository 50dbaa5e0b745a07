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

    Without a bound, ω is measured for each vector. A bound is believed only where the worst ω of `inner` is not known.
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
        """The payload of `inner`, each block times 1 / (1 + ω). ValueError without a bound where ω has no formula."""
        inner = self.inner.compress(vector, rng)
        payload = inner.payload.scaled(self._factor(vector))
        return Compressed(payload, inner.expected_bits, inner.levels, inner.probabilities)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """The outcomes of `inner`, scaled."""
        factor = self._factor(vector)
        for chance, payload in self.inner.outcomes(vector):
            yield chance, payload.scaled(factor)

    def bias_and_variance(self, size: int) -> tuple[float, float] | None:
        """(ω/(1+ω), ω/(1+ω)²) for the worst ω of `inner`; (b/(1+b), ω/(1+b)²) where b = `omega_bound` is given.

        Without a bound it is each vector's own ω(v) ≤ ω that C is scaled by, and the variance of a vector with a
        smaller one may be above ω/(1+ω)². Its bias is then so much smaller that what EF-BV makes of the two,
        (1 − λ + λη)² + λ²ω/n, is largest at ω all the same for every λ ≤ 1 and n.
        """
        known = self.inner.worst_omega(size)
        bound = known if self.omega_bound is None else self.omega_bound
        omega = bound if known is None else known
        return None if bound is None or omega is None else (bound / (1 + bound), omega / (1 + bound) ** 2)

    def contraction(self, size: int) -> float | None:
        """1 / (1 + ω): bias² and variance are ω/(1+ω) together. With a bound b, 1 − (b² + ω)/(1 + b)²."""
        pair = self.bias_and_variance(size)
        loss = 1.0 if pair is None else pair[0] ** 2 + pair[1]
        return 1 - loss if loss < 1 else None

    @property
    def lists_outcomes(self) -> bool:
        """Whether `inner` does."""
        return self.inner.lists_outcomes

    @property
    def rescales(self) -> bool:
        """Whether `inner` does: one over a chance is not undone by a factor that is the same for all parts."""
        return self.inner.rescales

    @property
    def is_whole(self) -> bool:
        """Whether `inner` is; a given bound may shrink it to anything."""
        return self.inner.is_whole and self.omega_bound is None

    def _factor(self, vector: Tensor) -> float:
        omega = self.inner.omega(vector) if self.omega_bound is None else self.omega_bound
        if omega is None:
            raise ValueError(f"{self.inner!r} has no formula for omega: give Scaled an omega_bound")
        return 1 / (1 + omega)
