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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..own import references
from ..run.rng import stream
from .rules import RULES, Rule, rule_named
from .width_spec import Axis, WidthSpec

TABLE_SIZE = 2**22
"""Coordinates of a plan that is worth a table, 8 bytes each."""

WORTH_A_CALL = 1500
"""Coordinates of a tensor below which a call costs more than to go through them one by one."""


@dataclass(frozen=True, eq=False)
class IndexPlan:
    """The coordinates of one submodel. `kept`: the ascending indices of each hidden dimension's kept units.

    `lasts`: the same plan serves many clients and rounds, so places are looked up in a table that is made once.
    """

    spec: WidthSpec
    kept: Mapping[str, np.ndarray]
    lasts: bool = False

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
        if vector.device.type != "cpu":
            return vector[self.indices.to(vector.device)]
        out = vector.new_empty(self.size)
        full, own = vector.contiguous().numpy(), out.numpy()
        parts, places, own_places = self._parts
        own[own_places] = full[places]
        for cut in parts:
            cut.gather(full, own)
        return out

    def scatter_add(self, accumulator: Tensor, update: Tensor | float, scale: float = 1) -> None:
        """Add `scale` times a submodel's update, shape (size,) or one number for all, to its places in `accumulator`.

        `accumulator` is contiguous.
        """
        if not isinstance(update, Tensor):
            update = accumulator.new_full((1,), update).expand(self.size)
        update = update.to(accumulator.device)
        if self.is_full:
            accumulator.add_(update, alpha=scale)
            return
        if accumulator.device.type != "cpu":
            accumulator[self.indices.to(accumulator.device)] += (update * scale).to(accumulator.dtype)
            return
        full, own = accumulator.numpy(), update.numpy()
        parts, places, own_places = self._parts
        full[places] += (own[own_places] * scale).astype(full.dtype, copy=False)
        for cut in parts:
            cut.scatter_add(full, own, scale)

    def places(self, own: Tensor) -> Tensor:
        """The full model's coordinate for each of the submodel's; `own` int64, ascending."""
        if self.is_full:
            return own
        if self.lasts and self.size <= TABLE_SIZE:
            return self._table.to(own.device)[own]
        return self._places(own)

    @cached_property
    def _table(self) -> Tensor:
        return self.indices

    def _places(self, own: Tensor) -> Tensor:
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
        return self._places(torch.arange(self.size))

    def only(self, dimension: str, units: np.ndarray) -> "IndexPlan":
        """The plan that keeps of one hidden dimension just `units`, ascending int64, and all else as here."""
        return IndexPlan(self.spec, {**self.kept, dimension: np.intersect1d(self.kept[dimension], units)})

    @cached_property
    def _parts(self) -> tuple[tuple["_Cut", ...], np.ndarray, np.ndarray]:
        """The cuts that are worth a call of their own, and where all coordinates of the others lie, there and here."""
        few = [cut for cut in self._cuts if cut.own_size < WORTH_A_CALL]
        own = [torch.arange(cut.own_start, cut.own_start + cut.own_size) for cut in few]
        there = [cut.places(part) for cut, part in zip(few, own, strict=True)]
        places, own_places = (torch.cat([torch.empty(0, dtype=torch.int64), *parts]).numpy() for parts in (there, own))
        return tuple(cut for cut in self._cuts if cut not in few), places, own_places

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
    at = server_round if chosen.per_round else 0, client if chosen.per_client else 0
    # A rule of one's own draws by its name: where its file lies changes no result.
    name = rule if rule in RULES else ", ".join(part.name for part in references(rule))
    return _plan(spec, chosen, name, width, *at, seed)


