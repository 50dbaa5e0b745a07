"""Float values: float32, or the upper halves of float32 numbers where that loses nothing.

>>> for values in [0.5, -3.0], [0.5, 0.1]:
...     flag, body = encode_floats(torch.tensor(values))
...     print(flag, bytes(body).hex(" "), decode_floats(memoryview(body), 2 if flag else 4).tolist() == values)
128 00 3f 40 c0 True
0 00 00 00 3f cd cc cc 3d False
"""

import numpy as np
import torch
from torch import Tensor

from .errors import WireError
from .kinds import BFLOAT16, Body

LOWER_HALF = 0xFFFF
"""The bits of a float32 that bfloat16 leaves out."""


def encode_floats(values: Tensor) -> tuple[int, Body]:
    """(BFLOAT16 if every value is one, else 0; the bytes, of float32 values those of the tensor itself)."""
    words = words_of(values)
    check_floats(words)
    flag = BFLOAT16 if words.size and not int(np.bitwise_or.reduce(words)) & LOWER_HALF else 0
    return flag, bytes_of(words, 2 if flag else 4)


def bytes_of(words: np.ndarray, width: int) -> Body:
    """All four bytes of little-endian words, which are not copied, or the upper two."""
    return words.view(np.uint8).data if width == 4 else words.view("<u2")[1::2].tobytes()


def decode_floats(body: memoryview, width: int) -> Tensor:
    """The float32 values in `body`, `width` bytes each; WireError unless all are finite."""
    values = floats(body, width)
    return torch.from_numpy(finite(values if values.flags.writeable else values.astype(np.float32)))


def floats(body: memoryview, width: int) -> np.ndarray:
    """The values in `body`, `width` bytes each; those of four bytes are not copied."""
    if width == 4:
        return np.frombuffer(body, "<f4")
    values = np.zeros(len(body) // width, "<f4")
    values.view("<u2")[1::2] = np.frombuffer(body, "<u2")
    return values


def finite(values: np.ndarray) -> np.ndarray:
    """The values themselves; WireError unless all of them are finite."""
    if values.size and not np.isfinite([values.min(), values.max()]).all():
        raise WireError("payload holds values that are not finite")
    return values


def check_floats(words: np.ndarray) -> None:
    """ValueError unless the words are finite floats."""
    if words.size:
        values = words.view("<f4")
        check_finite(np.array([values.min(), values.max()]))


def check_finite(values: np.ndarray) -> None:
    """ValueError unless all of them are finite."""
    if not np.isfinite(values).all():
        raise ValueError(
            "a payload's values must be finite; rescaled, these leave float32's range: scale the vector down"
        )


def words_of(values: Tensor) -> np.ndarray:
    """The bits of float32 values as little-endian uint32 words, in the processor's memory."""
    return values.detach().cpu().contiguous().numpy().astype("<f4", copy=False).view("<u4")


def tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor; one that may not be written to, as bytes from elsewhere, is copied."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
