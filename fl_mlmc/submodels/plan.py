"""Index plans: where each coordinate of a submodel lies in the full model.

A plan is a pure function of its arguments, so server and client compute the same one and nobody sends it. It holds
the kept units of each hidden dimension and nothing the size of a model: tensors are cut by slices where the kept
units are one run or two (nested and rolling windows), by rows of indices where they are scattered.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor

from ..rng import stream
from .rules import rule_named
from .width_spec import Axis, WidthSpec

Slices = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """The coordinates of one submodel. `kept`: the ascending indices of each hidden dimension's kept units."""

    spec: WidthSpec
    kept: Mapping[str, np.ndarray]

    @cached_property
    def units(self) -> dict[str, int]:
        """Units of each hidden dimension of the submodel."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @cached_property
    def is_full(self) -> bool:
        """Whether the submodel is the whole model."""
        return self.units == dict(self.spec.units)

    @cached_property
    def size(self) -> int:
        """Number of coordinates of the submodel."""
        return sum(cut.own_size for cut in self._cuts)

    @cached_property
    def own_spec(self) -> WidthSpec:
        """The spec of the submodel itself, by which it can be cut further."""
        return self.spec.cut(self.units)

    def gather(self, vector: Tensor) -> Tensor:
        """Cut the submodel, shape (size,), out of the full model's flat vector."""
        if self.is_full:
            return vector
        out = vector.new_empty(self.size)
        for cut in self._cuts:
            cut.gather(vector, out)
        return out

    def scatter_add(self, accumulator: Tensor, update: Tensor, scale: float = 1) -> None:
        """Add `scale` times a submodel's update, shape (size,), to its places in `accumulator`."""
        update = update.to(accumulator.device)
        if self.is_full:
            accumulator.add_(update, alpha=scale)
            return
        for cut in self._cuts:
            cut.scatter_add(accumulator, update, scale)

    def places(self, own: Tensor) -> Tensor:
        """The full model's coordinate for each of the submodel's; `own` int64, ascending."""
        if self.is_full:
            return own
        starts = torch.tensor([cut.own_start for cut in self._cuts] + [self.size], device=own.device)
        bounds = torch.searchsorted(own.contiguous(), starts).tolist()
        parts = [
            cut.places(own[first:last])
            for cut, first, last in zip(self._cuts, bounds[:-1], bounds[1:], strict=True)
            if last > first
        ]
        return torch.cat(parts) if parts else own

    @property
    def indices(self) -> Tensor:
        """int64 of shape (size,): the full model's coordinate for each of the submodel's. Built anew at each call."""
        return self.places(torch.arange(self.size))

    def only(self, dimension: str, units: np.ndarray) -> "IndexPlan":
        """The plan that keeps just `units` of one hidden dimension, and all else as here."""
        return IndexPlan(self.spec, {**self.kept, dimension: np.intersect1d(self.kept[dimension], units)})

    @cached_property
    def _cuts(self) -> tuple["_Cut", ...]:
        cuts, start, own_start = [], 0, 0
        for name, shape in self.spec.shapes.items():
            if self.spec.has(name, self.units):
                cut = _Cut.of(start, own_start, shape, self.spec.axes[name], self.spec.units, self.kept)
                cuts.append(cut)
                own_start += cut.own_size
            start += math.prod(shape)
        return tuple(cuts)


def plan(spec: WidthSpec, rule: str, width: float, server_round: int = 0, client: int = 0, seed: int = 0) -> IndexPlan:
    """The submodel that `client` holds in `server_round` at `width`, by a rule of `RULES`."""
    chosen = rule_named(rule)
    return _plan(spec, rule, width, server_round if chosen.per_round else 0, client if chosen.per_client else 0, seed)


@lru_cache(maxsize=64)
def _plan(spec: WidthSpec, rule: str, width: float, server_round: int, client: int, seed: int) -> IndexPlan:
    chosen = rule_named(rule)
    counts = spec.kept_depth(width) if chosen.cuts_depth else spec.kept(width)
    kept = {}
    for name, count in counts.items():
        if count == spec.units[name]:
            kept[name] = np.arange(count)
        else:
            rng = stream(seed, "plan", rule, name, server_round, client)
            kept[name] = chosen.pick(spec.units[name], count, server_round, rng)
    return IndexPlan(spec, kept)


