"""What RTN and ECUQ share: levels that round to ever finer lattices, and the vector itself at the top."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, Lattice, SymbolBlock, Table
from ..pointwise import energy, pointwise
from .base import Rungs

_SPREAD = 8  # how far a coarse letter may lie from the one that a fine letter predicts


def nearest(lattice: Lattice, part: Tensor) -> Tensor:
    """The letter of the nearest value of `lattice` for each coordinate, as float32 whole numbers."""
    letters = ((part - lattice.offset) * (1 / lattice.step)).round_()
    return letters.sub_(lattice.first).clamp_(0, lattice.count - 1)


class LatticeRungs(Rungs):
    """C^l(v) rounds to `lattices[l − 1]`; the last level is v. A lattice of one letter has the value of that letter."""

    def __init__(self, vector: Tensor, lattices: Sequence[Lattice]) -> None:
        self.size = vector.numel()
        self.num_levels = len(lattices) + 1
        self._vector, self._lattices = vector, lattices

    def norms(self) -> np.ndarray:
        blocks = (self.increment(level) for level in range(1, self.num_levels + 1))
        return np.array([_norm(block) for block in blocks])

    def costs(self) -> np.ndarray:
        letters = [lattice.count for lattice in self._lattices]
        # Two lattices laid over each other cut the line into at most this many intervals.
        pairs = np.array([before + after - 1 for before, after in zip([1, *letters], letters, strict=False)])
        coded = 64 + 32.0 * pairs + self.size * np.ceil(np.log2(pairs))
        return np.append(np.minimum(np.where(pairs > 1, coded, 32.0), 32.0 * self.size), 32.0 * self.size)

    def prior(self) -> np.ndarray:
        # Rounding errors, and with them the increments, halve from one level to the next.
        weights = 2.0 ** -np.arange(self.num_levels, dtype=np.float64)
        weights[:-1][[self._is_zero(lattice) for lattice in self._lattices]] = 0
        return weights / weights.sum()

    def rung(self, level: int) -> tuple[Block, ...]:
        if level == self.num_levels:
            return (DenseBlock(self._vector),)
        lattice = self._lattices[level - 1]
        return (SymbolBlock(self._letters(lattice), lattice),)

    def increment(self, level: int) -> Block:
        if level == self.num_levels:
            return DenseBlock(self._vector - self._coarse(self.num_levels - 1))
        if level == 1:
            return self.rung(1)[0]
        return self._difference(self._lattices[level - 2], self._lattices[level - 1])

    def _difference(self, coarse: Lattice, fine: Lattice) -> SymbolBlock:
        """Fine minus coarse value; a letter stands for a pair of letters, of which the table has those that occur."""
        ratio = fine.step / coarse.step
        shift = (fine.offset - coarse.offset) / coarse.step + fine.first * ratio - coarse.first

        def pair(part: Tensor) -> Tensor:
            letters = nearest(fine, part)
            away = nearest(coarse, part) - (letters * ratio + shift).round_()
            return letters * (2 * _SPREAD + 1) + (away + _SPREAD)

        pairs = pointwise(pair, torch.int32, self._vector)
        counts = torch.bincount(pairs).cpu().numpy()
        used = np.flatnonzero(counts)
        letters, away = used // (2 * _SPREAD + 1), used % (2 * _SPREAD + 1) - _SPREAD
        predicted = torch.from_numpy(letters).float().mul_(ratio).add_(shift).round_().numpy()
        below = (predicted + away).astype(np.int64).clip(0, coarse.count - 1)
        values = fine.values()[letters].astype(np.float64) - coarse.values()[below]
        rename = np.zeros(counts.size, np.int16 if used.size > 256 else np.uint8)
        rename[used] = np.arange(used.size)
        table = torch.from_numpy(rename).to(pairs.device)
        return SymbolBlock(pointwise(lambda part: table[part], table.dtype, pairs), Table(values))

    def _letters(self, lattice: Lattice) -> Tensor:
        dtype = torch.uint8 if lattice.count <= 256 else torch.int16
        return pointwise(lambda part: nearest(lattice, part), dtype, self._vector)

    def _coarse(self, level: int) -> Tensor:
        lattice = self._lattices[level - 1]
        values = torch.from_numpy(lattice.values()).to(self._vector.device)
        return pointwise(lambda part: values[nearest(lattice, part).int()], torch.float32, self._vector)

    def _is_zero(self, lattice: Lattice) -> bool:
        return lattice.count == 1 and not lattice.values().any()


def _norm(block: Block) -> float:
    if isinstance(block, SymbolBlock):
        counts = torch.bincount(block.symbols, minlength=block.alphabet.count).cpu().numpy()
        return float(np.sqrt(counts @ block.alphabet.values().astype(np.float64) ** 2))
    return energy(block.dense()) ** 0.5
