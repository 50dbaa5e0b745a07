"""What a payload holds, each part in its natural form: sparse entries or a dense vector.

A payload is a sum of blocks over one vector of `size` coordinates. The server adds a block to an accumulator
without ever building a dense vector for a sparse one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Block(ABC):
    """One summand of a payload, a vector of `size` coordinates."""

    size: int

    @abstractmethod
    def scaled(self, factor: float) -> "Block":
        """The same block times `factor`."""

    @abstractmethod
    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Add `scale` times this block to `accumulator`, in place.

        `index`, int64 of shape (size,), names the accumulator's coordinate for each of the block's own;
        None means they are the same.
        """

    def dense(self) -> Tensor:
        """The block as a 1-D float32 tensor of shape (size,)."""
        out = torch.zeros(self.size)
        self.add_to(out)
        return out


@dataclass(frozen=True, eq=False)
class DenseBlock(Block):
    """All coordinates: `values` is float32 of shape (size,)."""

    values: Tensor

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.values.numel()

    def scaled(self, factor: float) -> "DenseBlock":
        return replace(self, values=_times(self.values, factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        if index is None:
            accumulator.add_(self.values.to(accumulator.device), alpha=scale)
        else:
            accumulator.index_add_(0, index, self.values.to(accumulator), alpha=scale)

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True, eq=False)
class SparseBlock(Block):
    """A few coordinates: strictly increasing int64 `indices` below `size`, and their float32 `values`."""

    size: int
    indices: Tensor
    values: Tensor

    def scaled(self, factor: float) -> "SparseBlock":
        return replace(self, values=_times(self.values, factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        where = self.indices if index is None else index[self.indices]
        accumulator.index_add_(0, where, self.values.to(accumulator), alpha=scale)


@dataclass(frozen=True, eq=False)
class Payload:
    """What travels: the sum of `blocks`, a vector of `size` coordinates. No blocks: the zero vector."""

    size: int
    blocks: tuple[Block, ...] = ()

    def dense(self) -> Tensor:
        """The sum as a 1-D float32 tensor of shape (size,)."""
        out = torch.zeros(self.size)
        self.add_to(out)
        return out

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Add `scale` times the sum to `accumulator`, in place; `index` as in `Block.add_to`."""
        for block in self.blocks:
            block.add_to(accumulator, scale, index)


def _times(values: Tensor, factor: float) -> Tensor:
    # A rare level of tiny entries has a factor beyond float32 although the products are not.
    return values * factor if abs(factor) < 1e30 else (values.double() * factor).float()
