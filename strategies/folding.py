"""What a round's updates are folded into, as the run config says."""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

import torch
from torch import Tensor

from fl_mlmc.aggregate import CoverageMean, Mean
from fl_mlmc.blocks import Payload
from fl_mlmc.config import RunConfig
from fl_mlmc.privacy import PrivateMean
from fl_mlmc.robust import TrimmedMean, parse_aggregation
from fl_mlmc.submodels import IndexPlan


class Fold(Protocol):
    """Takes one update at a time and gives the round's."""

    def add(self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None = None) -> None: ...

    def result(self) -> Mean: ...


class Folding:
    """Makes the Fold of each round. `plan_of` gives a client's plan, or None of a client that was never seen."""

    def __init__(self, config: RunConfig, size: int, plan_of: Callable[[int], IndexPlan | None]) -> None:
        self._config, self._size, self._plan_of = config, size, plan_of
        self._expected: Tensor | None = None

    def start(self) -> Fold:
        """The empty Fold of a round."""
        aggregation = parse_aggregation(self._config.aggregation)
        if self._config.dp_noise:
            if self._expected is None:
                self._expected = self._expected_holders(range(self._config.num_clients))
            return PrivateMean(self._config.dp_clip, self._config.dp_noise, self._expected)
        return TrimmedMean(self._size, aggregation.trim) if aggregation.is_robust else CoverageMean(self._size)

    def _expected_holders(self, clients: Iterable[int]) -> Tensor:
        holders = torch.zeros(self._size, dtype=torch.float64)
        for client in clients:
            own = self._plan_of(client)
            if own is None:  # it may hold anything
                holders += 1
            else:
                own.scatter_add(holders, holders.new_ones(1).expand(own.size))
        return holders * (self._config.clients_per_round / self._config.num_clients)