@lru_cache(maxsize=64)
def _plan(
    spec: WidthSpec, chosen: Rule, rule: str, width: float, server_round: int, client: int, seed: int
) -> IndexPlan:
    counts = spec.kept_depth(width) if chosen.cuts_depth else spec.kept(width)
    kept = {}
    for name, count in counts.items():
        if count == spec.units[name]:
            kept[name] = np.arange(count)
        else:
            rng = stream(seed, "plan", rule, name, server_round, client)
            kept[name] = chosen.picked(spec.units[name], count, server_round, rng)
    return IndexPlan(spec, kept, lasts=not (chosen.per_round or chosen.per_client))


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

    # NumPy, not PyTorch: a model has dozens of tensors, a narrow one little in each, and a view costs a third there.

    def gather(self, full: np.ndarray, own: np.ndarray) -> None:
        own = own[self.own_start : self.own_start + self.own_size]
        if self._boxes is None:
            runs = self._run(full)
            np.take(self._all(full).view(runs), self._rows(), out=own.view(runs), mode="clip")
            return
        for box in self._boxes:
            box.own.of(own)[...] = box.full.of(full)

    def scatter_add(self, full: np.ndarray, own: np.ndarray, scale: float) -> None:
        own = own[self.own_start : self.own_start + self.own_size]
        if scale != 1 or own.dtype != full.dtype or not own.flags.c_contiguous:
            own = np.multiply(own, scale, dtype=full.dtype)
        if self._boxes is None:
            runs, rows = self._all(full).view(self._run(full)), self._rows()
            here = np.take(runs, rows, mode="clip").view(full.dtype)
            here += own
            runs[rows] = here.view(runs.dtype)  # rows differ
            return
        for box in self._boxes:
            target = box.full.of(full)
            target += box.own.of(own)

    def places(self, own: Tensor) -> Tensor:
        rest, stride = own - self.own_start, 1
        out = torch.full_like(own, self.start)
        for length, own_length, pick in reversed(list(zip(self.shape, self.own_shape, self.kept, strict=True))):
            along = rest % own_length
            rest = torch.div(rest, own_length, rounding_mode="floor")
            out += (along if pick is None else torch.from_numpy(pick).to(own.device)[along]) * stride
            stride *= length
        return out

    def _all(self, full: np.ndarray) -> np.ndarray:
        return full[self.start : self.start + math.prod(self.shape)]

    def _run(self, array: np.ndarray) -> np.dtype:
        """All of the last axis, which is whole, as one item."""
        length = self.shape[-1]
        return array.dtype if length == 1 else np.dtype((np.void, length * array.itemsize))

    @cached_property
    def _boxes(self) -> tuple["_Box", ...] | None:
        """The boxes of neighbours that make up the cut; None where units are scattered."""
        per_axis: list[list[tuple[int, int, int]]] = []
        for length, pick in zip(self.shape, self.kept, strict=True):
            runs = [(0, 0, length)] if pick is None else list(_runs(pick))
            if len(runs) > 2:
                return None
            per_axis.append(runs)
        strides, own_strides = _strides(self.shape), _strides(self.own_shape)
        boxes = []
        for box in product(*per_axis):
            lengths = tuple(length for _, _, length in box)
            start = self.start + sum(first * stride for (first, _, _), stride in zip(box, strides, strict=True))
            own = sum(first * stride for (_, first, _), stride in zip(box, own_strides, strict=True))
            boxes.append(_Box(_View(lengths, strides, start), _View(lengths, own_strides, own)))
        return tuple(boxes)

    def _rows(self) -> np.ndarray:
        """int64: the rows that are kept, once all axes but the last are taken for one."""
        rows = np.zeros(1, np.int64)
        for length, pick in zip(self.shape[:-1], self.kept[:-1], strict=True):
            rows = np.add.outer(rows * length, np.arange(length) if pick is None else pick).reshape(-1)
        return rows


class _View(NamedTuple):
    """A box of a flat vector, of a full one or of a cut's own."""

    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    start: int

    def of(self, vector: np.ndarray) -> np.ndarray:
        size = vector.itemsize
        return np.ndarray(
            self.lengths, vector.dtype, vector, self.start * size, tuple([stride * size for stride in self.strides])
        )


class _Box(NamedTuple):
    full: _View
    own: _View


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[position + 1 :]) for position in range(len(shape)))


def _runs(kept: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Runs of neighbours among ascending positions: the first of each, its place among the kept, and the length."""
    ends = [0, *(np.flatnonzero(np.diff(kept) != 1) + 1).tolist(), len(kept)]
    for first, last in pairwise(ends):
        if last > first:
            yield int(kept[first]), first, last - first
