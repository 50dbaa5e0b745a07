"""Pointwise passes over long vectors, a stretch at a time: temporaries stay in the cache and memory stays small."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .kernels import kernel_for
from .noise import noise

STRETCH = 1 << 17
"""Coordinates that are worked on together."""

EXACT_BELOW = 1 << 16
"""Rungs of shorter vectors give exact norms, those of longer ones may give rough ones."""


def pointwise(
    function: Callable[..., Tensor],
    dtype: torch.dtype,
    *vectors: Tensor,
    rng: np.random.Generator | None = None,
    kernel: tuple | None = None,
) -> Tensor:
    """`function` of stretches of equally long `vectors`, as one tensor of `dtype` on their device.

    With `rng` the function takes as many uniform 32-bit words as a last vector: `noise` of a seed that is drawn, which
    is the same on every device, and made there. `kernel` is the name of a loop in
    `fl_mlmc.compression.kernels` that does the same and its other arguments, floats and ints meaning float32 and int32.
    """
    size = vectors[0].numel()
    device = vectors[0].device
    out = empty(size, dtype) if device.type == "cpu" else torch.empty(size, dtype=dtype, device=device)
    step = STRETCH if device.type == "cpu" else size
    compiled = kernel_for(kernel[0], size) if kernel and device.type == "cpu" else None
    seed = None if rng is None else drawn_seed(rng)
    for start in range(0, size, step):
        parts = [vector[start : start + step] for vector in vectors]
        if seed is not None:
            parts.append(noise(seed, start, start + parts[0].numel(), device, size))
        if compiled and kernel:
            compiled(*(part.numpy() for part in parts), out[start : start + step].numpy(), *map(_single, kernel[1:]))
        else:
            out[start : start + step] = function(*parts)
    return out


def empty(size: int, dtype: torch.dtype) -> Tensor:
    """A new vector in the processor's memory: numpy asks for large pages, which take a third of the time to fill."""
    return torch.from_numpy(np.empty(size, torch.empty(0, dtype=dtype).numpy().dtype))


def negative(vector: Tensor) -> Tensor:
    """v < 0 as bool; numpy's comparison is faster than torch's."""
    return torch.from_numpy(vector.numpy() < 0) if vector.device.type == "cpu" else vector < 0


def tally(symbols: Tensor, count: int) -> np.ndarray:
    """(count,) int64: how often each of the numbers below `count` occurs."""
    is_here = symbols.device.type == "cpu"
    if count <= 3 and is_here:  # comparisons are faster
        others = [int(np.count_nonzero(symbols.numpy() == symbol)) for symbol in range(1, count)]
        return np.array([symbols.numel() - sum(others), *others])
    compiled = kernel_for("tally", symbols.numel()) if is_here else None
    if compiled is None:
        return torch.bincount(symbols, minlength=count).cpu().numpy()
    lanes = np.zeros((4, count), np.int32)
    compiled(symbols.numpy(), lanes)
    return lanes.sum(axis=0, dtype=np.int64)


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


def drawn_seed(rng: np.random.Generator) -> int:
    """A seed below 2^64 for `noise`."""
    return int(rng.integers(2**64, dtype=np.uint64))


def _single(value: object) -> object:
    match value:
        case float():
            return np.float32(value)
        case int():
            return np.int32(value)
        case tuple():
            return tuple(map(_single, value))
    return value
