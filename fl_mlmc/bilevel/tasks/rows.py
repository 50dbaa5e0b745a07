"""A client's examples, split into those that the inner loss trains on and those that the outer loss judges by."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from ...run.rng import stream
from ..problem import Shard


class Batch(NamedTuple):
    """Examples: `features` (examples, *input shape) float32, `labels` (examples,) int64."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Minibatches drawn without replacement; the outer loss sees other examples than the inner."""

    inner_rows: Batch
    outer_rows: Batch
    batch_size: int = 32

    @classmethod
    def of(cls, shard: Shard) -> Self:
        """A client's examples in a run, shared out in the same way in every round."""
        rng = stream(shard.seed, "outer-rows", shard.client)
        return cls.split(shard.features, shard.labels, rng, shard.outer_share, shard.batch_size)

    @classmethod
    def split(
        cls, features: Tensor, labels: Tensor, rng: np.random.Generator, outer_share: float = 0.5, batch_size: int = 32
    ) -> Self:
        """Share out the examples at random: `outer_share` of them to the outer loss, at least one to each side.

        ValueError with fewer than two examples, or a share outside (0, 1).
        """
        if len(labels) < 2 or not 0 < outer_share < 1:
            raise ValueError(
                f"an inner and an outer part need two examples and a share in (0, 1), got {len(labels)} examples and "
                f"{outer_share}"
            )
        order = torch.from_numpy(rng.permutation(len(labels)))
        num_outer = min(max(1, round(outer_share * len(labels))), len(labels) - 1)
        outer, inner = order[:num_outer], order[num_outer:]
        return cls(Batch(features[inner], labels[inner]), Batch(features[outer], labels[outer]), batch_size)

    @property
    def num_examples(self) -> int:
        """All of them."""
        return len(self.inner_rows.labels) + len(self.outer_rows.labels)

    def inner(self, rng: np.random.Generator) -> Batch:
        """Training examples: `batch_size` of them, or all if there are fewer."""
        return draw(self.inner_rows, self.batch_size, rng)

    def outer(self, rng: np.random.Generator) -> Batch:
        """Validation examples, likewise."""
        return draw(self.outer_rows, self.batch_size, rng)


def draw(rows: Batch, size: int, rng: np.random.Generator) -> Batch:
    """`size` different examples at random, or all if there are no more."""
    if len(rows.labels) <= size:
        return rows
    picked = torch.from_numpy(rng.choice(len(rows.labels), size, replace=False))
    return Batch(rows.features[picked], rows.labels[picked])
