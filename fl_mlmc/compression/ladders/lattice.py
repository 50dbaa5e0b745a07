"""What RTN and ECUQ share: levels that round to ever finer lattices, and the vector itself at the top."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Lattice, SymbolBlock
from ..kernels import kernel_for
from ..pointwise import EXACT_BELOW, energy, pointwise, tally
from .base import Rungs
from .joint import lettered

_FINE = 1 << 15  # bins of the histogram that stands for a long vector


def nearest(lattice: Lattice, part: Tensor) -> Tensor:
    """The letter of the nearest value of `lattice` for each coordinate, as float32 whole numbers."""
    letters = ((part - lattice.offset) * (1 / lattice.step)).round_()
    return letters.sub_(lattice.first).clamp_(0, lattice.count - 1)


def peak_contraction(size: int, squared_steps: int) -> float:
    """(h² − 1) / (h² + d − 1): α where no entry is off by more than itself, nor by more than max|v| / h.

    At worst all entries but the largest are just that small, and dropped, and the largest is off by as much.
    """
    return (squared_steps - 1) / (squared_steps + size - 1)


@dataclass(frozen=True)
class Bins:
    """A histogram of a vector: `counts` of equally wide bins from `low` on."""

    low: float
    width: float
    counts: np.ndarray

    @classmethod
    def of(cls, vector: Tensor, low: float, high: float) -> "Bins":
        """All coordinates, which lie between `low` and `high`, `_FINE` bins apart."""
        scale, last = _FINE / (high - low), _FINE - 1.0
        compiled = kernel_for("histogram", vector.numel()) if vector.device.type == "cpu" else None
        if compiled is not None:
            counts = np.zeros(_FINE, np.int64)
            compiled(vector.numpy(), counts, *np.array([low, scale, last], np.float32))
        else:
            bins = pointwise(lambda part: ((part - low) * scale).clamp_(0, last), torch.int16, vector)
            counts = tally(bins, _FINE)
        return cls(low, (high - low) / _FINE, counts)

    def edges(self) -> np.ndarray:
        """(bins + 1,) float64 where bins begin and end."""
        return self.low + self.width * np.arange(self.counts.size + 1)


class LatticeRungs(Rungs):
    """C^l(v) rounds to `lattices[l − 1]`; the last level is v. A lattice of one letter has the value of that letter."""

    def __init__(self, vector: Tensor, lattices: Sequence[Lattice], bins: Bins | None = None) -> None:
        self.size = vector.numel()
        self.num_levels = len(lattices) + 1
        self._vector, self._lattices, self._bins = vector, lattices, bins

    def norms(self) -> np.ndarray:
        """(L,) for long vectors from a histogram, within some percent."""
        bins = self._bins
        if bins is None and self.size >= EXACT_BELOW:
            low, high = (float(end) for end in torch.aminmax(self._vector))
            bins = Bins.of(self._vector, low, high) if (high - low) / _FINE > 1e-37 else None
        if self.size < EXACT_BELOW or bins is None or not bins.width > 1e-37:
            return self.exact_norms()
        # Every coordinate counts with the edges and the middle of its bin. That is within some percent, and as any
        # chances keep the estimate unbiased, next to no variance is lost.
        edges = self._squares(bins.edges())
        middles = self._squares(bins.edges()[:-1] + bins.width / 2)
        energies = ((edges[:, :-1] + edges[:, 1:]) / 4 + middles / 2) @ bins.counts
        # An increment that no bin shows is rare, but not nothing.
        least = [1e-3 * lattice.step if lattice.count > 1 else 0.0 for lattice in self._lattices]
        return np.maximum(np.sqrt(energies), [*least, bins.width / 4])

    def exact_norms(self) -> np.ndarray:
        """(L,) from the increments themselves."""
        blocks = (self.increment(level) for level in range(1, self.num_levels + 1))
        return np.array([_norm(block) for block in blocks])

    def _squares(self, points: np.ndarray) -> np.ndarray:
        """(L, points) float64 squares of the increments of coordinates with these values."""
        letters = (nearest(lattice, torch.from_numpy(points).float()).int().numpy() for lattice in self._lattices)
        values = [lattice.values()[chosen] for lattice, chosen in zip(self._lattices, letters, strict=True)]
        return np.diff(np.array([np.zeros(points.size), *values, points]), axis=0) ** 2

    def costs(self) -> np.ndarray:
        """(L,) bits of a letter for each pair of two levels' letters, and of their table; 32 a coordinate at most."""
        letters = [lattice.count for lattice in self._lattices]
        # Two lattices laid over each other cut the line into at most this many intervals.
        pairs = np.array([before + after - 1 for before, after in zip([1, *letters], letters, strict=False)])
        coded = 64 + 32.0 * pairs + self.size * np.ceil(np.log2(pairs))
        return np.append(np.minimum(np.where(pairs > 1, coded, 32.0), 32.0 * self.size), 32.0 * self.size)

    def prior(self) -> np.ndarray:
        """(L,) ∝ 2^−l, and 0 for levels that are zero whatever the vector."""
        # Rounding errors, and with them the increments, halve from one level to the next.
        weights = 2.0 ** -np.arange(self.num_levels, dtype=np.float64)
        weights[:-1][[self._is_zero(lattice) for lattice in self._lattices]] = 0
        return weights / weights.sum()

    def rung(self, level: int) -> tuple[Block, ...]:
        """The letters of one lattice; at the top the vector, dense."""
        if level == self.num_levels:
            return (DenseBlock(self._vector),)
        lattice = self._lattices[level - 1]
        return (SymbolBlock(self._letters(lattice), lattice),)

    def increment(self, level: int) -> Block:
        """A letter for each pair of letters that occurs; at the top what the finest lattice leaves, dense."""
        if level == self.num_levels:
            return DenseBlock(self._vector - self._coarse(self.num_levels - 1))
        if level == 1:
            return self.rung(1)[0]
        return self._difference(self._lattices[level - 2], self._lattices[level - 1])

    def _difference(self, coarse: Lattice, fine: Lattice) -> SymbolBlock:
        """Fine minus coarse value; a letter stands for a pair of letters, of which the table has those that occur."""
        ratio = fine.step / coarse.step
        shift = (fine.offset - coarse.offset) / coarse.step + fine.first * ratio - coarse.first

        # A fine letter predicts the coarse one to about a step, unless it is the only one.
        spread = coarse.count if fine.count == 1 else min(coarse.count, math.ceil(ratio / 2) + 2)
        width, last = 2 * spread + 1, coarse.count - 1

        def pair(part: Tensor) -> Tensor:
            letters = nearest(fine, part)
            away = nearest(coarse, part) - (letters * ratio).add_(shift).round_().clamp_(0, last)
            return letters.mul_(width).add_(away.add_(spread))

        most = fine.count * width
        dtype = torch.uint8 if most <= 256 else torch.int16 if most < 2**15 else torch.int32
        kernel = ("letter_pair", _numbers(fine), _numbers(coarse), ratio, shift, float(spread))
        pairs = pointwise(pair, dtype, self._vector, kernel=kernel)
        counts = tally(pairs, most)
        used = np.flatnonzero(counts)
        letters, away = used // width, used % width - spread
        predicted = torch.from_numpy(letters).float().mul_(ratio).add_(shift).round_().clamp_(0, last).numpy()
        below = (predicted + away).astype(np.int64)
        values = fine.values()[letters].astype(np.float64) - coarse.values()[below]
        return lettered(pairs, counts, used, values)

    def _letters(self, lattice: Lattice) -> Tensor:
        dtype = torch.uint8 if lattice.count <= 256 else torch.int16
        kernel = ("letter", *_numbers(lattice))
        return pointwise(lambda part: nearest(lattice, part), dtype, self._vector, kernel=kernel)

    def _coarse(self, level: int) -> Tensor:
        lattice = self._lattices[level - 1]
        values = torch.from_numpy(lattice.values()).to(self._vector.device)
        return pointwise(lambda part: values[nearest(lattice, part).int()], torch.float32, self._vector)

    def _is_zero(self, lattice: Lattice) -> bool:
        return lattice.count == 1 and not lattice.values().any()


def _numbers(lattice: Lattice) -> tuple[float, float, float, float]:
    """A lattice as kernels take it: offset, 1 / step, first, last letter."""
    return float(lattice.offset), 1 / lattice.step, float(lattice.first), lattice.count - 1.0


def _norm(block: Block) -> float:
    if isinstance(block, SymbolBlock):
        counts = tally(block.symbols, block.alphabet.count)
        return float(np.sqrt(counts @ block.alphabet.values().astype(np.float64) ** 2))
    return energy(block.dense()) ** 0.5
