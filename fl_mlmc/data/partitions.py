"""Who owns which training rows: the `partition` texts and what they mean.

    iid               equal shares of one random order
    dirichlet:ALPHA   each class is divided by Dirichlet(ALPHA, ..., ALPHA) proportions
                      (Yurochkin et al. 2019, arXiv 1905.12022; flwr-datasets' DirichletPartitioner)
    shards:COUNT      rows sorted by label, cut into COUNT equal shards a client, dealt out at random
                      (McMahan et al. 2017, arXiv 1602.05629, section 3)
    by:COLUMN         one client for each distinct value of a column, in sorted order

Whatever the text, each row has exactly one owner and each client owns at least one row; only `iid` serves more
clients than there are rows, several of which then own the same row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..run.rng import stream

ALLOWED = "iid, dirichlet:ALPHA (ALPHA > 0), shards:COUNT (COUNT >= 1), by:COLUMN"

Rows = NDArray[np.int64]


class Partition(Protocol):
    """A rule that shares rows out; `str` of it is its text."""

    needs_classes: ClassVar[bool]
    """Whether it goes by the rows' classes."""

    def shares(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        """The rows of each client, int64. `values` (rows,): a row's label, for `by:` its cell in COLUMN."""
        ...


@dataclass(frozen=True)
class Iid:
    """What IidPartitioner gives on a shuffled data set, without its one call per client.

    More clients than rows get one row each, and rows several owners: populations are then as large as one likes.
    """

    needs_classes: ClassVar[bool] = False

    def shares(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        """Equal parts of one random order, or a row each where there are more clients than rows."""
        order = stream(seed, "partition").permutation(len(values))
        if num_clients > len(order):
            return list(np.resize(order, (num_clients, 1)))
        return np.array_split(order, num_clients)

    def __str__(self) -> str:
        return "iid"


@dataclass(frozen=True)
class Dirichlet:
    """Each class divided by proportions drawn from Dirichlet(alpha, …, alpha); a smaller `alpha` is less even."""

    alpha: float
    needs_classes: ClassVar[bool] = True

    def shares(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        """The first of 50 draws that leaves nobody out; ValueError if none does, or one leaves out more than ten."""
        for attempt in range(50):
            shares = self._draw(values, num_clients, int(stream(seed, "partition", attempt).integers(2**63)))
            num_empty = sum(len(rows) == 0 for rows in shares)
            if num_empty == 0:
                return shares
            if num_empty > 10:  # the chance that a draw leaves nobody out is then near exp(-10)
                break
        raise ValueError(
            f"partition '{self}' leaves {num_empty} of {num_clients} clients without a training example "
            f"({len(values)} rows, {attempt + 1} draws); every client needs one. "
            f"Take fewer clients or a larger alpha"
        )

    def _draw(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        from datasets import Dataset
        from flwr_datasets.partitioner import DirichletPartitioner

        # The partitioner would redraw by itself for a minimum above 0, but warns each time and takes
        # eleven slow draws to give up on a hopeless request.
        partitioner = DirichletPartitioner(num_clients, "label", self.alpha, min_partition_size=0, seed=seed)
        partitioner.dataset = Dataset.from_dict({"label": values})
        # Asking for num_partitions makes it draw; load_partition() would then build a Dataset per client
        # (1 ms each) around the rows that this attribute already holds.
        assert partitioner.num_partitions == num_clients
        return [np.asarray(rows, dtype=np.int64) for rows in partitioner._partition_id_to_indices.values()]

    def __str__(self) -> str:
        return f"dirichlet:{self.alpha}"


@dataclass(frozen=True)
class Shards:
    """Label-sorted shards whose sizes differ by at most one.

    ShardPartitioner drops the rows left over after equal shards, all of them of the last classes (117 of
    1,437 for 60 clients with 2 shards each), so it cannot give each row an owner.
    """

    count: int
    needs_classes: ClassVar[bool] = True

    def shares(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        """`count` random shards each; ValueError if there are fewer rows than shards."""
        num_shards = num_clients * self.count
        if num_shards > len(values):
            raise ValueError(
                f"partition '{self}' needs {num_shards} shards for {num_clients} clients, there are only "
                f"{len(values)} training rows. Take fewer clients or fewer shards a client"
            )
        shards = np.array_split(np.argsort(values, kind="stable"), num_shards)
        dealt = stream(seed, "partition").permutation(num_shards).reshape(num_clients, self.count)
        return [np.concatenate([shards[shard] for shard in hand]) for hand in dealt]

    def __str__(self) -> str:
        return f"shards:{self.count}"


@dataclass(frozen=True)
class By:
    """What NaturalIdPartitioner gives, without its loop and progress bar over rows."""

    column: str
    needs_classes: ClassVar[bool] = False

    def shares(self, values: NDArray[Any], num_clients: int, seed: int) -> Sequence[Rows]:
        """A client for each distinct value, in sorted order; ValueError if these are not `num_clients`."""
        ids, owner = np.unique(values, return_inverse=True)
        if len(ids) != num_clients:
            raise ValueError(
                f"partition '{self}' makes one client of each of the {len(ids)} distinct values in column "
                f"{self.column!r}, num-clients is {num_clients}. Set num-clients to {len(ids)}"
            )
        return np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])

    def __str__(self) -> str:
        return f"by:{self.column}"


def parse_partition(text: str) -> Partition:
    """The rule that a `partition` text names; ValueError that lists the allowed ones."""
    kind, _, argument = text.strip().partition(":")
    try:
        match kind:
            case "iid" if ":" not in text:
                return Iid()
            case "dirichlet" if 0 < float(argument) < math.inf:
                return Dirichlet(float(argument))
            case "shards" if int(argument) >= 1:
                return Shards(int(argument))
            case "by" if argument:
                return By(argument)
    except ValueError:
        pass  # not a number: the text is refused below with the others
    raise ValueError(f"partition is {text!r}, allowed: {ALLOWED}")


def partition_indices(values: NDArray[Any], spec: str, num_clients: int, seed: int) -> tuple[Rows, Rows]:
    """`order` and `offsets`: client c owns the rows order[offsets[c] : offsets[c + 1]].

    Both are int64, (rows,) and (clients + 1,). `values` (rows,) has one entry a training row: its label, or for
    `by:COLUMN` its cell in that column.
    A pure function of its arguments. ValueError where a client would get no row.
    """
    partition = parse_partition(spec)
    if num_clients < 1 or (num_clients > len(values) and not isinstance(partition, Iid)):
        raise ValueError(
            f"num-clients is {num_clients}, expected 1 to {len(values)}: every client needs one of the "
            f"{len(values)} training rows"
        )
    shares = partition.shares(values, num_clients, seed)
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in shares])])
    return np.concatenate(shares).astype(np.int64), offsets.astype(np.int64)
