"""Simulations: the Flower apps put together, engines, data and reports. `run` is the way in from Python."""

from .app.launch import RunFailed, RunResult, run

__all__ = ["RunFailed", "RunResult", "run"]
