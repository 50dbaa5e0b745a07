"""Subtractive dither: noise that both sides know is added before rounding to whole steps, and taken off again after it.

`Dither(unit=2.0)` rounds v_j / Δ + ξ_j to a whole number q_j, with Δ two root mean squares of v and ξ_j uniform on
[−½, ½); the receiver, who knows ξ from a seed that travels, decodes Δ (q_j − ξ_j). The error is uniform on ±Δ/2
whatever v is (Roberts 1962; Schuchman 1964), so the estimate is unbiased with ω = unit² / 12 for every vector: a third
of what coins cost at worst. As the reader knows ξ, q is coded given ξ: entropy-coded dithered quantisation (Ziv 1985;
Zamir and Feder 1992), in federated learning UVeQFed (Shlezinger et al. 2020, arXiv 2006.03262), here on whole numbers.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..blocks import DenseBlock, Payload, single
from ..dithered import SPREAD, DitherBlock, dither
from ..kernels import kernel_for
from ..noise import noise
from ..pointwise import STRETCH, drawn_seed, empty, peak
from ..wire.dither_blocks import longest_dither
from .base import Compressed, Compressor
from .sparsity import bounded, takes_omega

_LEAST_UNIT, _MOST_UNIT = 2.0**-10, 2.0**10
_SMALLEST = 2.0**-149  # of float32's numbers
_FEW_DIGITS = 2.0**-120  # numbers of float32 that may have few
_HEADERS = 14 + 5  # of a payload and its block
_DTYPES = (torch.int8, torch.int16, torch.int32)
_MOST_SHIFT = 100  # of an exponent, so that neither a tiny nor a huge step has an inverse without digits


@takes_omega
@dataclass(frozen=True, repr=False)
class Dither(Compressor):
    """Round to whole steps of `unit` root mean squares, 2^−10 to 2^10, after noise that the receiver takes off again.

    ω = unit² / 12, for every vector but zero; `omega` in place of `unit` asks for the unit that gives it. About
    ½ log2(2πe (1/unit² + 1/12)) bits a coordinate on a Gaussian vector, fewer on any other.
    """

    unit: float | None = None
    omega_bound: float | None = bounded()

    is_quantiser = True
    lists_outcomes = False

    def __post_init__(self) -> None:
        if (self.unit is None) == (self.omega_bound is None):
            raise ValueError(f"Dither takes either unit=… or omega=…, got {self!r}")
        bound = self.omega_bound
        if bound is not None and not (isinstance(bound, int | float) and bound > 0):
            raise ValueError(f"Dither's omega is a number above 0, got {bound!r}")
        if not (isinstance(self.rms, int | float) and _LEAST_UNIT <= self.rms <= _MOST_UNIT):
            raise ValueError(f"Dither's unit is a number of root mean squares from 2^-10 to 2^10, got {self.rms!r}")

    @property
    def rms(self) -> float:
        """Root mean squares in a step: `unit`, or what `omega` asks for."""
        return self.unit if self.omega_bound is None else math.sqrt(12 * self.omega_bound)  # type: ignore[return-value]

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A block of whole numbers; bits are 96 for seed and step, and `bits_per_entry` a coordinate.

        A zero vector has no block, and costs nothing.
        """
        step = self._step(vector)
        if step == 0:
            return Compressed(Payload(vector.numel()), 0.0)
        seed = drawn_seed(rng)
        block = DitherBlock(seed, step, _numbers(vector, step, seed))
        return Compressed(Payload(vector.numel(), (block,)), 96 + self.bits_per_entry * vector.numel())

    @property
    def bits_per_entry(self) -> float:
        """½ log2(2πe (1/unit² + 1/12)), the most that q may say given ξ, and 3 % for its code.

        Zamir and Feder 1992, IEEE Trans. Inf. Theory 38(2): what q says is the information between v/Δ and v/Δ + ξ, and
        of all variables of that second moment a Gaussian one has the largest entropy.
        """
        return 1.03 * 0.5 * math.log2(2 * math.pi * math.e * (1 / self.rms**2 + 1 / 12))

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """One ξ for all coordinates: two points of each stretch of it on which no q changes, after Gauss and Legendre.

        Values are polynomials of ξ on such a stretch, so means and mean squares over these points are exact integrals.
        """
        step = self._step(vector)
        if step == 0:
            yield 1.0, Payload(vector.numel())
            return
        steps = vector.double().cpu().numpy() / step
        jumps = np.ceil(steps) - steps - 0.5  # where steps + ξ is half a whole number
        cuts = np.unique(np.concatenate([[-0.5, 0.5], jumps[np.abs(jumps) < 0.5]]))
        for low, high in pairwise(cuts):
            middle = (low + high) / 2
            whole = np.rint(steps + middle)
            for place in (-(3**-0.5), 3**-0.5):
                xi = middle + place * (high - low) / 2
                yield float(high - low) / 2, Payload(vector.numel(), (_dense(whole - xi, step),))

    def omega(self, vector: Tensor) -> float:
        """unit² / 12; 0 for the zero vector, which is sent as it is."""
        return self.even_omega if bool(vector.any()) else 0.0

    @property
    def even_omega(self) -> float:
        """unit² / 12."""
        return self.rms**2 / 12

    def worst_omega(self, size: int) -> float:
        """unit² / 12, the same for every vector."""
        return self.even_omega

    def longest(self, size: int) -> int:
        """Headers, and a body whose numbers take their bits as they are: the writer never takes more.

        Some 3.2 bits a coordinate for a unit of 2.8, where 0.9 are usual, and 5.2 for one of 0.5; four bytes at most.
        """
        return _HEADERS + min(4 * size, longest_dither(size, self.rms))

    @property
    def rescales(self) -> bool:
        """Whether a decoded vector may be more than twice as long as v: it is 1 + unit / 2 times as long at most."""
        return self.rms > 2

    @property
    def is_whole(self) -> bool:
        """Whether no coordinate is off by more than a root mean square; all of them are by unit / 2 of one at most."""
        return self.rms <= 2

    def _step(self, vector: Tensor) -> float:
        """unit · √(‖v‖² / d) as a float32 number, 0 for the zero vector."""
        # One pass for each part, where `energy` makes temporaries.
        parts = vector.split(STRETCH if vector.device.type == "cpu" else vector.numel())
        norm = math.hypot(*(float(torch.linalg.vector_norm(part, dtype=torch.float64)) for part in parts))
        exact = self.rms * norm / math.sqrt(vector.numel())
        step = single(exact)
        if step < exact < _FEW_DIGITS:  # there it could be so much shorter that numbers are too many
            step = float(np.nextafter(np.float32(step), np.float32(1)))
        return max(step, _SMALLEST) if norm > 0 else 0.0


