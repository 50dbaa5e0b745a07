"""Arrays as Flower carries them: a dtype by name, a shape, and the bytes of a .npy file, read without trust in them."""

import io
import math

import numpy as np
import torch
from torch import Tensor

from .protocol import ProtocolError

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
"""The dtypes of arrays that an update is taken of."""

_BITS = np.dtype("V2")  # numpy has no bfloat16: libraries that have it save its bits


def read_npy(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array in `data`, which must be of this dtype, numbers, and shape; ProtocolError before it takes more memory.

    A bfloat16 comes as its two bytes, dtype V2. The array shares the memory of `data`.
    """
    file = io.BytesIO(data)
    try:
        expected = _BITS if dtype == "bfloat16" else np.dtype(dtype)
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        found, is_fortran, kind = read_header[version](file)
    except Exception as error:  # numpy's parser meets bytes of somebody else's making
        raise ProtocolError(f"an array of dtype {dtype!r} is no .npy file: {type(error).__name__}: {error}") from None
    if (expected.kind not in "biuf" and expected != _BITS) or (found, kind) != (shape, expected):
        raise ProtocolError(f"an array's file holds {kind} of shape {found}, expected {dtype} of shape {shape}")
    if (held := len(data) - file.tell()) != (needed := math.prod(shape) * kind.itemsize):
        raise ProtocolError(f"an array of {dtype} and shape {shape} takes {needed} bytes, {held} are there")
    if not needed:
        return np.empty(shape, kind)
    return np.frombuffer(data, kind, offset=file.tell()).reshape(shape, order="F" if is_fortran else "C")


def to_floats(array: np.ndarray, dtype: str) -> Tensor:
    """The numbers of an array as `read_npy` gives it, flat in C order: float64 of a float64, else float32.

    `dtype` is one of `FLOATS`. Nothing is rounded.
    """
    flat = np.array(array, order="C").reshape(-1)  # a copy: torch does not take memory that cannot be written
    values = (
        torch.from_numpy(flat.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(flat)
    )
    return values if dtype == "float64" else values.float()


def to_npy(values: Tensor, dtype: str, shape: tuple[int, ...]) -> bytes:
    """The bytes of an array of `dtype`, one of `FLOATS`, and `shape`; `values` are flat, and rounded to the dtype."""
    rounded = values.to(FLOATS[dtype]).reshape(shape)
    array = rounded.view(torch.int16).numpy().view(_BITS) if dtype == "bfloat16" else rounded.numpy()
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
