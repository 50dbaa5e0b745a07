"""What digits in buckets send: whole units and one digit of each coordinate, the digits at a scale of their bucket."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .blocks import Pointwise, single
from .pointwise import peak

_LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True, eq=False)
class BucketBlock(Pointwise):
    """sign(k) · (⌊|k| / 2⌋ · unit + (|k| mod 2) · scale of the bucket), with k = symbol − `most`.

    `symbols` are uint8 of shape (size,), int16 for more than 256 letters; all are up to 2 · `most`. `scales` are
    float32 of shape (buckets,). `unit` travels as a float32 number; values are worked out from that, in float64.
    """

    symbols: Tensor
    most: int
    unit: float
    scales: Tensor
    bucket: int

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many symbols there are."""
        return self.symbols.numel()

    @property
    def held_bytes(self) -> int:
        """1 or 2 a symbol, and 4 a bucket."""
        return self.size * self.symbols.element_size() + 4 * self.scales.numel()

    def peak(self) -> float:
        """The most units and the largest scale, which need not come together."""
        return self.most // 2 * abs(single(self.unit)) + peak(self.scales)

    def is_finite(self) -> bool:
        """Whether units and scales are, however they come together."""
        return math.isfinite(single(self.unit)) and self.peak() <= _LARGEST

    def scaled(self, factor: float) -> "BucketBlock":
        """The same symbols, other unit and scales."""
        return replace(self, unit=self.unit * factor, scales=(self.scales.double() * factor).float())

    def stretch(self, start: int, stop: int) -> Tensor:
        """Worked out in float64, then rounded."""
        places = torch.arange(start, stop, device=self.symbols.device).floor_divide_(self.bucket)
        numbers = self.symbols[start:stop].int() - self.most
        sizes = numbers.abs()
        values = (sizes >> 1).double().mul_(single(self.unit)).add_((sizes & 1) * self.scales[places].double())
        return values.mul_(numbers.sign()).float()