def _numbers(vector: Tensor, step: float, seed: int) -> Tensor:
    """round(v / step + ξ) as int8, int16 or int32, whichever is sure to hold them."""
    shift = -max(-_MOST_SHIFT, min(math.frexp(step)[1], _MOST_SHIFT)) if step < float("inf") else 0
    scale, inverse = 2.0**shift, float(np.float32(1 / (step * 2.0**shift)))
    compiled = kernel_for("dithered", vector.numel()) if vector.device.type == "cpu" else None
    if compiled is not None:
        # Whether they fit is known afterwards, which spares the look at the largest coordinate.
        fitting = (_filled(compiled, vector, scale, inverse, seed, dtype) for dtype in _DTYPES)
        return next(out for out in fitting if out is not None)
    most = peak(vector) / step + 1
    dtype = next(dtype for dtype in _DTYPES if most <= torch.iinfo(dtype).max or dtype is _DTYPES[-1])
    out = torch.empty(vector.numel(), dtype=dtype, device=vector.device)
    for start in range(0, vector.numel(), SPREAD if vector.device.type == "cpu" else vector.numel()):
        part = vector[start : start + SPREAD] if vector.device.type == "cpu" else vector
        words = noise(seed, start, start + part.numel(), vector.device)
        out[start : start + part.numel()] = (part * scale).mul_(inverse).add_(dither(words)).round_()
    return out


def _filled(
    compiled: Callable[..., int], vector: Tensor, scale: float, inverse: float, seed: int, dtype: torch.dtype
) -> Tensor | None:
    """The numbers in `dtype`, None where one is too large for it."""
    out, size, largest = empty(vector.numel(), dtype), vector.numel(), torch.iinfo(dtype).max
    factors = np.float32(scale), np.float32(inverse)
    for start in range(0, size, SPREAD):
        part, stop = vector[start : start + SPREAD], min(start + SPREAD, size)
        words = noise(seed, start, stop, size=size)
        if compiled(part.numpy(), words.numpy(), out[start:stop].numpy(), *factors) > largest:
            return None
    return out


def _dense(numbers: np.ndarray, step: float) -> DenseBlock:
    return DenseBlock(torch.from_numpy(numbers * step).float())
