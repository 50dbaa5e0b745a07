"""How a round's updates become one step of the model: means over who holds a coordinate, and the server's optimizer."""

from .fold import Fold, Mean, NotFiniteError
from .mean import CoverageMean
from .private import PrivateMean
from .server_step import ServerOptimizer
from .trimmed import TrimmedMean

__all__ = ["CoverageMean", "Fold", "Mean", "NotFiniteError", "PrivateMean", "ServerOptimizer", "TrimmedMean"]
