"""matplotlib, imported so that it works wherever a command is started: we write files and open no window."""

import os

try:
    import matplotlib as mpl
except ValueError:  # MPLBACKEND names a backend that is not installed here: notebooks hand theirs on to their children
    _backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib as mpl

    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = ["Axes", "EngFormatter", "Figure", "FigureBase", "LogLocator", "MaxNLocator", "NullFormatter", "mpl"]
