"""The fold of each round: the run's aggregation, or the private mean."""

from collections.abc import Iterable
from functools import partial

import torch

from ..submodels.plan import IndexPlan
from .base import Aggregation
from .fold import LARGEST, Fold
from .ledger import Ledger
from .private import Private, PrivateMean


class Folding:
    """Makes the fold of each round of a run over `size` coordinates.

    With `private` its updates are clipped, their sum is noisy, and every noisy mean is written into the `ledger` before
    it is made; ValueError without one. `largest` as in `Fold`.
    """

    def __init__(
        self,
        aggregation: Aggregation,
        size: int,
        private: Private | None = None,
        ledger: Ledger | None = None,
        largest: float = LARGEST,
    ) -> None:
        if private and ledger is None:
            raise ValueError("a private run writes every noisy model down: give the ledger of its releases")
        self._aggregation, self.size, self._largest = aggregation, size, largest
        self._private, self._ledger = private, ledger
        self._expected = torch.zeros(0, dtype=torch.float64)

    def meet(self, plans: Iterable[IndexPlan]) -> None:
        """Hear what the clients hold that are there before the first round; a private mean divides by their number."""
        if self._private:
            self._expected = self._private.expected_holders(self.size, plans)

    def start(self, server_round: int) -> Fold:
        """The empty fold of a round."""
        private, ledger = self._private, self._ledger
        if private and ledger is not None:
            note = partial(ledger.add, server_round, private.mechanism)
            return PrivateMean(private.clip, private.noise, self._expected, self._largest, note)
        return self._aggregation.start(self.size, self._largest)