@dataclass(frozen=True, eq=False)
class _Cut:
    """One tensor's part of a plan, with its axes split so that every one is either whole or follows kept units."""

    start: int
    own_start: int
    shape: tuple[int, ...]
    own_shape: tuple[int, ...]
    kept: tuple[np.ndarray | None, ...]
    """Kept positions along each axis of `shape`; None: all of them. The last axis is whole."""

    @classmethod
    def of(
        cls,
        start: int,
        own_start: int,
        shape: tuple[int, ...],
        axes: tuple[Axis | None, ...],
        units: Mapping[str, int],
        kept: Mapping[str, np.ndarray],
    ) -> "_Cut":
        lengths: list[int] = []
        picks: list[np.ndarray | None] = []
        for axis, length in zip(axes, shape, strict=True):
            if axis is None or len(kept[axis.units]) == units[axis.units]:
                factors: list[tuple[int, np.ndarray | None]] = [(length, None)]
            else:
                factors = [(axis.outer, None), (units[axis.units], kept[axis.units]), (axis.inner, None)]
            for factor, pick in factors:
                if picks and pick is None and picks[-1] is None:
                    lengths[-1] *= factor  # neighbours that are both whole are one axis
                else:
                    lengths.append(factor)
                    picks.append(pick)
        if not picks or picks[-1] is not None:
            lengths.append(1)
            picks.append(None)
        own = tuple(length if pick is None else len(pick) for length, pick in zip(lengths, picks, strict=True))
        return cls(start, own_start, tuple(lengths), own, tuple(picks))

    @property
    def own_size(self) -> int:
        return math.prod(self.own_shape)

    def gather(self, vector: Tensor, out: Tensor) -> None:
        source, target = self._views(vector, out)
        if self._slices is None:
            rows = self._rows().to(vector.device)
            torch.index_select(source.view(-1, self.shape[-1]), 0, rows, out=target.view(-1, self.shape[-1]))
        else:
            for where, own in self._slices:
                target[own].copy_(source[where])

    def scatter_add(self, accumulator: Tensor, update: Tensor, scale: float) -> None:
        target, source = self._views(accumulator, update)
        if self._slices is None:
            rows = self._rows().to(accumulator.device)
            values = source.reshape(-1, self.shape[-1]).to(accumulator.dtype)
            target.view(-1, self.shape[-1]).index_add_(0, rows, values, alpha=scale)
        else:
            for where, own in self._slices:
                target[where].add_(source[own], alpha=scale)

    def places(self, own: Tensor) -> Tensor:
        rest, stride = own - self.own_start, 1
        out = torch.full_like(own, self.start)
        for length, own_length, pick in reversed(list(zip(self.shape, self.own_shape, self.kept, strict=True))):
            along = rest % own_length
            rest = torch.div(rest, own_length, rounding_mode="floor")
            out += (along if pick is None else torch.from_numpy(pick).to(own.device)[along]) * stride
            stride *= length
        return out

    def _views(self, full: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return (
            full[self.start : self.start + math.prod(self.shape)].view(self.shape),
            own[self.own_start : self.own_start + self.own_size].view(self.own_shape),
        )

    @cached_property
    def _slices(self) -> tuple[tuple[Slices, Slices], ...] | None:
        """The boxes that make up the cut, as slices of the full and the own tensor; None where units are scattered."""
        per_axis: list[list[tuple[slice, slice]]] = []
        for pick in self.kept:
            runs = [(slice(None), slice(None))] if pick is None else list(_runs(pick))
            if len(runs) > 2:
                return None
            per_axis.append(runs)
        return tuple(
            (tuple(where for where, _ in boxes), tuple(own for _, own in boxes)) for boxes in product(*per_axis)
        )

    def _rows(self) -> Tensor:
        """int64: the rows that are kept, once all axes but the last are taken for one."""
        grid = torch.zeros((), dtype=torch.int64)
        for length, pick in zip(self.shape[:-1], self.kept[:-1], strict=True):
            along = torch.arange(length) if pick is None else torch.from_numpy(pick)
            grid = grid[..., None] * length + along
        return grid.reshape(-1)


def _runs(kept: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Runs of neighbours among ascending positions: where they lie, and where among the kept."""
    ends = [0, *(np.flatnonzero(np.diff(kept) != 1) + 1).tolist(), len(kept)]
    for first, last in pairwise(ends):
        if last > first:
            yield slice(int(kept[first]), int(kept[last - 1]) + 1), slice(first, last)
