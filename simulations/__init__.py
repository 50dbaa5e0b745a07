"""Simulations: the Flower apps put together, engines, data and reports. `run` is the way in from Python."""

from .app.launch import RunResult, run
from .app.places import RunFailed

__all__ = ["RunFailed", "RunResult", "run"]
