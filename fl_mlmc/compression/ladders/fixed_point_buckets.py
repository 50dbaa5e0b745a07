"""Binary digits in buckets: whole units travel, and of each bucket one digit behind the point, over its chance.

A bucket without a one among its first digits does not draw them: its scale is its own, as its level is.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, Lattice, SparseBlock, SymbolBlock
from ..bucketed import BucketBlock
from ..pointwise import STRETCH
from .buckets import Buckets, Pieces, num_buckets

if TYPE_CHECKING:
    from .fixed_point import FixedPointRungs

_MOST_UNITS = 8190  # whole units beside which a digit has a letter


class FixedPointBuckets(Buckets):
    """The digits of `rungs`, stretch by stretch of `bucket` coordinates."""

    def __init__(self, rungs: "FixedPointRungs", bucket: int) -> None:
        self.size, self.bucket, self._rungs = rungs.size, bucket, rungs

    @cached_property
    def pieces(self) -> Pieces:  # type: ignore[override]
        """Digits of which a bucket has ones, and what all digits leave of it."""
        rungs, bits = self._rungs, self._rungs.num_levels - 1
        count = num_buckets(self.size, self.bucket)
        norms = np.zeros((count, bits + 1))
        for rows, start, stop in self._stretches():
            part = rungs.vector[start:stop]
            digits = self._rows(rungs.behind_point(part, bits))
            ones = [(digits >> bits - level & 1).sum(dim=1) for level in range(1, bits + 1)]
            norms[rows, :bits] = np.sqrt(torch.stack(ones, dim=1).cpu().numpy())
            norms[rows, bits] = self._rows(rungs.rest(part).double().square_()).sum(dim=1).sqrt_().cpu().numpy()
        norms[:, :bits] *= rungs.unit * 2.0 ** -np.arange(1, bits + 1)
        buckets, places = np.nonzero(norms)
        lengths = np.minimum(self.bucket, self.size - np.arange(count) * self.bucket)[buckets]
        plane = 2.0 * lengths + 32 + math.ceil(math.log2(bits + 1))
        return Pieces(
            count, buckets, places + 1, norms[buckets, places], np.where(places < bits, plane, 32.0 * lengths)
        )

    def estimate(self, levels: np.ndarray, factors: np.ndarray) -> tuple[Block, ...]:
        """Units and digits as one block of letters, and a sparse one of what all digits leave of a bucket.

        Where every digit is worth a unit, as with fixed chances, it is a lattice of units.
        """
        rungs, bits = self._rungs, self._rungs.num_levels - 1
        digits = (levels > 0) & (levels <= bits)
        scales = np.where(digits, rungs.unit * 2.0 ** -levels.astype(np.float64) * factors, 0.0)
        blocks: list[Block] = []
        if digits.any() or rungs.most:
            are_units = np.array_equal(scales[digits], np.full(int(digits.sum()), rungs.unit))
            blocks += self._letters(np.where(digits, levels, 0), scales, bool(are_units))
        rest = self._left(levels > bits, factors)
        return (*blocks, rest) if rest is not None else tuple(blocks)

    def _letters(self, levels: np.ndarray, scales: np.ndarray, are_units: bool) -> tuple[Block, ...]:
        rungs = self._rungs
        if not are_units and rungs.most > _MOST_UNITS:
            return (*rungs.rung(0), self._bucketed(levels, scales, with_units=False))
        if not are_units:
            return (self._bucketed(levels, scales, with_units=True),)
        most = rungs.most + 1
        symbols = self._symbols(levels, lambda units, digit: units + digit, most)
        return (SymbolBlock(symbols, Lattice(2 * most + 1, rungs.unit, -most)),)

    def _bucketed(self, levels: np.ndarray, scales: np.ndarray, with_units: bool) -> BucketBlock:
        most = 2 * self._rungs.most + 1 if with_units else 1
        symbols = self._symbols(levels, lambda units, digit: 2 * units * with_units + digit, most)
        with np.errstate(over="ignore"):  # scales beyond float32 are refused as values
            worth = torch.from_numpy(scales.astype(np.float32)).to(symbols.device)
        return BucketBlock(symbols, most, self._rungs.unit if with_units else 0.0, worth, self.bucket)

    def _symbols(self, levels: np.ndarray, joint: Callable[[Tensor, Tensor], Tensor], most: int) -> Tensor:
        """`most` + sign · `joint`(whole units, digit of the bucket's level), digit 0 where that is 0."""
        rungs, bits = self._rungs, self._rungs.num_levels - 1
        dtype = torch.uint8 if 2 * most < 256 else torch.int16 if most < 2**14 else torch.int32
        out = torch.empty(self.size, dtype=dtype, device=rungs.vector.device)
        shifts = torch.from_numpy(np.where(levels > 0, bits - levels, _NONE).astype(np.int32)).to(out.device)
        for rows, start, stop in self._stretches():
            part = rungs.vector[start:stop]
            shift = shifts[rows].repeat_interleave(self.bucket)[: stop - start]
            digit = rungs.behind_point(part, bits) >> shift & 1
            out[start:stop] = joint(rungs.whole_units(part).int(), digit) * part.sign().int() + most
        return out

    def _left(self, are_tops: np.ndarray, factors: np.ndarray) -> SparseBlock | None:
        """What all digits leave of some buckets, times their factors."""
        indices, values = [], []
        for bucket in np.flatnonzero(are_tops).tolist():
            start = bucket * self.bucket
            rest = self._rungs.rest(self._rungs.vector[start : start + self.bucket])
            places = torch.nonzero(rest).squeeze(1)
            indices.append(places + start)
            values.append((rest[places].double() * factors[bucket]).float())
        return SparseBlock(self.size, torch.cat(indices), torch.cat(values)) if indices else None

    def _stretches(self) -> Iterator[tuple[slice, int, int]]:
        """(buckets, first and last coordinate) that are worked on together."""
        count = num_buckets(self.size, self.bucket)
        step = max(STRETCH // self.bucket, 1) if self._rungs.vector.device.type == "cpu" else count
        for first in range(0, count, step):
            last = min(first + step, count)
            yield slice(first, last), first * self.bucket, min(last * self.bucket, self.size)

    def _rows(self, part: Tensor) -> Tensor:
        """A row a bucket, the last one filled up with zeros."""
        missing = -part.numel() % self.bucket
        return torch.nn.functional.pad(part, (0, missing)).reshape(-1, self.bucket)


_NONE = 31  # a shift that leaves nothing of a digit
