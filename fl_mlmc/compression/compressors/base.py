"""What a compressor is: a random map from a vector to a payload, lossy here and nowhere else."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...own import name_of
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
    chosen: str = ""
    """The text of the compressor that this vector went through, where one chooses among several; else empty."""

    @property
    def unseeded_bits(self) -> float:
        """`expected_bits` without seeds, which both sides could derive from (run seed, round, client) and not send."""
        return self.expected_bits - sum(block.seed_bits for block in self.payload.blocks)


class Compressor(ABC):
    """A map C from vectors to payloads. `repr` is the text that `fl_mlmc.parse` reads back.

    Subclasses are frozen dataclasses with `repr=False`; their fields are the options of that text. What is known of
    one stands in its own file: a subclass overrides what it can say of itself. What it leaves out counts as unknown,
    and whoever asks refuses the unknown. Bounds hold but for float32's own rounding and denormal entries, which have
    few digits.
    """

    is_unbiased: ClassVar[bool] = True
    """Whether E C(v) = v for every v."""
    is_exact: ClassVar[bool] = False
    """Whether C(v) = v for every v: nothing is lost."""
    is_quantiser: ClassVar[bool] = False
    """Whether each coordinate is kept, and rounded, and the worst ω of longer vectors is no smaller.

    `values=…` of a sparsifier takes such compressors. False where it is not known.
    """

    @abstractmethod
    def compress(self, vector: Tensor, rng: np.random.Generator) -> Compressed:
        """One outcome of C(v); `vector` is 1-D float32, finite, of at least one coordinate."""

    @abstractmethod
    def outcomes(self, vector: Tensor) -> Iterator[tuple[float, Payload]]:
        """Every outcome of C(v) with its probability: the slow, exact meaning of `compress`, for short vectors."""

    @property
    def lists_outcomes(self) -> bool:
        """Whether `outcomes` are the ones that `compress` draws from.

        Where a draw is continuous they are points at which an integral over it is exact: means and mean squares of
        decoded coordinates over them are those of `compress`.
        """
        return True

    def encode(self, vector: Tensor, rng: np.random.Generator) -> bytes:
        """The payload bytes of one outcome of C(v).

        `vector` is a 1-D float32 tensor on any device; ValueError if it is not, or not finite.
        """
        return encode_payload(self.compress(checked(vector), rng).payload)

    def omega(self, vector: Tensor) -> float | None:
        """Exact E‖C(v) − v‖² / ‖v‖² for an unbiased C, if a formula exists; 0 for the zero vector."""
        return None

    @property
    def even_omega(self) -> float | None:
        """ω(v), where it is one number for every v but zero, of any size; None elsewhere."""
        return None

    def variances(self, vector: Tensor) -> Tensor | None:
        """(d,) float64 E|C(v)_j − v_j|², where each depends on its own v_j alone; None elsewhere."""
        return None

    def worst_omega(self, size: int) -> float | None:
        """The least known ω with E‖C(v) − v‖² ≤ ω‖v‖² for every v of `size` coordinates, C unbiased.

        None where C is biased or no bound is known.
        """
        return None

    def contraction(self, size: int) -> float | None:
        """The largest known α in (0, 1] with E‖C(v) − v‖² ≤ (1 − α)‖v‖² for every v of `size` coordinates.

        None where C may be as far from v as zero is, or no bound is known. With ω < 1, α = 1 − ω.
        """
        omega = self.worst_omega(size)
        return 1 - omega if omega is not None and omega < 1 else None

    def bias_and_variance(self, size: int) -> tuple[float, float] | None:
        """(η, ω) with ‖E C(v) − v‖ ≤ η‖v‖ and E‖C(v) − E C(v)‖² ≤ ω‖v‖² for every v of `size` coordinates.

        The class of EF-BV: Condat, Yi, Richtárik, NeurIPS 2022, arXiv 2205.04180. None where no bound is known. An
        unbiased C has η = 0; of a biased one, bias² and variance together are at most 1 − α.
        """
        if self.is_unbiased:
            omega = self.worst_omega(size)
            return None if omega is None else (0.0, omega)
        alpha = self.contraction(size)
        return None if alpha is None else (math.sqrt(1 - alpha), 1 - alpha)

    @property
    def rescales(self) -> bool:
        """Whether parts of the vector may travel over their chance to be sent, and so many times their size.

        A clip of decoded updates would cut most of them. True where it is not known.
        """
        return True

    @property
    def is_whole(self) -> bool:
        """Whether each decoded coordinate is near its own: none is dropped, rescaled or rounded far away.

        A median of decoded updates is then near that of the updates. False where it is not known.
        """
        return False

    def longest(self, size: int) -> int | None:
        """The most bytes that a payload of `size` coordinates may have, whatever the vector and the draws.

        None where no bound is known.
        """
        return None

    def shortened(self, size: int, budget: int) -> "Compressor":
        """This compressor if no payload of `size` coordinates is over `budget` bytes, else one that keeps to them.

        It depends on nothing that is drawn, so an unbiased compressor stays unbiased. Itself where it has no option
        to choose: its payloads may then be over the budget. ValueError where not even one coordinate fits.
        """
        return self

    def __repr__(self) -> str:
        options = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING and isinstance(value, Compressor):
                options.append(repr(value))
            elif value != field.default:
                options.append(f"{field.metadata.get('option', field.name)}={value!r}")
        return f"{name_of(type(self))}({', '.join(options)})"


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
