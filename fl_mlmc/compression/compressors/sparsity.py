"""How many coordinates a sparsifier keeps, with what probability each, and how few of them fit into a budget."""

import inspect
import math
from collections.abc import Callable
from dataclasses import field
from functools import wraps
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..blocks import most_listed
from ..pointwise import STRETCH, energy, peak, total
from .base import Compressor
from .values import Values, composed, longest_values, quantiser

_ROUNDING = 1e-9
_SURELY = 1 - 1e-9
_FRAME = 14 + 5 + 8  # headers of the payload and of its block, and the longest head of a body

C = TypeVar("C", bound=Compressor)


class Sparsity(Protocol):
    """Options `fraction`, `count` or `omega`, exactly one of them."""

    @property
    def fraction(self) -> float | None:
        """The share of the coordinates to keep, in (0, 1]."""

    @property
    def count(self) -> int | None:
        """The number of coordinates to keep, at least 1."""

    @property
    def omega_bound(self) -> float | None:
        """The ω that no vector's may be above: as few coordinates are kept as that takes."""


def bounded() -> float | None:
    """The field `omega_bound`, whose name in calls and texts is `omega`: there that is no method. See `takes_omega`."""
    return field(default=None, metadata={"option": "omega"})


def takes_omega(kind: type[C]) -> type[C]:
    """Class decorator: `RandK(omega=9)` sets the field `omega_bound`, as `omega` is what a compressor is asked for."""
    plain = kind.__init__

    @wraps(plain)
    def init(self: C, *args: object, omega: float | None = None, **options: object) -> None:
        plain(self, *args, **({"omega_bound": omega} if omega is not None else {}), **options)

    signature = inspect.signature(plain)
    init.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            each.replace(name="omega") if each.name == "omega_bound" else each for each in signature.parameters.values()
        ]
    )
    kind.__init__ = init  # type: ignore[method-assign, assignment]
    return kind


def check_sparsity(owner: Sparsity) -> None:
    """ValueError unless exactly one of fraction in (0, 1], count ≥ 1 and omega > 0 is given."""
    name = type(owner).__name__
    if [owner.fraction, owner.count, owner.omega_bound].count(None) != 2:
        raise ValueError(f"{name} takes one of fraction=…, count=… and omega=…, got {owner!r}")
    if owner.fraction is not None and not (isinstance(owner.fraction, int | float) and 0 < owner.fraction <= 1):
        raise ValueError(f"{name}'s fraction is a number in (0, 1], got {owner.fraction!r}")
    if owner.count is not None and (not isinstance(owner.count, int) or owner.count < 1):
        raise ValueError(f"{name}'s count is a whole number of at least 1, got {owner.count!r}")
    bound = owner.omega_bound
    if bound is not None and not (isinstance(bound, int | float) and 0 < bound < math.inf):
        raise ValueError(f"{name}'s omega is a number above 0, got {bound!r}")


def num_kept(owner: Sparsity, size: int) -> int:
    """Coordinates that it keeps of `size`: at least one, at most all; of no vector more, with an `omega_bound`."""
    if owner.omega_bound is not None:
        return max(1, math.ceil(size / (1 + owner.omega_bound) - _ROUNDING))
    wanted = owner.count if owner.fraction is None else round(owner.fraction * size)
    return min(max(1, wanted or 1), size)


def num_drawn(owner: Sparsity, vector: Tensor) -> int:
    """Coordinates that a sampler with the best chances keeps of this vector: the fewest that its `omega_bound` allows.

    For the least Σ p_j with Σ v_j² / p_j ≤ (1 + ω)‖v‖² chances are min(1, c |v_j|) too. c follows from those that are
    certain, and they from c; it only grows.
    """
    most, bound = num_kept(owner, vector.numel()), owner.omega_bound
    if bound is None or not vector.any():
        return most
    allowed, mass = (1 + bound) * energy(vector), total(vector)
    certain, num_certain = torch.zeros_like(vector, dtype=torch.bool), 0
    while mass > 0:
        scale = mass / allowed
        certain = vector.abs() * scale >= 1
        if int(torch.count_nonzero(certain)) <= num_certain:
            break
        num_certain = int(torch.count_nonzero(certain))
        allowed, mass = (1 + bound) * energy(vector) - energy(vector[certain]), total(vector[~certain])
    needed = num_certain + (mass * mass / allowed if mass > 0 else 0.0)
    return min(max(1, math.ceil(needed - _ROUNDING)), most)


