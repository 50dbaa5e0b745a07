"""The optimal sparsifier with independent coins: keep v_j with probability p_j = min(1, c |v_j|), as v_j / p_j.

Wangni et al., NeurIPS 2018, arXiv 1710.09854: of all chances of sum s these give the least variance, Σ v²/p − ‖v‖².
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload, SparseBlock
from ..kernels import kernel_for
from ..noise import noise
from ..pointwise import STRETCH, drawn_seed
from .base import Compressed, Compressor
from .sparsity import (
    bounded,
    check_sparsity,
    equal_chances_omega,
    inclusion,
    inclusion_scale,
    num_drawn,
    sparse_omega,
    takes_omega,
)
from .values import Values, quantised, quantised_outcomes, quantiser, read_values, value_bits, worst_composed


@takes_omega
@dataclass(frozen=True, repr=False)
class Bernoulli(Compressor):
    """Keep an expected `fraction` of the coordinates, or `count` of them, the large ones more often.

    Or, with an `omega`, as few of each vector as keep its ω below that.
    """

    fraction: float | None = None
    count: int | None = None
    values: Values = "float32"
    omega_bound: float | None = bounded()

    def __post_init__(self) -> None:
        check_sparsity(self)
        read_values(self)

    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """A sparse block: as many coordinates as the coins fall for; bits are those of the expected number."""
        size, kept = vector.numel(), num_drawn(self, vector)
        scale = inclusion_scale(vector, kept)
        payload = Payload(size, (kept_entries(vector, _places(vector, scale, rng), scale),))
        bits = kept * (value_bits(self.values) + math.ceil(math.log2(max(size, 2))))
        return quantised(Compressed(payload, bits), self.values, rng)

    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every fall of the coins, 2^d of them, with every outcome of the values."""
        return quantised_outcomes(self._kept(vector), self.values)

    def _kept(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        scale = inclusion_scale(vector, num_drawn(self, vector))
        chances = inclusion(vector, scale).tolist()
        for keeps in product((0, 1), repeat=vector.numel()):
            chance = math.prod(p if keep else 1 - p for keep, p in zip(keeps, chances, strict=True))
            if chance > 0:
                places = torch.from_numpy(np.flatnonzero(keeps))
                yield chance, Payload(vector.numel(), (kept_entries(vector, places, scale),))

    def worst_omega(self, size: int) -> float | None:
        """d / k − 1, attained where all magnitudes are equal, and what the quantiser of the values adds."""
        return worst_composed(equal_chances_omega(self, size), self.values, size)

    @property
    def lists_outcomes(self) -> bool:
        """Whether the quantiser of the values does."""
        return quantiser(self.values).lists_outcomes

    def omega(self, vector: Tensor) -> float | None:
        """Σ v_j² (1 / p_j − 1) / ‖v‖², and what the quantiser of the values adds, where a formula has it."""
        return sparse_omega(vector, inclusion_scale(vector, num_drawn(self, vector)), self.values)


def kept_entries(vector: Tensor, indices: Tensor, scale: float) -> SparseBlock:
    """The coordinates at `indices`, each over its chance of being kept: ±1 / scale, or itself where it is certain."""
    entries = vector[indices]
    # Exactly equal magnitudes, which take a bit each on the wire; v / (|v| · scale) could differ in its last place.
    shared = torch.full_like(entries, 1 / scale).copysign_(entries)
    return SparseBlock(vector.numel(), indices, torch.where(inclusion(entries, scale) < 1, shared, entries))


def _places(vector: Tensor, scale: float, rng: np.random.Generator) -> Tensor:
    """(kept,) int64 the coordinates whose coin falls for them: a uniform number of 64 bits is below their chance.

    Its upper half decides, but where it is that of the chance itself: then the lower half does.
    """
    size, upper, lower = vector.numel(), drawn_seed(rng), drawn_seed(rng)
    if scale == float("inf"):
        return torch.nonzero(vector).squeeze(1)
    is_here, places = vector.device.type == "cpu", []
    compiled, step = kernel_for("coins", size) if is_here else None, STRETCH if is_here else size
    for start in range(0, size, step):
        part = vector[start : start + step]
        words = noise(upper, start, start + part.numel(), vector.device, size)
        if compiled is not None:
            found = np.empty(part.numel(), np.int64)
            near = torch.from_numpy(found[: compiled(part.numpy(), words.numpy(), found, scale)])
        else:
            near = torch.nonzero(_unsigned(words) <= (inclusion(part, scale) * _WORDS).long()).squeeze(1)
        levels, drawn = inclusion(part[near], scale) * _WORDS, _unsigned(words[near])
        keep = drawn < levels.long()
        for tie in torch.nonzero(drawn == levels.long()).squeeze(1).cpu().tolist():
            place, rest = start + int(near[tie]), float(levels[tie]) % 1.0
            keep[tie] = int(_unsigned(noise(lower, place, place + 1))[0]) < rest * _WORDS
        places.append(near[keep] + start)
    return torch.cat(places)


def _unsigned(words: Tensor) -> Tensor:
    """int64 from 0 to 2^32 − 1."""
    return words.long() & (_WORDS - 1)


_WORDS = 1 << 32
