"""What a round's updates are folded into, as the run config says."""

from collections.abc import Iterable

import torch

from fl_mlmc.aggregation import CoverageMean, Fold, PrivateMean, TrimmedMean
from fl_mlmc.aggregation.server_step import LARGEST_UPDATE
from fl_mlmc.aggregation.trimmed import parse_aggregation
from fl_mlmc.run.config import RunConfig
from fl_mlmc.submodels import IndexPlan


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
        aggregation, privacy = parse_aggregation(self._config.aggregation.rule), self._config.privacy
        if privacy.noise:
            return PrivateMean(privacy.clip, privacy.noise, self._expected, LARGEST_UPDATE)
        if aggregation.is_robust:
            return TrimmedMean(self._size, aggregation.trim, LARGEST_UPDATE)
        return CoverageMean(self._size, LARGEST_UPDATE)