def inclusion_scale(vector: Tensor, count: int) -> float:
    """c such that the chances min(1, c |v_j|) sum to `count`, or to the number of non-zeros if that is less.

    These chances make Σ v_j² / p_j smallest for their sum. Coordinates that reach 1 are taken out and the rest share
    what is left, until no more do.
    """
    mass, num_full = total(vector), 0
    if count * peak(vector) < mass * _SURELY:  # no chance reaches 1, so that there are more of them than `count`
        return count / mass
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


def sparse_omega(vector: Tensor, scale: float, values: Values) -> float | None:
    """Σ v_j² (1 / p_j − 1) / ‖v‖² for p = inclusion(v, scale), and what the quantiser of the values v_j / p_j adds.

    None where no formula has that.
    """
    inner = quantiser(values)
    excess = norm = 0.0
    for part in vector.split(STRETCH):
        chances, squares = inclusion(part, scale), part.double().square()
        excess += float((squares * (1 / chances.clamp(min=np.finfo(np.float64).tiny) - 1)).sum())
        norm += float(squares.sum())
        if inner.even_omega is None:
            kept = chances > 0
            variances = inner.variances((part[kept].double() / chances[kept]).float())
            if variances is None:
                return None
            excess += float((chances[kept] * variances).sum())
    return composed(excess / norm, inner.even_omega or 0.0) if norm > 0 else 0.0


def equal_chances_omega(owner: Sparsity, size: int) -> float:
    """d / k − 1, the ω of keeping every coordinate with the chance k / d (Horváth and Richtárik, arXiv 2006.11077).

    Chances that are best for the vector do no worse, and as badly where all magnitudes are equal. An `omega_bound` is
    it itself: vectors that need fewer coordinates are given fewer.
    """
    return size / num_kept(owner, size) - 1 if owner.omega_bound is None else owner.omega_bound


def longest_sparse(size: int, kept: int, values: Values = "float32") -> int:
    """The most bytes of a payload that holds up to `kept` of `size` coordinates and where they are."""
    kept = min(kept, size)
    listed = min(kept, most_listed(size))
    # Rice code of gaps: with b low bits, b = ⌊log2 mean⌋, a gap takes at most b + 3 bits, and log2 is concave.
    places = math.ceil(listed * (math.log2(1 + size / listed) + 3) / 8) + 2 * math.ceil(listed / 4096)
    if kept > listed:  # marks, a bit for each coordinate at most
        places = max(places, 1 + math.ceil(size / 8))
    return _FRAME + min(4 * size, longest_values(values, kept) + places)


def longest_seeded(kept: int, values: Values) -> int:
    """The most bytes of a payload that holds `kept` coordinates whose places follow from a seed."""
    return _FRAME + longest_values(values, kept)


def keeping_fewer(owner: C, size: int, budget: int, most: int, keeping: Callable[[int], C]) -> C:
    """`owner`, which keeps `most` coordinates, if it is sure to fit; else `keeping(count)` for the most that are.

    ValueError where not even one coordinate fits.
    """
    if _fits(owner, size, budget):
        return owner
    fits, too_many = 0, most
    while too_many - fits > 1:
        count = (fits + too_many) // 2
        fits, too_many = (count, too_many) if _fits(keeping(count), size, budget) else (fits, count)
    if fits == 0:
        raise ValueError(f"{budget} bytes does not hold a payload of one coordinate, the least that {owner!r} can send")
    return keeping(fits)


def _fits(compressor: Compressor, size: int, budget: int) -> bool:
    length = compressor.longest(size)
    return length is not None and length <= budget
