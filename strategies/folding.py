"""What a round's updates are folded into, as the run config says."""

from collections.abc import Collection, Iterable
from typing import Protocol

import torch
from torch import Tensor

from fl_mlmc.aggregation.mean import CoverageMean, Mean
from fl_mlmc.aggregation.private import PrivateMean
from fl_mlmc.aggregation.trimmed import TrimmedMean, parse_aggregation
from fl_mlmc.compression.blocks import Payload
from fl_mlmc.run.config import RunConfig
from fl_mlmc.submodels import IndexPlan


class Fold(Protocol):
    """Takes one update at a time and gives the round's."""

    def add(
        self,
        plan: IndexPlan,
        payload: Payload,
        weight: float,
        labels: Collection[int] | None = None,
        spoken: Tensor | None = None,
    ) -> None: ...

    def result(self) -> Mean: ...


class Folding:
    """Makes the Fold of each round."""

    def __init__(self, config: RunConfig, size: int) -> None:
        self._config, self._size = config, size
        self._expected = torch.zeros(0, dtype=torch.float64)

    def meet(self, plans: Iterable[IndexPlan]) -> None:
        """Count how many clients of a cohort hold each coordinate on average; of one not met, nothing is known."""
        if self._config.privacy.noise:
            holders, num_met = torch.zeros(self._size, dtype=torch.float64), 0
            for own in plans:
                own.scatter_add(holders, holders.new_ones(1).expand(own.size))
                num_met += 1
            holders += self._config.cohort.num_clients - num_met  # it may hold anything
            self._expected = holders * (self._config.cohort.clients_per_round / self._config.cohort.num_clients)

    def start(self) -> Fold:
        """The empty Fold of a round."""
        aggregation = parse_aggregation(self._config.aggregation.rule)
        if self._config.privacy.noise:
            return PrivateMean(self._config.privacy.clip, self._config.privacy.noise, self._expected)
        return TrimmedMean(self._size, aggregation.trim) if aggregation.is_robust else CoverageMean(self._size)
