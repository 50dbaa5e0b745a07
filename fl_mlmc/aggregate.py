"""The coverage-aware mean: every coordinate averaged over the clients that hold it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Payload
from .submodels.plan import IndexPlan


@dataclass(frozen=True)
class Mean:
    """The result of a round: `update` float32 (size,), zero where nobody held the coordinate; `coverage` int32."""

    update: Tensor
    coverage: Tensor
    """How many clients held each coordinate."""


class CoverageMean:
    """Σ wᵢ · scatter(uᵢ) / Σ wᵢ over the clients i that hold a coordinate, one update at a time.

    Memory is that of one model, however many updates are added. The sums are float64.
    """

    # The weight never depends on the drawn level: the mean stays linear in the updates, so an unbiased update stays
    # unbiased after aggregation.

    def __init__(self, size: int) -> None:
        self._sums = torch.zeros(size, dtype=torch.float64)
        self._weights = torch.zeros(size, dtype=torch.float64)
        self._coverage = torch.zeros(size, dtype=torch.int32)
        # Clients of a tier mostly share a plan: its weight is scattered once, not once a client.
        self._pending: dict[IndexPlan, tuple[float, int]] = {}

    def add(self, plan: IndexPlan, payload: Payload, weight: float) -> None:
        """Fold in one client's update over its own submodel, with a weight above zero."""
        if payload.size != plan.size:
            raise ValueError(f"the update has {payload.size} coordinates, its plan {plan.size}")
        if not weight > 0:
            raise ValueError(f"a weight is positive, got {weight}")
        payload.add_to(self._sums, weight, None if plan.is_full else plan.indices)
        total, count = self._pending.pop(plan, (0.0, 0))
        self._pending[plan] = (total + weight, count + 1)
        if len(self._pending) > 16:
            self._flush()

    def result(self) -> Mean:
        """The mean of what was added so far."""
        self._flush()
        held = self._coverage > 0
        update = torch.where(held, self._sums / self._weights.clamp(min=1e-300), 0.0)
        return Mean(update.float(), self._coverage.clone())

    def _flush(self) -> None:
        for plan, (weight, count) in self._pending.items():
            places = slice(None) if plan.is_full else plan.indices
            self._weights[places] += weight
            self._coverage[places] += count
        self._pending.clear()
