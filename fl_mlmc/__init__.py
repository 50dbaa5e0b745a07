"""Compression and submodels for federated learning: the library, which knows neither Flower nor Ray."""

from collections.abc import Mapping

from torch import Tensor

from . import spec
from .compressors.base import Compressor
from .compressors.mlmc import MLMC
from .ladders.base import Ladder, Rungs
from .ladders.identity import Identity
from .ladders.top_k import TopK
from .wire import WireError, decode_payload

__all__ = [
    "COMPRESSORS",
    "MLMC",
    "Compressor",
    "Identity",
    "Ladder",
    "Rungs",
    "TopK",
    "WireError",
    "decode",
    "omega",
    "parse",
]

COMPRESSORS: Mapping[str, type[Compressor]] = {kind.__name__: kind for kind in (MLMC, Identity, TopK)}


def parse(text: str) -> Compressor:
    """The compressor that `text` names, e.g. "MLMC(TopK(fraction=0.01))"; `parse(repr(c)) == c`.

    ValueError on unknown names and options, with the known ones.
    """
    return spec.build(text, COMPRESSORS, "compressor")


def decode(payload: bytes, size: int) -> Tensor:
    """The 1-D float32 vector in `payload`, which must hold `size` coordinates; WireError on bad bytes."""
    return decode_payload(payload, size).dense()


def omega(compressor: Compressor, vector: Tensor) -> float | None:
    """Exact E‖C(v) − v‖² / ‖v‖² of an unbiased compressor for this vector; None where no formula exists."""
    return compressor.omega(vector)
