"""`fl_mlmc.aggregation`, by the name that it had first."""

from .aggregation import CoverageMean, Mean

__all__ = ["CoverageMean", "Mean"]
