"""How many coordinates a sparsifier keeps, and with what probability each."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..pointwise import STRETCH, total
from .bfloat16 import Values, rounding_variance


class Sparsity(Protocol):
    """Options `fraction` or `count`, exactly one of them."""

    @property
    def fraction(self) -> float | None: ...
    @property
    def count(self) -> int | None: ...


def check_sparsity(owner: Sparsity) -> None:
    """ValueError unless exactly one of fraction in (0, 1] and count ≥ 1 is given."""
    name = type(owner).__name__
    if (owner.fraction is None) == (owner.count is None):
        raise ValueError(f"{name} takes either fraction=… or count=…, got {owner!r}")
    if owner.fraction is not None and not (isinstance(owner.fraction, int | float) and 0 < owner.fraction <= 1):
        raise ValueError(f"{name}'s fraction is a number in (0, 1], got {owner.fraction!r}")
    if owner.count is not None and (not isinstance(owner.count, int) or owner.count < 1):
        raise ValueError(f"{name}'s count is a whole number of at least 1, got {owner.count!r}")


def num_kept(owner: Sparsity, size: int) -> int:
    """Coordinates that it keeps of `size`: at least one, at most all."""
    wanted = owner.count if owner.fraction is None else round(owner.fraction * size)
    return min(max(1, wanted or 1), size)


def inclusion_scale(vector: Tensor, count: int) -> float:
    """c such that the chances min(1, c |v_j|) sum to `count`, or to the number of non-zeros if that is less.

    These chances make Σ v_j² / p_j smallest for their sum. Coordinates that reach 1 are taken out and the rest share
    what is left, until no more do.
    """
    mass, num_full = total(vector), 0
    nonzero = int(torch.count_nonzero(vector))
    if nonzero <= count:
        return float("inf")
    while True:
        scale = (count - num_full) / mass if mass > 0 else float("inf")
        full = vector.abs() >= 1 / scale
        reached = int(torch.count_nonzero(full))
        if reached in (num_full, count):  # all of them: only rounding took the last one there
            return scale
        num_full = reached
        mass = total(vector[~full])


def inclusion(part: Tensor, scale: float) -> Tensor:
    """float64 min(1, scale · |v_j|); zeros have chance zero."""
    if scale == float("inf"):
        return (part != 0).double()
    return (part.abs().double() * scale).clamp_(max=1)


def sparse_omega(vector: Tensor, scale: float, values: Values) -> float:
    """Σ v_j² (1 / p_j − 1) / ‖v‖² for p = inclusion(v, scale), and what rounding the values v_j / p_j adds."""
    excess = norm = 0.0
    for part in vector.split(STRETCH):
        chances, squares = inclusion(part, scale), part.double().square()
        excess += float((squares * (1 / chances.clamp(min=np.finfo(np.float64).tiny) - 1)).sum())
        norm += float(squares.sum())
        if values == "bfloat16":
            kept = chances > 0
            sent = (part[kept].double() / chances[kept]).float()
            excess += float((chances[kept] * rounding_variance(sent)).sum())
    return excess / norm if norm > 0 else 0.0
