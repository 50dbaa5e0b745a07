"""What becomes bytes: ladders, compressors and the wire format; `COMPRESSORS` is the one table of names."""

from collections.abc import Mapping

from torch import Tensor

from .. import registry
from ..own import References
from .compressors.base import Compressor, checked
from .compressors.bernoulli import Bernoulli
from .compressors.budget import Budget
from .compressors.dither import Dither
from .compressors.eden import EDEN
from .compressors.importance import Importance
from .compressors.induced import Induced
from .compressors.mlmc import MLMC
from .compressors.natural import Natural
from .compressors.qsgd import QSGD
from .compressors.rand_k import RandK
from .compressors.scaled import Scaled
from .compressors.stochastic_rounding import StochasticRounding
from .compressors.systematic import Systematic
from .compressors.terngrad import TernGrad
from .compressors.truncated import Truncated
from .ladders.base import Ladder, Rungs
from .ladders.ecuq import ECUQ
from .ladders.fixed_point import FixedPoint
from .ladders.floating_point import FloatingPoint
from .ladders.identity import Identity
from .ladders.rtn import RTN
from .ladders.top_k import TopK
from .wire import WireError, decode_payload

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

COMPRESSORS: Mapping[str, type[Compressor]] = {
    kind.__name__: kind
    for kind in (
        Bernoulli,
        Budget,
        Dither,
        ECUQ,
        EDEN,
        FixedPoint,
        FloatingPoint,
        Identity,
        Importance,
        Induced,
        MLMC,
        Natural,
        QSGD,
        RTN,
        RandK,
        Scaled,
        StochasticRounding,
        Systematic,
        TernGrad,
        TopK,
        Truncated,
    )
}


def parse(text: str, follow: References = ()) -> Compressor:
    """The compressor that `text` names, e.g. "MLMC(TopK(fraction=0.01))"; `parse(repr(c)) == c`.

    `follow`: which parts of the user's own, as in "MLMC(ladder.py:Stretches())", it may load; `own.EVERY` for texts of
    the user's own, none for those from elsewhere. ValueError on unknown names and options, with the known ones.
    """
    return registry.build(text, COMPRESSORS, "compressor", Compressor, follow)


def decode(payload: bytes, size: int) -> Tensor:
    """The 1-D float32 vector in `payload`, which must hold `size` coordinates; WireError on bad bytes."""
    return decode_payload(payload, size).dense()


def omega(compressor: Compressor, vector: Tensor) -> float | None:
    """Exact E‖C(v) − v‖² / ‖v‖² of an unbiased compressor for this vector; None where no formula exists.

    ValueError if the vector is not a finite, non-empty 1-D float32 tensor.
    """
    return compressor.omega(checked(vector))
