"""What a compressor is: a random map from a vector to a payload, lossy here and nowhere else."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..blocks import Payload
from ..wire import encode_payload


@dataclass(frozen=True)
class Compressed:
    """One outcome of a compressor: what travels, and what the log tells of it."""

    payload: Payload
    expected_bits: float
    """The formula's length of such a payload in bits, without our header."""
    levels: tuple[int, ...] = ()
    """The levels drawn, 1 to L, one a draw; empty if nothing was drawn."""
    probabilities: tuple[float, ...] = ()
    """The probability of each drawn level."""


class Compressor(ABC):
    """A map C from vectors to payloads. `repr` is the text that `fl_mlmc.parse` reads back.

    Subclasses are frozen dataclasses with `repr=False`; their fields are the options of that text.
    """

    is_unbiased: ClassVar[bool] = True
    """Whether E C(v) = v for every v."""

    @abstractmethod
    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """One outcome of C(v); `vector` is 1-D float32, finite, of at least one coordinate."""

    @abstractmethod
    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every outcome of C(v) with its probability: the slow, exact meaning of `compress`, for short vectors."""

    def encode(self, vector: Tensor, rng: np.random.Generator) -> bytes:
        """The payload bytes of one outcome of C(v).

        `vector` is a 1-D float32 tensor on any device; ValueError if it is not, or not finite.
        """
        return encode_payload(self.compress(checked(vector), rng).payload)

    def omega(self, vector: Tensor) -> float | None:
        """Exact E‖C(v) − v‖² / ‖v‖² for an unbiased C, if a formula exists; 0 for the zero vector."""
        return None

    def __repr__(self) -> str:
        options = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Compressor):
                options.append(repr(value))
            elif value != field.default:
                options.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(options)})"


def checked(vector: Tensor) -> Tensor:
    """`vector` itself, if it is one that a compressor can take; ValueError or TypeError otherwise."""
    if not isinstance(vector, Tensor):
        raise TypeError(f"a vector is a 1-D float32 torch tensor, this is a {type(vector).__name__}")
    if vector.ndim != 1 or vector.dtype != torch.float32 or vector.numel() == 0:
        raise ValueError(
            f"a vector is a non-empty 1-D float32 tensor, this has shape {tuple(vector.shape)} and {vector.dtype}"
        )
    # NaN and infinity both survive into the extremes, which takes one pass without a temporary.
    if not bool(torch.isfinite(torch.stack(torch.aminmax(vector.detach()))).all()):
        num_bad = int((~torch.isfinite(vector)).sum())
        raise ValueError(f"a vector must be finite, {num_bad} of {vector.numel()} coordinates are NaN or infinite")
    return vector.detach()
