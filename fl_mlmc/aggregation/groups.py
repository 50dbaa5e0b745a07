"""The order of sums: a cohort is cut into groups, a group is summed in order, and groups are added in order.

Sums of floats depend on their order. This one is part of a run's definition, so a group may be summed wherever its
clients are: the bytes are the same on every engine, with any number of workers, and after any fault.

>>> groups = Groups(10)
>>> [list(groups.ranks(number)) for number in range(len(groups))]
[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
"""

from dataclasses import dataclass
from math import ceil, isqrt

import numpy as np
from torch import Tensor

MOST_CLIENTS = 256
"""Of a group: what is lost with a worker is done again by whole groups."""


@dataclass(frozen=True)
class Groups:
    """The groups of a cohort of so many clients: neighbours by rank, their place in client order, from 0.

    1 + ⌊√n / 2⌋ clients of n, and 256 at most: few enough that no worker is left without a group, and so many that the
    sums of groups are less to carry than the updates.
    """

    cohort_size: int

    @property
    def size(self) -> int:
        """Clients of a group; the last one may have fewer."""
        return min(MOST_CLIENTS, 1 + isqrt(self.cohort_size) // 2)

    def __len__(self) -> int:
        return ceil(self.cohort_size / self.size)

    def of(self, rank: int) -> int:
        """The number of the group that a rank is in, from 0."""
        return rank // self.size

    def ranks(self, number: int) -> range:
        """The ranks of a group."""
        return range(number * self.size, min((number + 1) * self.size, self.cohort_size))

    def ends_at(self, rank: int) -> bool:
        """Whether a rank is the last of its group."""
        return rank + 1 in (self.cohort_size, (self.of(rank) + 1) * self.size)


@dataclass(frozen=True, eq=False)
class GroupSum:
    """What a group's weighted updates add up to over `size` coordinates, as it travels: the zeros may stay behind."""

    size: int
    values: np.ndarray
    """float64: all coordinates, or those at `places`."""
    places: np.ndarray | None = None
    """uint32, ascending; None: all."""

    @classmethod
    def of(cls, sums: Tensor) -> "GroupSum":
        """That of float64 `sums` (size,), in the shorter form; it may hold that very memory."""
        values = sums.numpy()
        if 3 * np.count_nonzero(values) < 2 * values.size < 2**33:  # 12 bytes a coordinate, or 8
            places = np.flatnonzero(values)
            return cls(values.size, values[places], places.astype(np.uint32))
        return cls(values.size, values)

    @property
    def num_bytes(self) -> int:
        """What travels."""
        return self.values.nbytes + (0 if self.places is None else self.places.nbytes)

    def add_to(self, sums: Tensor) -> None:
        """Add it to float64 `sums` (size,), in place."""
        sums.numpy()[slice(None) if self.places is None else self.places] += self.values  # places differ
