"""What a payload holds, each part in its natural form: sparse entries, symbols, signed powers of two, a dense vector.

A payload is a sum of blocks over one vector of `size` coordinates. The server adds a block to an accumulator
without ever building a dense vector for a sparse one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..run.rng import random_mask, stream
from .kernels import kernel_for
from .pointwise import STRETCH, peak
from .rotation import Rotation, growth

_BIAS = 127  # of a float32's exponent
_DRAWN = 1 << 20  # coordinates whose indices are written out together
_MOST_WRITTEN = 256  # letters of a lattice whose values are written out
_LARGE = 1e30  # factors near the end of float32's range
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_SUM = 2.0**128 - 2.0**113  # so far from the end that no order of rounding a sum of 255 blocks gets there


class Block(ABC):
    """One summand of a payload, a vector of `size` coordinates."""

    size: int
    """Coordinates of the vector."""
    seed_bits: ClassVar[int] = 0
    """Of its bits, those of a seed: it travels, but both sides could derive it from what they know."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """Memory that the block holds, in bytes."""

    @abstractmethod
    def peak(self) -> float:
        """At least the largest magnitude of a coordinate, without a look at each where that can be spared."""

    @abstractmethod
    def scaled(self, factor: float) -> "Block":
        """The same block times `factor`; what it holds is shared, where it can be."""

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

    def plain(self) -> "DenseBlock | SparseBlock | SeededBlock":
        """The block with float32 values, each worked out once."""
        return DenseBlock(self.dense())

    def floats(self) -> Tensor | None:
        """The float32 values that it holds, in its own order; None for a block of letters, powers or other numbers."""
        return None

    def rng_of_values(self, rng: np.random.Generator) -> np.random.Generator:
        """What a quantiser of its `floats` draws from: `rng`, unless a seed of its own serves both."""
        return rng

    def holding(self, values: "Payload") -> "tuple[Block, ...]":
        """The block with what `values` says in place of its `floats`; itself where it has none."""
        return (self,)


@dataclass(frozen=True, eq=False)
class DenseBlock(Block):
    """All coordinates: `values` is float32 of shape (size,)."""

    values: Tensor

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many values there are."""
        return self.values.numel()

    @property
    def held_bytes(self) -> int:
        """4 a coordinate."""
        return 4 * self.size

    def peak(self) -> float:
        """The largest magnitude."""
        return peak(self.values)

    def plain(self) -> "DenseBlock":
        """Itself."""
        return self

    def floats(self) -> Tensor:
        """All coordinates."""
        return self.values

    def holding(self, values: "Payload") -> tuple[Block, ...]:
        """The blocks of `values`: they have a number for every coordinate."""
        return values.blocks

    def scaled(self, factor: float) -> "DenseBlock":
        """New values, each times `factor`."""
        return replace(self, values=_times(self.values, factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """One pass over all coordinates."""
        if index is None:
            accumulator.add_(self.values.to(accumulator.device), alpha=scale)
        else:
            accumulator.index_add_(0, index, self.values.to(accumulator), alpha=scale)

    def dense(self) -> Tensor:
        """The values themselves, in the processor's memory: not a copy if they are there."""
        return self.values.cpu()


@dataclass(frozen=True, eq=False)
class SparseBlock(Block):
    """A few coordinates: strictly increasing int64 `indices` below `size`, and their float32 `values`."""

    size: int
    indices: Tensor
    values: Tensor

    @property
    def held_bytes(self) -> int:
        """12 an entry: 8 of its index, 4 of its value."""
        return 12 * self.indices.numel()

    def peak(self) -> float:
        """The largest magnitude of an entry."""
        return peak(self.values) if self.values.numel() else 0.0

    def plain(self) -> "SparseBlock":
        """Itself."""
        return self

    def floats(self) -> Tensor:
        """Those of its entries."""
        return self.values

    def holding(self, values: "Payload") -> tuple[Block, ...]:
        """The same entries, with values that are floats again or a payload of their own; of many of them, marks."""
        floats = values.only_floats()
        if floats is not None:
            return (replace(self, values=floats),)
        places = self.indices
        if places.numel() > most_listed(self.size):
            places = torch.zeros(self.size, dtype=torch.bool, device=places.device)
            places[self.indices] = True
        return (PlacedBlock(self.size, places, values),)

    def scaled(self, factor: float) -> "SparseBlock":
        """The same indices, new values."""
        return replace(self, values=_times(self.values, factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Touches its entries only."""
        indices = self.indices.to(accumulator.device)
        where = indices if index is None else index[indices]
        accumulator.index_add_(0, where, self.values.to(accumulator), alpha=scale)


@dataclass(frozen=True, eq=False)
class SeededBlock(Block):
    """A few coordinates that both sides draw from `seed`, so that only their float32 `values` travel."""

    size: int
    seed: int
    values: Tensor
    seed_bits = 64

    @property
    def held_bytes(self) -> int:
        """4 an entry."""
        return 4 * self.values.numel()

    def peak(self) -> float:
        """The largest magnitude of an entry."""
        return peak(self.values) if self.values.numel() else 0.0

    def plain(self) -> "SeededBlock":
        """Itself."""
        return self

    def floats(self) -> Tensor:
        """Those of its entries."""
        return self.values

    def rng_of_values(self, rng: np.random.Generator) -> np.random.Generator:
        """A stream of the seed that the places follow from, so that a dither of the values needs no seed of its own."""
        return _stream_of_values(self.seed)

    def holding(self, values: "Payload") -> tuple[Block, ...]:
        """The same entries, with values that are floats again or a payload of their own."""
        floats = values.only_floats()
        return (PlacedBlock(self.size, self.seed, values) if floats is None else replace(self, values=floats),)

    def scaled(self, factor: float) -> "SeededBlock":
        """The same seed, new values."""
        return replace(self, values=_times(self.values, factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Draws the indices first, which takes a bit mask of all coordinates."""
        for part in self.parts():
            part.add_to(accumulator, scale, index)

    def parts(self) -> Iterator[SparseBlock]:
        """The block with its indices written out, a stretch of coordinates at a time to save memory."""
        chosen, done = random_mask(self.size, self.values.numel(), self.seed), 0
        for start in range(0, self.size, _DRAWN):
            indices = torch.from_numpy(np.flatnonzero(chosen[start : start + _DRAWN])).add_(start)
            yield SparseBlock(self.size, indices.to(self.values.device), self.values[done : done + indices.numel()])
            done += indices.numel()


@dataclass(frozen=True, eq=False)
class PlacedBlock(Block):
    """A few coordinates whose `values` are a payload of their own: one number for each place, in the order of places.

    `places` are strictly increasing int64 indices below `size`, marks (bool of shape (size,)), or the seed that both
    sides draw them from.
    """

    size: int
    places: Tensor | int
    values: "Payload"

    @property
    def seed_bits(self) -> int:  # type: ignore[override]
        """Those of the places, if they follow from a seed, and those of values that have another one."""
        if not isinstance(self.places, int):
            return sum(block.seed_bits for block in self.values.blocks)
        shared = values_seed(self.places)
        apart = (block for block in self.values.blocks if getattr(block, "seed", None) != shared)
        return SeededBlock.seed_bits + sum(block.seed_bits for block in apart)

    @property
    def held_bytes(self) -> int:
        """8 an index, or 1 a mark, and what the values hold."""
        own = 0 if isinstance(self.places, int) else self.places.numel() * self.places.element_size()
        return own + sum(block.held_bytes for block in self.values.blocks)

    def peak(self) -> float:
        """The sum of the peaks of its values' blocks."""
        return sum(block.peak() for block in self.values.blocks)

    def scaled(self, factor: float) -> "PlacedBlock":
        """The same places, scaled values."""
        return replace(self, values=self.values.scaled(factor))

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Works the values out first, one for each place; marks are read a stretch of coordinates after another."""
        if isinstance(self.places, int) or self.places.dtype != torch.bool:
            self.plain().add_to(accumulator, scale, index)
            return
        values, done = self.values.dense().to(self.places.device), 0
        for start in range(0, self.size, STRETCH):
            indices = torch.nonzero(self.places[start : start + STRETCH]).squeeze(1) + start
            part = values[done : done + indices.numel()]
            SparseBlock(self.size, indices, part).add_to(accumulator, scale, index)
            done += indices.numel()

    def plain(self) -> SparseBlock | SeededBlock:
        """The same places with float32 values."""
        if isinstance(self.places, int):
            return SeededBlock(self.size, self.places, self.values.dense())
        places = self.places if self.places.dtype != torch.bool else torch.nonzero(self.places).squeeze(1)
        return SparseBlock(self.size, places, self.values.dense())


class Pointwise(Block):
    """A block whose coordinates are each worked out from a few bits; summed a stretch at a time to save memory."""

    span: ClassVar[int] = STRETCH
    """Coordinates of a stretch."""

    @abstractmethod
    def stretch(self, start: int, stop: int) -> Tensor:
        """The float32 values of coordinates `start` to `stop`."""

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Adds the values of a stretch of coordinates after another."""
        for start in range(0, self.size, self.span):
            stop = min(start + self.span, self.size)
            values = self.stretch(start, stop).to(accumulator)
            if index is None:
                accumulator[start:stop].add_(values, alpha=scale)
            else:
                accumulator.index_add_(0, index[start:stop], values, alpha=scale)


@dataclass(frozen=True)
class Lattice:
    """The alphabet offset + step · (first + symbol), for symbols 0 to `count` − 1.

    `step` and `offset` travel as float32 numbers, and values are worked out from those.
    """

    count: int
    step: float
    first: int = 0
    offset: float = 0.0

    def scaled(self, factor: float) -> "Lattice":
        """The lattice whose values are `factor` times these."""
        return replace(self, step=self.step * factor, offset=self.offset * factor)

    def values(self) -> np.ndarray:
        """(count,) float32, from step and offset as they travel: rounded to float32."""
        step, offset = single(self.step), single(self.offset)
        return (offset + step * (self.first + np.arange(self.count))).astype(np.float32)

    def values_of(self, symbols: Tensor) -> Tensor:
        """float32 values of some symbols, for alphabets that are too long to write out."""
        step, offset = single(self.step), single(self.offset)
        return (symbols.double().add_(self.first).mul_(step).add_(offset)).float()

    @property
    def held_bytes(self) -> int:
        """None worth counting."""
        return 0

    def peak(self) -> float:
        """The largest magnitude of a letter; it stands at an end."""
        return peak(self.values_of(torch.tensor([0, self.count - 1])))

    def is_finite(self) -> bool:
        """Whether all values stay in float32's range."""
        return math.isfinite(self.peak()) and math.isfinite(single(self.offset))


@dataclass(frozen=True, eq=False)
class Table:
    """An alphabet of any values, float64 of shape (count,)."""

    entries: np.ndarray

    @property
    def count(self) -> int:
        """How many letters there are."""
        return self.entries.size

    def scaled(self, factor: float) -> "Table":
        """A new table, each entry times `factor`."""
        return Table(self.entries * factor)

    def values(self) -> np.ndarray:
        """(count,) float32."""
        return self.entries.astype(np.float32)

    @property
    def held_bytes(self) -> int:
        """4 a letter, as it travels."""
        return 4 * self.count

    def peak(self) -> float:
        """The largest magnitude of a letter."""
        return float(np.abs(self.values()).max())

    def is_finite(self) -> bool:
        """Whether all values stay in float32's range."""
        return math.isfinite(self.peak())


@dataclass(frozen=True, eq=False)
class SymbolBlock(Pointwise):
    """One letter of a small alphabet for each coordinate.

    `symbols` is uint8 of shape (size,), int16 for alphabets beyond 256 letters and int32 beyond 32768; all are below
    `alphabet.count`.
    """

    symbols: Tensor
    alphabet: Lattice | Table
    counts: np.ndarray | None = None
    """(alphabet.count,) how often each letter occurs, if that is known."""

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many symbols there are."""
        return self.symbols.numel()

    @property
    def held_bytes(self) -> int:
        """1, 2 or 4 a symbol, and the alphabet's."""
        return self.size * self.symbols.element_size() + self.alphabet.held_bytes

    def peak(self) -> float:
        """That of the alphabet, of whose letters some may not occur."""
        return self.alphabet.peak()

    def scaled(self, factor: float) -> "SymbolBlock":
        """The same symbols of a scaled alphabet."""
        return replace(self, alphabet=self.alphabet.scaled(factor))

    def stretch(self, start: int, stop: int) -> Tensor:
        """The letters' values: looked up, or worked out where an alphabet is too long to write out."""
        if isinstance(self.alphabet, Lattice) and self.alphabet.count > _MOST_WRITTEN:
            return self.alphabet.values_of(self.symbols[start:stop])
        values, symbols = self.alphabet.values(), self.symbols[start:stop]
        compiled = kernel_for("look_up", self.size) if symbols.device.type == "cpu" else None
        if compiled is None:
            return torch.from_numpy(values).to(symbols.device)[symbols.int()]
        out = np.empty(stop - start, np.float32)
        compiled(symbols.numpy(), out, values)
        return torch.from_numpy(out)


@dataclass(frozen=True, eq=False)
class RotatedBlock(Block):
    """A vector rotated by `Rotation(size, seed)`: a letter for each coordinate, times the scale of its part.

    `scales` are float32 of shape (parts,).
    """

    letters: SymbolBlock
    scales: Tensor
    seed: int
    seed_bits = 64

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many letters there are."""
        return self.letters.size

    @property
    def rotation(self) -> Rotation:
        """The rotation that is undone when the block is added."""
        return Rotation(self.size, self.seed)

    @property
    def held_bytes(self) -> int:
        """Those of its letters, and 4 a part."""
        return self.letters.held_bytes + 4 * self.scales.numel()

    def peak(self) -> float:
        """That of letters and scales, if all that they hold came together in one coordinate."""
        return self.letters.peak() * peak(self.scales) * growth(self.rotation)

    def scaled(self, factor: float) -> "RotatedBlock":
        """The same letters and seed, new scales."""
        return replace(self, scales=_times(self.scales, factor))

    def is_finite(self) -> bool:
        """Whether all values stay in float32's range wherever the rotation brings them together."""
        return self.peak() <= _LARGEST

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Rotates a stretch of coordinates back after another."""
        part = 0
        for start, stop, signs in self.rotation.pieces():
            lengths = self.rotation.part_lengths(start, stop)
            scales = self.scales[part : part + len(lengths)].repeat_interleave(
                torch.tensor(lengths, device=self.scales.device)
            )
            values = signs.back(self.letters.stretch(start, stop) * scales).to(accumulator)
            part += len(lengths)
            if index is None:
                accumulator[start:stop].add_(values, alpha=scale)
            else:
                accumulator.index_add_(0, index[start:stop], values, alpha=scale)


@dataclass(frozen=True, eq=False)
class PowerBlock(Pointwise):
    """A sign and a power of two for each coordinate, and perhaps a whole number: ±2^(E − 127) · (scale + extra · n).

    `exponents` E is uint8 of shape (size,), 0 for a coordinate that is zero; `negative` is bool. `numbers`, where there
    are any, are uint8 below 2^`bits`, or int16 for 9 to 15 bits.
    """

    negative: Tensor
    exponents: Tensor
    scale: float = 1.0
    extra: float = 0.0
    numbers: Tensor | None = None
    bits: int = 0

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many exponents there are."""
        return self.exponents.numel()

    @property
    def held_bytes(self) -> int:
        """2 a coordinate, and 1 or 2 more with numbers."""
        return (2 if self.numbers is None else 2 + self.numbers.element_size()) * self.size

    def scaled(self, factor: float) -> "PowerBlock":
        """The same signs, exponents and numbers."""
        return replace(self, scale=self.scale * factor, extra=self.extra * factor)

    def peak(self) -> float:
        """The largest power times the larger factor at an end of the numbers, which need not occur together."""
        scale, extra = self._factors()
        return 2.0 ** (int(self.exponents.max()) - _BIAS) * max(abs(scale), abs(scale + extra * (2**self.bits - 1)))

    def is_finite(self) -> bool:
        """Whether all values stay in float32's range."""
        if not all(map(math.isfinite, self._factors())):
            return False
        if self.peak() < 2.0**_BIAS:
            return True
        parts = range(0, self.size, STRETCH)
        return all(bool(self.stretch(start, min(start + STRETCH, self.size)).isfinite().all()) for start in parts)

    def stretch(self, start: int, stop: int) -> Tensor:
        """Worked out in float64, then rounded."""
        numbers = None if self.numbers is None else self.numbers[start:stop]
        values = self._values(self.exponents[start:stop], numbers)
        return torch.where(self.negative[start:stop], -values, values)

    def _values(self, exponents: Tensor, numbers: Tensor | None) -> Tensor:
        """The magnitudes."""
        scale, extra = self._factors()
        # Powers in float64: a tiny power times a large factor may be an ordinary number.
        powers = torch.ldexp(torch.ones(256, dtype=torch.float64), torch.arange(256) - _BIAS)
        powers[0] = 0
        if numbers is None:
            return (powers * scale).float().to(exponents.device)[exponents.int()]
        return (powers.to(exponents.device)[exponents.int()] * (scale + extra * numbers.double())).float()

    def _factors(self) -> tuple[float, float]:
        """(scale, extra) as they travel: rounded to float32."""
        return single(self.scale), single(self.extra)


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

    def scaled(self, factor: float) -> "Payload":
        """Each block times `factor`."""
        return Payload(self.size, tuple(block.scaled(factor) for block in self.blocks))

    def only_floats(self) -> Tensor | None:
        """The values of its one block, if it has one that is dense."""
        return self.blocks[0].values if len(self.blocks) == 1 and isinstance(self.blocks[0], DenseBlock) else None

    def is_finite(self) -> bool:
        """Whether the sum stays in float32's range, be it summed in float32 or in float64.

        Blocks that stay there by themselves may leave it together. Looks at each coordinate only where the peaks of
        the blocks could.
        """
        if sum(block.peak() for block in self.blocks) <= _LARGEST_SUM:
            return True
        return peak(self.dense()) <= (_LARGEST_SUM if len(self.blocks) > 1 else _LARGEST)

    def add_to(self, accumulator: Tensor, scale: float = 1.0, index: Tensor | None = None) -> None:
        """Add `scale` times the sum to `accumulator`, in place; `index` as in `Block.add_to`."""
        for block in self.blocks:
            block.add_to(accumulator, scale, index)


def most_listed(size: int) -> int:
    """Places whose indices are worth their memory, 8 bytes each: of more of them marks take less."""
    return max(size // 8, 1024)


def values_seed(seed: int) -> int:
    """The seed of dithered values whose places follow from `seed`: one that travels serves both.

    The first word of `stream(seed, "values")`, whose bit generator numpy keeps as it is.
    """
    return int(_stream_of_values(seed).bit_generator.random_raw())


def _stream_of_values(seed: int) -> np.random.Generator:
    return stream(seed, "values")


def single(number: float) -> float:
    """The nearest number of float32, infinite beyond its range."""
    with np.errstate(over="ignore"):
        return float(np.float32(number))


def _times(values: Tensor, factor: float) -> Tensor:
    """float32 values · factor."""
    if factor == 1:
        return values
    # A rare level of tiny entries has a factor beyond float32 although the products are not.
    return values * factor if abs(factor) < _LARGE else (values.double() * factor).float()
