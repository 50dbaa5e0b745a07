"""Pointwise passes over long vectors, a stretch at a time: temporaries stay in the cache and memory stays small."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STRETCH = 1 << 17


def pointwise(function: Callable[..., Tensor], dtype: torch.dtype, *vectors: Tensor) -> Tensor:
    """`function` of stretches of equally long `vectors`, as one tensor of `dtype` on their device."""
    size = vectors[0].numel()
    out = torch.empty(size, dtype=dtype, device=vectors[0].device)
    step = STRETCH if vectors[0].device.type == "cpu" else size
    for start in range(0, size, step):
        out[start : start + step] = function(*(vector[start : start + step] for vector in vectors))
    return out


def peak(vector: Tensor) -> float:
    """The largest magnitude, max |v_j|."""
    low, high = torch.aminmax(vector)
    return max(-float(low), float(high))


def energy(vector: Tensor) -> float:
    """‖v‖², summed in float64."""
    step = STRETCH if vector.device.type == "cpu" else max(vector.numel(), 1)
    return sum(float(part.double().square().sum()) for part in vector.split(step))


def total(vector: Tensor) -> float:
    """‖v‖₁, summed in float64."""
    step = STRETCH if vector.device.type == "cpu" else max(vector.numel(), 1)
    return sum(float(part.abs().sum(dtype=torch.float64)) for part in vector.split(step))


def random_words(size: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Uniform 32-bit words as int32."""
    words = rng.integers(0, 2**32, size, dtype=np.uint32)
    return torch.from_numpy(words.view(np.int32)).to(device)


def uniform(words: Tensor) -> Tensor:
    """Uniform float32 in [0, 1] from 32-bit words: multiples of 2⁻³² near zero, where float32 has the digits for it."""
    return (words.double() + 2**31).mul_(2.0**-32).float()
