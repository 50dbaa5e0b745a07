"""Compression and submodels for federated learning, and the rooms that are built on them.

The library, which knows neither Flower nor Ray, is what lies in this folder. `fl_mlmc.clients`, `fl_mlmc.strategies`,
`fl_mlmc.simulations` and `fl_mlmc.deploy` lie within it too where it is installed, and beside it in a checkout.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .rooms import beside

__path__ += beside(__path__)
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .compression import (
        COMPRESSORS,
        ECUQ,
        EDEN,
        MLMC,
        QSGD,
        RTN,
        Bernoulli,
        Budget,
        Compressor,
        Dither,
        FixedPoint,
        FloatingPoint,
        Identity,
        Importance,
        Induced,
        Ladder,
        Natural,
        RandK,
        Rungs,
        Scaled,
        StochasticRounding,
        Systematic,
        TernGrad,
        TopK,
        Truncated,
        WireError,
        decode,
        omega,
        parse,
    )

__all__ = [
    "COMPRESSORS",
    "ECUQ",
    "EDEN",
    "MLMC",
    "QSGD",
    "RTN",
    "Bernoulli",
    "Budget",
    "Compressor",
    "Dither",
    "FixedPoint",
    "FloatingPoint",
    "Identity",
    "Importance",
    "Induced",
    "Ladder",
    "Natural",
    "RandK",
    "Rungs",
    "Scaled",
    "StochasticRounding",
    "Systematic",
    "TernGrad",
    "TopK",
    "Truncated",
    "WireError",
    "decode",
    "omega",
    "parse",
]


def __getattr__(name: str) -> Any:
    """What `__all__` names, when it is first asked for: a device that starts a node need not load torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".compression", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
