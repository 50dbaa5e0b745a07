"""The coverage-aware mean: every coordinate averaged over the clients that hold it."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import Block, Payload, SeededBlock, SparseBlock
from ..submodels.plan import IndexPlan
from ..submodels.width_spec import CLASSES
from .base import Aggregation, Setting
from .fold import LARGEST, Fold, Mean
from .groups import GroupSum


@dataclass(frozen=True)
class Average(Aggregation):
    """The coverage-aware mean. It goes with everything a run can have."""

    def start(self, size: int, largest: float = LARGEST) -> Fold:
        """An empty `CoverageMean`."""
        return CoverageMean(size, largest)

    def check(self, setting: Setting) -> None:
        """Nothing to refuse."""

    def __str__(self) -> str:
        return "mean"


class CoverageMean(Fold):
    """Σ wᵢ · scatter(uᵢ) / Σ wᵢ over the clients i that hold a coordinate, one update at a time.

    Memory is that of one model, however many updates are added. The sums are float64, by groups.
    """

    # The weight never depends on the drawn level: the mean stays linear in the updates, so an unbiased update stays
    # unbiased after aggregation.

    takes_parts: ClassVar[bool] = True
    is_sum: ClassVar[bool] = True

    def __init__(self, size: int, largest: float = LARGEST) -> None:
        super().__init__(size, largest)
        self._sums: Tensor | None = None  # of all groups that are over; None: none is
        self._group = torch.zeros(size, dtype=torch.float64)
        self._is_group_open = False
        self._weights = torch.zeros(size, dtype=torch.float64)
        self._coverage = torch.zeros(size, dtype=torch.int32)
        # Clients of a tier mostly share a plan: its weight is scattered once, not once a client.
        self._pending: dict[IndexPlan, tuple[float, int]] = {}

    def take(
        self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None, only: Tensor | None
    ) -> None:
        """Add it where the plan, the labels and `only` say; ValueError on labels that are none of the plan's."""
        held = plan if labels is None else _holding(plan, _checked(labels))
        counted = None if held is plan else _own_mask(plan, held)
        if only is not None:
            counted = torch.zeros(plan.size).index_fill_(0, only, 1.0)
        self._is_group_open = True
        for block in payload.blocks:
            self._add_block(plan, block, weight, counted)
        self._count(plan if only is not None else held, weight, only)

    def end_group(self) -> None:
        """Add the sum of the group under way to those before it."""
        if not self._is_group_open:
            return
        if self._sums is None:
            self._sums, self._group = self._group, torch.zeros(self._size, dtype=torch.float64)
        else:
            self._sums += self._group
            self._group.zero_()
        self._is_group_open = False

    def group_sum(self) -> GroupSum:
        """As in `Fold`; a later sum is that of a group of its own."""
        group = GroupSum.of(self._group)
        self._group = torch.zeros(self._size, dtype=torch.float64)
        self._is_group_open = False
        self._pending.clear()
        return group

    def merge(self, group: GroupSum) -> None:
        """As in `Fold`; ValueError on a sum over another number of coordinates."""
        if self._is_group_open:
            raise RuntimeError("a group is under way: the sum of another one would not be in its place")
        if group.size != self._size:
            raise ValueError(f"the group's sum has {group.size} coordinates, the model {self._size}")
        if self._sums is None:
            self._sums = torch.zeros(self._size, dtype=torch.float64)
        group.add_to(self._sums)

    def count(
        self, plan: IndexPlan, weight: float, labels: Collection[int] | None = None, only: Tensor | None = None
    ) -> None:
        """As in `Fold`."""
        self._count(plan if labels is None or only is not None else _holding(plan, _checked(labels)), weight, only)

    def _count(self, held: IndexPlan, weight: float, only: Tensor | None) -> None:
        if only is not None:
            places = held.places(only)
            self._weights[places] += weight
            self._coverage[places] += 1
            return
        total, count = self._pending.pop(held, (0.0, 0))
        self._pending[held] = (total + weight, count + 1)
        if len(self._pending) > 16:
            self._flush()

    def _mean(self) -> Mean:
        self.end_group()
        self._flush()
        sums = self._group if self._sums is None else self._sums
        weights = self._weights.clamp(min=1e-300)  # where nobody was, the sum is zero
        return Mean(torch.div(sums, weights, out=weights).float(), self._coverage.clone())

    def _add_block(self, plan: IndexPlan, block: Block, weight: float, counted: Tensor | None) -> None:
        if isinstance(block, SeededBlock):
            for part in block.parts():
                self._add_block(plan, part, weight, counted)
        elif isinstance(block, SparseBlock):
            indices, values = block.indices.to(self._group.device), block.values.to(self._group)
            if counted is not None:
                values = values * counted[indices]
            self._group.index_add_(0, plan.places(indices), values, alpha=weight)
        else:
            values = block.dense().to(self._group.device)
            plan.scatter_add(self._group, values if counted is None else values * counted, weight)

    def _flush(self) -> None:
        for plan, (weight, count) in self._pending.items():
            plan.scatter_add(self._weights, weight)
            plan.scatter_add(self._coverage, count)
        self._pending.clear()


def _checked(labels: Collection[int]) -> tuple[int, ...]:
    # Labels come from clients; what is no label must not end the round.
    if not all(type(label) is int for label in labels):
        raise ValueError(f"labels are whole numbers, got {list(labels)[:5]}")
    return tuple(sorted(set(labels)))


@lru_cache(maxsize=64)
def _holding(plan: IndexPlan, labels: tuple[int, ...]) -> IndexPlan:
    if CLASSES not in plan.kept:
        raise ValueError(
            f"averaging by label needs a model whose classifier follows the hidden dimension {CLASSES!r}; "
            f"this one has {', '.join(plan.kept)}"
        )
    if not labels or not set(labels) <= set(plan.kept[CLASSES].tolist()):
        raise ValueError(f"labels lie below {plan.spec.units[CLASSES]}, at least one, got {list(labels)}")
    return plan.only(CLASSES, np.array(labels))


def _own_mask(plan: IndexPlan, held: IndexPlan) -> Tensor:
    """float32 (plan.size,): 1 where `held` has the coordinate too; it keeps less of the classes, all else alike."""
    own = IndexPlan(plan.own_spec, {name: np.arange(count) for name, count in plan.units.items()})
    inner = own.only(CLASSES, np.searchsorted(plan.kept[CLASSES], held.kept[CLASSES]))
    mask = torch.zeros(plan.size)
    inner.scatter_add(mask, 1)
    return mask
