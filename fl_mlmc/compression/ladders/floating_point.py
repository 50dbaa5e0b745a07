"""Floating-point ladder: sign and exponent always, level l adds the l-th mantissa bit of every coordinate.

arXiv 2507.05508, appendix: v_j = ±2^E (1 + Σ m_l 2^−l), base ±2^E, increments ±2^E · m_l · 2^−l. The paper writes
g⁰ = 0 there, but its algebra needs the base. The best fixed probabilities are p_l = 2^−l / (1 − 2^−23): then every
coordinate is sent as ±2^E or ±2^(E+1), natural compression's law, and ω ≤ 1/8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..blocks import Block, DenseBlock, PowerBlock
from ..kernels import kernel_for
from ..pointwise import EXACT_BELOW, negative, pointwise, tally
from .base import Ladder, Rungs
from .joint import lettered

MANTISSA_BITS = 23
_MOST_BITS = 15  # that a block of powers can hold
_MOST_SHARED = 11  # levels in one alphabet
_LONG = 2048  # coordinates from which a table is worth its length
_DIGITS = 7  # mantissa bits that share a histogram with the exponent, in 15 bits


@dataclass(frozen=True, repr=False)
class FloatingPoint(Ladder):
    """Keep sign, exponent and the first `bits` mantissa bits, 0 to 23, of each float32 coordinate."""

    bits: int = MANTISSA_BITS

    is_quantiser = True
    is_whole = True  # a coordinate keeps its sign and at least half of itself

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 0 <= self.bits <= MANTISSA_BITS:
            raise ValueError(f"FloatingPoint's bits is a whole number from 0 to {MANTISSA_BITS}, got {self.bits!r}")

    @property
    def stop(self) -> int:  # type: ignore[override]
        """The level of `bits` mantissa bits; 0 is sign and exponent."""
        return self.bits

    def stop_bits(self, rungs: Rungs) -> float:
        """9 bits for sign and exponent and `bits` more a coordinate."""
        return (9.0 + self.bits) * rungs.size

    def contraction(self, size: int) -> float:
        """1 − 1 / (2^bits + 1)², approached by entries just below 2^E (1 + 2^−bits), of which 2^E is kept.

        The paper has 1 − 2^−bits.
        """
        return 1 - 1 / (2**self.bits + 1) ** 2

    def worst_draw(self, size: int, probabilities: str) -> float:
        """1/8: entries 2^E (1 + u) have variance 4^E u(1 − u) with fixed chances, most for their square at u = 1/3.

        Adaptive chances do no worse; all levels cost the same, so those by cost are adaptive.
        """
        return 1 / 8

    def climb(self, vector: Tensor) -> "FloatingPointRungs":
        """The 23 mantissa bits of each coordinate, over sign and exponent."""
        return FloatingPointRungs(vector)


class FloatingPointRungs(Rungs):
    """The mantissa bits of one vector. A denormal is 2^−126 times a mantissa without the leading one."""

    num_levels = MANTISSA_BITS

    def __init__(self, vector: Tensor) -> None:
        self.size = vector.numel()
        self.base_bits = 9.0 * self.size
        self._words = vector.contiguous().view(torch.int32)

    @cached_property
    def _negative(self) -> Tensor:
        return negative(self._words.view(torch.float32))

    @property
    def base(self) -> PowerBlock:  # type: ignore[override]
        """±2^E of each coordinate; zero for zeros and denormals."""
        return PowerBlock(self._negative, self._exponents())

    def norms(self) -> np.ndarray:
        """(L,) for long vectors with bits from the 8th on taken as ones of half the energy."""
        if self.size < EXACT_BELOW:
            return self.exact_norms()
        # Late bits are ones for about half of the energy.
        energies = self._energies(0)
        return self._norms([*energies[1:], *[energies[0] / 2] * (self.num_levels - _DIGITS)])

    def exact_norms(self) -> np.ndarray:
        """(L,) with the ones of every bit counted, by exponent."""
        return self._norms([one for done in range(0, self.num_levels, _DIGITS) for one in self._energies(done)[1:]])

    def _norms(self, energies: list[float]) -> np.ndarray:
        return 2.0 ** -np.arange(1, self.num_levels + 1) * np.sqrt(energies)

    def _energies(self, done: int) -> list[float]:
        """Σ 4^E over all coordinates, then over those with a one in each of a few bits after `done`."""
        width = min(_DIGITS, self.num_levels - done)
        low = self.num_levels - done - width
        compiled = kernel_for("exponents_and_bits", self.size) if self._words.device.type == "cpu" else None
        if compiled is not None:
            counts = np.zeros(256 << width, np.int64)
            compiled(self._words.numpy(), counts, np.int32(low), np.int32(width))
        else:
            groups = pointwise(
                lambda words: (words >> 23 & 255) << width | (words >> low & (1 << width) - 1), torch.int16, self._words
            )
            counts = tally(groups, 256 << width)
        powers = 4.0 ** (np.maximum(np.arange(256), 1) - 127)
        mantissas = powers @ counts.reshape(256, -1)
        ones = [float(mantissas @ (np.arange(1 << width) >> bit & 1)) for bit in reversed(range(width))]
        return [float(mantissas.sum()), *ones]

    def costs(self) -> np.ndarray:
        """(L,) one bit a coordinate and the level's number."""
        return np.full(self.num_levels, self.size + np.ceil(np.log2(self.num_levels)))

    def prior(self) -> np.ndarray:
        """(L,) 2^−l / (1 − 2^−23)."""
        return 2.0 ** -np.arange(1, self.num_levels + 1) / (1 - 2.0**-self.num_levels)

    def increment(self, level: int) -> PowerBlock:
        """±2^(E−level) where the bit is one, else zero."""
        plane = self._plane(level)
        exponents = torch.where(plane, self._exponents().clamp(min=1), 0)
        return PowerBlock(self._negative & plane, exponents, 2.0**-level)

    def estimate(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        """As blocks; base and increments as one block of powers or of letters, where that is shorter."""
        if not factors:
            return (self.base,)
        if len(factors) > 1:
            return self._several(factors)
        [(level, factor)] = factors.items()
        extra = factor * 2.0**-level
        if abs(extra - 1) < 2.0**-22:
            # One more power of two: the same as ±2^E (1 + extra) up to the last place, as any rescaling is.
            low = 23 - level
            raised = pointwise(
                lambda words: (words >> 23 & 255) + (words >> low & 1), torch.uint8, self._words, kernel=("raised", low)
            )
            if int(raised.max()) < 255:
                return (PowerBlock(self._negative, raised),)
        if factor > 2.0**100:  # a level that only tiny entries have: the factor may be beyond float32, the products not
            increment = DenseBlock((self.increment(level).dense().double() * factor).float())
            return (self.base, increment)
        plane, exponents = self._plane(level), self._exponents()
        if not bool(exponents.all()) and bool((plane & (exponents == 0)).any()):
            return super().estimate(factors)
        return (replace(self.base, extra=extra, numbers=plane.view(torch.uint8), bits=1),)

    def _several(self, factors: Mapping[int, float]) -> tuple[Block, ...]:
        """The base and several increments, with a letter for each sign, exponent and choice of bits that occurs."""
        width = len(factors)
        if width <= _MOST_SHARED:

            def letter(words: Tensor) -> Tensor:
                numbers = words >> MANTISSA_BITS & 511
                for level in factors:
                    numbers = numbers << 1 | words >> (MANTISSA_BITS - level) & 1
                return numbers

            letters = pointwise(letter, torch.int32, self._words)
            counts = tally(letters, 512 << width)
            used = np.flatnonzero(counts)
            if self.size > _LONG or 16 * used.size <= self.size * (width - 1):
                return (lettered(letters, counts, used, self._values(used, factors)),)
        # A table would be too long for so short a vector.
        (level, factor), *others = factors.items()
        return self.estimate({level: factor}) + tuple(self.increment(level).scaled(factor) for level, factor in others)

    def _values(self, letters: np.ndarray, factors: Mapping[int, float]) -> np.ndarray:
        """What letters of sign, exponent and a bit for each level stand for."""
        width = len(factors)
        exponents, negative = letters >> width & 255, letters >> width > 255
        mantissas = (exponents > 0).astype(np.float64)  # denormals have no leading one
        for place, (level, factor) in enumerate(factors.items(), start=1):
            mantissas += (letters >> (width - place) & 1) * (factor * 2.0**-level)
        return np.where(negative, -mantissas, mantissas) * 2.0 ** (np.maximum(exponents, 1) - 127)

    def rung(self, level: int) -> tuple[Block, ...]:
        """One block of powers, or a dense one from 16 bits on and where there are denormals."""
        if level == 0:
            return (self.base,)
        low = MANTISSA_BITS - level
        exponents = self._exponents() if level <= _MOST_BITS else None
        if exponents is None or self._has_denormals(exponents):  # they have no leading one
            kept = pointwise(lambda words: words & (-1 << low), torch.int32, self._words)
            return (DenseBlock(kept.view(torch.float32)),)
        numbers = self._bits(low, (1 << level) - 1, torch.uint8 if level <= 8 else torch.int16)
        return (PowerBlock(self._negative, exponents, 1.0, 2.0**-level, numbers, level),)

    def _exponents(self) -> Tensor:
        return self._bits(23, 255, torch.uint8)

    def _plane(self, level: int) -> Tensor:
        return self._bits(23 - level, 1, torch.uint8).view(torch.bool)

    def _bits(self, low: int, mask: int, dtype: torch.dtype) -> Tensor:
        return pointwise(lambda words: words >> low & mask, dtype, self._words, kernel=("bits", low, mask))

    def _has_denormals(self, exponents: Tensor) -> bool:
        zeros = self.size - int(torch.count_nonzero(exponents))
        return zeros > 0 and zeros > self.size - int(torch.count_nonzero(self._words << 1))
