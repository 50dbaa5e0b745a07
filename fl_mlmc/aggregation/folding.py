"""The fold of each round: the run's aggregation, or the private mean."""

from collections.abc import Iterable

import torch

from ..submodels.plan import IndexPlan
from .base import Aggregation
from .fold import LARGEST, Fold
from .private import Private, PrivateMean


class Folding:
    """Makes the fold of each round of a run over `size` coordinates.

    With `private` its updates are clipped and their sum is noisy. `largest` as in `Fold`.
    """

    def __init__(
        self, aggregation: Aggregation, size: int, private: Private | None = None, largest: float = LARGEST
    ) -> None:
        self._aggregation, self._size, self._private, self._largest = aggregation, size, private, largest
        self._expected = torch.zeros(0, dtype=torch.float64)

    def meet(self, plans: Iterable[IndexPlan]) -> None:
        """Hear what the clients hold that are there before the first round; a private mean divides by their number."""
        if self._private:
            self._expected = self._private.expected_holders(self._size, plans)

    def start(self) -> Fold:
        """The empty fold of a round."""
        if self._private:
            return PrivateMean(self._private.clip, self._private.noise, self._expected, self._largest)
        return self._aggregation.start(self._size, self._largest)
