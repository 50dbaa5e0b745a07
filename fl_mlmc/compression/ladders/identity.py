"""The neutral ladder: one level, the vector itself."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..blocks import DenseBlock
from .base import Ladder, Rungs


@dataclass(frozen=True, repr=False)
class Identity(Ladder):
    """Send the vector as it is, 32 bits a coordinate."""

    is_unbiased = True
    is_exact = True
    is_whole = True
    is_quantiser = True

    def climb(self, vector: Tensor) -> "IdentityRungs":
        """One rung."""
        return IdentityRungs(vector)

    def omega(self, vector: Tensor) -> float:
        """0."""
        return 0.0

    @property
    def even_omega(self) -> float:
        """0."""
        return 0.0

    def worst_omega(self, size: int) -> float:
        """0."""
        return 0.0

    def worst_draw(self, size: int, probabilities: str) -> float:
        """0: its one level is certain."""
        return 0.0


class IdentityRungs(Rungs):
    """The one increment from nothing to the vector."""

    num_levels = 1
    sends_floats = True

    def __init__(self, vector: Tensor) -> None:
        self.size = vector.numel()
        self._vector = vector

    def norms(self) -> np.ndarray:
        """(1,) ‖v‖."""
        return np.array([float(self._vector.double().norm())])

    def costs(self) -> np.ndarray:
        """(1,) 32 bits a coordinate."""
        return np.array([32.0 * self.size])

    def prior(self) -> np.ndarray:
        """(1,) certain."""
        return np.ones(1)

    def increment(self, level: int) -> DenseBlock:
        """The vector, dense."""
        return DenseBlock(self._vector)
