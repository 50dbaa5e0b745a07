"""Index plans: where each coordinate of a submodel lies in the full model.

A plan is a pure function of its arguments, so server and client compute the same one and nobody sends it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..rng import stream
from .rules import rule_named
from .width_spec import Axis, WidthSpec


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """The coordinates of one submodel. `kept`: the indices of each hidden dimension's kept units."""

    spec: WidthSpec
    kept: Mapping[str, np.ndarray]

    @cached_property
    def units(self) -> dict[str, int]:
        """Units of each hidden dimension of the submodel."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @cached_property
    def is_full(self) -> bool:
        """Whether the submodel is the whole model, in its own order."""
        return all(np.array_equal(indices, np.arange(self.spec.units[name])) for name, indices in self.kept.items())

    @cached_property
    def indices(self) -> Tensor:
        """int64 of shape (size,): the full model's coordinate for each of the submodel's."""
        parts, start = [], 0
        for name, shape in self.spec.shapes.items():
            per_axis = [self._along(axis, length) for axis, length in zip(self.spec.axes[name], shape, strict=True)]
            grid = np.zeros((), np.int64)
            for picked, length in zip(per_axis, shape, strict=True):
                grid = grid[..., None] * length + picked
            parts.append(start + grid.ravel())
            start += math.prod(shape)
        return torch.from_numpy(np.concatenate(parts))

    @property
    def size(self) -> int:
        """Number of parameters of the submodel."""
        return self.indices.numel()

    def gather(self, vector: Tensor) -> Tensor:
        """Cut the submodel, shape (size,), out of the full model's flat vector."""
        return vector if self.is_full else vector[self.indices.to(vector.device)]

    def scatter_add(self, accumulator: Tensor, update: Tensor, scale: float = 1.0) -> None:
        """Add `scale` times a submodel's update, shape (size,), to its places in `accumulator`."""
        accumulator.index_add_(0, self.indices.to(accumulator.device), update.to(accumulator), alpha=scale)

    def _along(self, axis: Axis | None, length: int) -> np.ndarray:
        if axis is None:
            return np.arange(length)
        picked = self.kept[axis.units][:, None] * axis.inner + np.arange(axis.inner)
        repeats = np.arange(axis.outer)[:, None] * (length // axis.outer)
        return (repeats + picked.ravel()).ravel()


def plan(spec: WidthSpec, rule: str, width: float, server_round: int = 0, client: int = 0, seed: int = 0) -> IndexPlan:
    """The submodel that `client` holds in `server_round` at `width`, by a rule of `RULES`."""
    chosen = rule_named(rule)
    return _plan(spec, rule, width, server_round if chosen.per_round else 0, client if chosen.per_client else 0, seed)


@lru_cache(maxsize=32)
def _plan(spec: WidthSpec, rule: str, width: float, server_round: int, client: int, seed: int) -> IndexPlan:
    pick = rule_named(rule).pick
    kept = {
        name: pick(spec.units[name], count, server_round, stream(seed, "plan", rule, name, server_round, client))
        for name, count in spec.kept(width).items()
    }
    return IndexPlan(spec, kept)
