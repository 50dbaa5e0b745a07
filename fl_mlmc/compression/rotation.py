"""A random rotation that takes d log d additions, and that both sides make of one seed.

Random signs and a Hadamard transform, twice, spread any vector evenly over its coordinates, which then look normal
(Ailon and Chazelle, 2009; Suresh et al., ICML 2017, arXiv 1611.00429). Once does not do: of two entries the smaller
would never be seen by the signs of their sums.

Hadamard transforms have 2^k coordinates. A vector is cut into blocks of n = 4096, or of the largest power of two that
it holds; where some are left over, one more block of n at its end is rotated last, so that it overlaps the block
before. Filling up with zeros instead would cost up to twice the bits. What is left of each block is a *part*: all have
length n but that under the overlap.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .pointwise import STRETCH

BLOCK = 1 << 12
"""Coordinates that are rotated together: enough for sums to look normal, few enough to stay in the cache."""


@dataclass(frozen=True)
class Rotation:
    """An orthogonal map of `size` coordinates, drawn by `seed`, below 2⁶⁴. Sums are of float32, in a fixed order."""

    size: int
    seed: int

    @property
    def block(self) -> int:
        """n, a power of two: coordinates that are rotated together."""
        return min(BLOCK, 1 << self.size.bit_length() - 1)

    @property
    def num_parts(self) -> int:
        """Parts of the vector, ⌈d / n⌉."""
        return -(-self.size // self.block)

    def part_lengths(self, start: int, stop: int) -> list[int]:
        """Coordinates of each part of the piece from `start` to `stop`."""
        whole, rest = divmod(stop - start, self.block)
        return [self.block] * whole if rest == 0 else [*[self.block] * (whole - 1), rest, self.block]

    def pieces(self) -> Iterator[tuple[int, int, "Signs"]]:
        """(start, stop, signs) of stretches that are rotated apart; they have to be taken in order, as signs are."""
        raw, per_block = np.random.Philox(key=self.seed), max(self.block // 64, 1)
        starts = list(range(0, self.size, STRETCH))
        if len(starts) > 1 and self.size - starts[-1] < self.block:  # an overlap does not reach into another piece
            starts.pop()
        for start, stop in zip(starts, [*starts[1:], self.size], strict=True):
            num_blocks = -(-(stop - start) // self.block)
            words = raw.random_raw(2 * per_block * num_blocks).astype("<u8", copy=False)
            bits = np.unpackbits(words.view(np.uint8), bitorder="little").reshape(num_blocks, 2, -1)
            yield start, stop, Signs(bits[:, :, : self.block])


class Signs:
    """The signs of one piece: `bits` are uint8 of shape (blocks, 2, n), of two rounds; 1 is a minus."""

    def __init__(self, bits: np.ndarray) -> None:
        self._bits = bits

    def forth(self, piece: Tensor) -> Tensor:
        """The piece, 1-D float32, rotated; a new tensor."""
        out, rows, (first, second) = piece.clone(), self._num_rows(piece), self._factors(piece)
        whole = rows * self._block
        out[:whole] = _rotated(out[:whole], first[:, :rows], second[:, :rows])
        if whole < piece.numel():
            out[-self._block :] = _rotated(out[-self._block :], first[:, rows:], second[:, rows:])
        return out

    def back(self, piece: Tensor) -> Tensor:
        """The piece of which `forth` makes this one; a new tensor."""
        out, rows, (first, second) = piece.clone(), self._num_rows(piece), self._factors(piece)
        whole = rows * self._block
        if whole < piece.numel():
            out[-self._block :] = _rotated_back(out[-self._block :], first[:, rows:], second[:, rows:])
        out[:whole] = _rotated_back(out[:whole], first[:, :rows], second[:, :rows])
        return out

    @property
    def _block(self) -> int:
        return self._bits.shape[2]

    def _num_rows(self, piece: Tensor) -> int:
        return piece.numel() // self._block

    def _factors(self, piece: Tensor) -> tuple[Tensor, Tensor]:
        """float32 ±1 of both rounds, each (n, blocks)."""
        first, second = (torch.from_numpy(np.ascontiguousarray(self._bits[:, side].T)) for side in (0, 1))
        return tuple((1 - 2 * bits.to(piece)) for bits in (first, second))  # type: ignore[return-value]


def _rotated(blocks: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """H S₂ H S₁ / n of each block."""
    columns = _columns(blocks, first.shape[0])
    return _hadamard(_hadamard(columns * first) * second).T.reshape(-1)


def _rotated_back(blocks: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """S₁ H S₂ H / n of each block, the inverse: H H = n."""
    columns = _columns(blocks, first.shape[0])
    return (_hadamard(_hadamard(columns) * second) * first).T.reshape(-1)


def _columns(blocks: Tensor, length: int) -> Tensor:
    """(n, blocks), over n: exactly, as it is a power of two, and before the sums, which then stay in range."""
    return blocks.view(-1, length).T.contiguous() * (1 / length)


def _hadamard(columns: Tensor) -> Tensor:
    """H x of each column, in the order of Sylvester; (n, blocks)."""
    length, num = columns.shape
    here, there, half = columns, torch.empty_like(columns), 1
    while half < length:
        pairs, out = (x.view(length // (2 * half), 2, half * num) for x in (here, there))
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        here, there, half = there, here, 2 * half
    return here


def growth(rotation: Rotation) -> float:
    """How many times the largest coordinate may become one of the rotated vector, or of one rotated back: √(2n)."""
    return math.sqrt(2 * rotation.block)
