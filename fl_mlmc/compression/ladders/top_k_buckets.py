"""Groups of Top-k in buckets: of each bucket the coordinates of one group, drawn by their norm there.

Groups are those of the whole vector, so that a bucket without large coordinates does not draw among the first ones.
A bucket whose coordinates all are in one group sends all of them: payloads have no bound but the vector's own.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, SparseBlock
from .buckets import Buckets, Pieces, num_buckets

_DENSE = 8  # pairs of bucket and level for each coordinate, up to which all are counted


class TopKBuckets(Buckets):
    """`levels[j]` is the group, from 1 on, of coordinate j of `vector`; a coordinate that is sent takes `bits`."""

    def __init__(self, vector: Tensor, levels: np.ndarray, bucket: int, bits: float) -> None:
        self.size, self.bucket = vector.numel(), bucket
        self._vector, self._levels, self._bits = vector, levels, bits

    @cached_property
    def pieces(self) -> Pieces:  # type: ignore[override]
        """Groups within buckets."""
        values = self._vector.cpu().numpy().astype(np.float64)
        most = int(self._levels.max()) + 1
        pairs = self._buckets * most + self._levels
        if num_buckets(self.size, self.bucket) * most <= _DENSE * self.size:
            found, places = np.arange(num_buckets(self.size, self.bucket) * most), pairs
        else:
            found, places = np.unique(pairs, return_inverse=True)
        counts = np.bincount(places, minlength=found.size)
        norms = np.sqrt(np.bincount(places, values**2, found.size))
        kept = np.flatnonzero(norms)
        buckets, levels = np.divmod(found[kept], most)
        return Pieces(num_buckets(self.size, self.bucket), buckets, levels, norms[kept], counts[kept] * self._bits)

    def estimate(self, levels: np.ndarray, factors: np.ndarray) -> tuple[Block, ...]:
        """One sparse block."""
        values = self._vector.cpu().numpy()
        places = np.flatnonzero((levels[self._buckets] == self._levels) & (values != 0))
        if places.size == 0:
            return ()
        # In float64: a rare group of tiny entries has a factor beyond float32 although the products are not.
        with np.errstate(over="ignore"):  # what is beyond float32 is refused as values
            sent = torch.from_numpy((values[places] * factors[self._buckets[places]]).astype(np.float32))
        device = self._vector.device
        return (SparseBlock(self.size, torch.from_numpy(places).to(device), sent.to(device)),)

    @cached_property
    def _buckets(self) -> np.ndarray:
        """(size,) the bucket of each coordinate."""
        return np.arange(self.size) // self.bucket
