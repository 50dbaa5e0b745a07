"""All clients of a round at once: what `bench.run` otherwise does client by client, on matrices with a row a client.

The client side of most schemes is arithmetic that keeps coordinates apart, so `Scheme.encode` runs on matrices as it
stands. Only the compressor has to be told: `sender` knows the ones of the tables, and takes the same numbers from the
same generators as they do. So a run comes out equal to the last bit, some ten times as fast.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import DenseBlock, Payload
from ..compression.compressors.base import Compressed, Compressor
from ..compression.compressors.mlmc import MLMC
from ..compression.compressors.rand_k import RandK
from ..compression.compressors.sparsity import num_kept
from ..compression.ladders.identity import Identity
from ..compression.ladders.top_k import TopK
from ..run.rng import random_subset
from ..schemes import Scheme, Turn
from ..schemes.base import exact

Rngs = Sequence[np.random.Generator]
Sender = Callable[[Tensor, Rngs], tuple[Tensor, float]]
"""(n, d) float32 and a generator a row to what the receiver makes of each, and the `unseeded_bits` of all together."""


def moves_as_one(scheme: Scheme) -> bool:
    """Whether the client side does the same to all coordinates of all clients."""
    return not scheme.deals_out and not scheme.hears_back


class RowsBlock(DenseBlock):
    """One dense vector a client: `values` is float32 of shape (n, d)."""


@dataclass(frozen=True, eq=False)
class CrowdTurn(Turn):
    """Every client's part in a round; `send` takes a matrix with a row for each."""

    sender: Sender | None = None
    """None: whatever is sent goes as it is."""
    rngs: Rngs = ()

    def send(self, vector: Tensor) -> Compressed:
        """One outcome of the compressor a row of `vector`, (n, d)."""
        if self.sender is None:
            return exact(vector)
        values, bits = self.sender(vector.float(), self.rngs)
        return Compressed(Payload(values.numel(), (RowsBlock(values),)), bits)


def mean_of(message: Compressed) -> Tensor:
    """(d,) float64 mean over the rows of a message, summed in the order in which one client after another would be."""
    parts = [block.values for block in message.payload.blocks]  # type: ignore[attr-defined]
    rows = torch.stack(parts, dim=1).flatten(0, 1).double().numpy()
    return torch.from_numpy(np.add.reduce(rows, axis=0) / len(parts[0]))


def sender(compressor: Compressor, size: int) -> Sender | None:
    """How rows of `size` coordinates go through the compressor; ValueError if that is not known."""
    match compressor:
        case Identity():
            return None
        case RandK(values="float32"):
            return _RandRows(size, num_kept(compressor, size))
        case TopK(values="float32", omega_bound=None):
            return _TopRows(compressor, size)
        case MLMC(ladder=TopK(omega_bound=None), probabilities="adaptive", draws=1, replacement=True, values="float32"):
            return _LevelRows(compressor, size)
    raise ValueError(f"rows of {compressor!r} are not known")


class _RandRows:
    """`RandK`: the draws of `random_subset` from one Philox generator, which takes a tenth of the time of a new one."""

    def __init__(self, size: int, kept: int) -> None:
        self._size, self._kept = size, kept
        self._philox = np.random.Philox(key=0)
        self._fresh = self._philox.state

    def __call__(self, rows: Tensor, rngs: Rngs) -> tuple[Tensor, float]:
        # A whole uint64 is what `integers` takes raw, and slower.
        seeds = [int(rng.bit_generator.random_raw()) for rng in rngs]
        chosen = torch.zeros(rows.shape, dtype=torch.bool)
        chosen.scatter_(1, torch.tensor(self._subsets(seeds)), True)
        return torch.where(chosen, rows * (self._size / self._kept), 0.0), len(rows) * 32.0 * self._kept

    def _subsets(self, seeds: Sequence[int]) -> list[list[int]]:
        if self._kept > self._size // 2:
            return [self._slowly(seed) for seed in seeds]
        raw = np.stack([self._raw(seed) for seed in seeds])
        drawn = ((raw >> np.uint64(11)) * (self._size / 2**53)).astype(np.int64).tolist()
        different = [list(dict.fromkeys(each)) for each in drawn]
        return [
            each[: self._kept] if len(each) >= self._kept else self._slowly(seed)
            for seed, each in zip(seeds, different, strict=True)
        ]

    def _raw(self, seed: int) -> np.ndarray:
        self._fresh["state"]["key"][0] = seed
        self._philox.state = self._fresh
        return self._philox.random_raw(2 * self._kept + 16)

    def _slowly(self, seed: int) -> list[int]:
        return random_subset(self._size, self._kept, seed).tolist()


class _TopRows:
    """`TopK` alone: the first group."""

    def __init__(self, ladder: TopK, size: int) -> None:
        rungs = ladder.climb(torch.ones(size))
        self._kept, self._bits = int(ladder.edges(size)[1]), ladder.stop_bits(rungs)

    def __call__(self, rows: Tensor, rngs: Rngs) -> tuple[Tensor, float]:
        places = torch.argsort(rows.abs(), dim=1, descending=True, stable=True)[:, : self._kept]
        return torch.zeros_like(rows).scatter_(1, places, rows.gather(1, places)), len(rows) * self._bits


class _LevelRows:
    """`MLMC(TopK)`: one group a row, drawn as numpy's `choice` does."""

    def __init__(self, compressor: MLMC, size: int) -> None:
        ladder = compressor.ladder
        assert isinstance(ladder, TopK)
        self._edges, self._costs = ladder.edges(size), ladder.climb(torch.ones(size)).costs()
        self._ranks = np.arange(size)

    def __call__(self, rows: Tensor, rngs: Rngs) -> tuple[Tensor, float]:
        order = torch.argsort(rows.abs(), dim=1, descending=True, stable=True)
        ordered = rows.gather(1, order)
        norms = np.sqrt(np.add.reduceat(ordered.double().square().numpy(), self._edges[:-1], axis=1))
        totals = norms.sum(axis=1, keepdims=True)
        chances = norms / np.where(totals > 0, totals, 1.0)
        cumulated = chances.cumsum(axis=1)
        cumulated /= np.where(totals > 0, cumulated[:, -1:], 1.0)
        points = [[rng.random() if total > 0 else 0.0] for rng, (total,) in zip(rngs, totals, strict=True)]
        levels = np.minimum((cumulated <= points).sum(axis=1), len(self._costs) - 1)
        drawn = chances[np.arange(len(levels)), levels]
        factors = torch.from_numpy(1 / np.where(drawn > 0, drawn, 1.0))[:, None]
        low, high = self._edges[levels, None], self._edges[levels + 1, None]
        inside = torch.from_numpy((self._ranks >= low) & (self._ranks < high))
        scaled = ordered * factors.float() if float(factors.max()) < 1e30 else (ordered.double() * factors).float()
        values = torch.zeros_like(rows).scatter_(1, order, torch.where(inside, scaled, 0.0))
        return values, float((chances @ self._costs).sum())
