"""How a round's updates become one step of the model: means over who holds a coordinate, and the server's optimizer."""

from .. import own, registry
from .base import Aggregation, Setting
from .fold import Fold, Mean, NotFiniteError
from .folding import Folding
from .groups import Groups, GroupSum
from .ledger import Ledger
from .mean import Average, CoverageMean
from .private import Private, PrivateMean
from .server_step import ServerOptimizer
from .trimmed import Trimmed, TrimmedMean

__all__ = [
    "Aggregation",
    "Average",
    "CoverageMean",
    "Fold",
    "Folding",
    "GroupSum",
    "Groups",
    "Ledger",
    "Mean",
    "NotFiniteError",
    "Private",
    "PrivateMean",
    "ServerOptimizer",
    "Setting",
    "Trimmed",
    "TrimmedMean",
    "parse_aggregation",
]


def parse_aggregation(text: str) -> Aggregation:
    """The aggregation that `text` spells: "mean", "median", "trimmed-mean:0.2", or "mine.py:Mine()" of the user's own.

    ValueError that lists the known ones.

    >>> parse_aggregation("trimmed-mean:0.2")
    Trimmed(trim=0.2)
    """
    if own.references(text):
        return registry.build(text, {}, "aggregation", Aggregation, own.EVERY)
    name, colon, share = text.partition(":")
    if not colon and name in ("mean", "median"):
        return Average() if name == "mean" else Trimmed(0.5)
    try:
        if name == "trimmed-mean" and 0 < (trim := float(share)) < 0.5:
            return Trimmed(trim)
    except ValueError:
        pass
    raise ValueError(
        f"unknown aggregation {text!r}; known: 'mean', 'median', 'trimmed-mean:SHARE' with a share in (0, 0.5), "
        "and one of your own, 'path/to/file.py:NAME'"
    )
