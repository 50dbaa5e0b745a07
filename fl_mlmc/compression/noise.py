"""Uniform noise that both sides know: a 32-bit word for each coordinate, from a seed and its place alone.

A counter-based generator: word j is a keyed hash of j, so any stretch can be worked out by itself, on any device, and
integer arithmetic modulo 2^32 makes it the same everywhere. The hash is the lowbias32 mixer of Chris Wellons (2018,
"Prospecting for hash functions") with the constants of TheIronBorn, twice, keyed by one half of the seed each time.

>>> noise(7, 0, 4).tolist() == noise(7, 0, 2).tolist() + noise(7, 2, 4).tolist()
True
"""

import numpy as np
import torch
from torch import Tensor

from .kernels import kernel_for

WEYL = 0x9E3779B9  # 2^32 over the golden ratio: neighbours start far from each other
FIRST, SECOND = 0x21F0AAAD, 0x735A2D97
_SHIFTS = (16, 15, 15)


def noise(seed: int, start: int, stop: int, device: torch.device | str = "cpu", size: int = 0) -> Tensor:
    """(stop − start,) int32: the words of coordinates `start` to `stop`, each number equally likely over seeds.

    `seed` is below 2^64. `size` is the length of the vector of which this is a stretch.
    """
    low, high = seed & 0xFFFFFFFF, seed >> 32
    begin = start * WEYL + low
    fill = kernel_for("fill_noise", size) if torch.device(device).type == "cpu" else None
    if fill is not None:
        words = np.empty(stop - start, np.int32)
        fill(words, np.uint32(begin & 0xFFFFFFFF), np.uint32(high))
        return torch.from_numpy(words)
    x = torch.arange(stop - start, dtype=torch.int32, device=device)
    x = _mix(x.mul_(_signed(WEYL)).add_(_signed(begin)))
    return _mix(x.bitwise_xor_(_signed(high)))


def _mix(x: Tensor) -> Tensor:
    """The hash of each word, in place; products are modulo 2^32."""
    for shift, factor in zip(_SHIFTS, (FIRST, SECOND, None), strict=True):
        # The shift of a signed number copies its sign; a logical one does not.
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << 32 - shift) - 1))
        if factor is not None:
            x.mul_(_signed(factor))
    return x


def _signed(word: int) -> int:
    """The number below 2^31 that has the same low 32 bits."""
    return (word + 2**31) % 2**32 - 2**31
