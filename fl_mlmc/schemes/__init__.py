"""Schemes: two-sided rules with memory, one a file; `base` says what a scheme is."""

from collections.abc import Mapping
from functools import lru_cache

from .. import own, registry
from ..compression.compressors.base import Compressor
from .adiana import ADIANA
from .base import Part, Round, Scheme, State, Turn, Workload
from .compressed_scaffnew import CompressedScaffnew
from .dasha import DASHA
from .dasha_mvr import DASHAMVR
from .diana import DIANA
from .direct import Direct
from .ef14 import EF14
from .ef21 import EF21
from .ef21_sgdm import EF21SGDM
from .ef_bv import EFBV
from .marina import MARINA
from .proxskip import ProxSkip
from .scaffold import Scaffold
from .shadowheart import Shadowheart
from .tamuna import TAMUNA

__all__ = ["SCHEMES", "Part", "Round", "Scheme", "State", "Turn", "Workload", "parse_scheme", "resolve_scheme"]

SCHEMES: Mapping[str, type[Scheme]] = {
    kind.name: kind
    for kind in (
        Direct,
        EF14,
        EF21,
        EF21SGDM,
        EFBV,
        DIANA,
        ADIANA,
        MARINA,
        DASHA,
        DASHAMVR,
        ProxSkip,
        CompressedScaffnew,
        TAMUNA,
        Scaffold,
        Shadowheart,
    )
}


def parse_scheme(text: str) -> Scheme:
    """The scheme that `text` names, e.g. "ef21" or "diana(memory_step=0.1)"; `parse_scheme(repr(s)) == s`.

    "scheme.py:Mine(step=0.1)" names one of the user's own. ValueError on unknown names and options, with the known
    ones. "scaffnew" is another name of "proxskip".
    """
    return registry.build(text, _NAMES, "scheme", Scheme, own.EVERY)


_NAMES: Mapping[str, type[Scheme]] = {**SCHEMES, "scaffnew": ProxSkip}


def resolve_scheme(text: str, compressor: Compressor, size: int, num_clients: int) -> Scheme:
    """The scheme that `text` names, made ready: `Scheme.resolve`. Both sides of a run get the same one."""
    return _resolved(text, compressor, size, num_clients, own.versions(text))


@lru_cache(maxsize=64)
def _resolved(text: str, compressor: Compressor, size: int, num_clients: int, versions: tuple[object, ...]) -> Scheme:
    return parse_scheme(text).resolve(compressor, size, num_clients)
