"""Simulations: the Flower apps put together, engines, data and reports. `run` is the way in from Python."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app.launch import RunResult, run
    from .app.places import RunFailed

__all__ = ["RunFailed", "RunResult", "run"]

_HOMES = {"RunFailed": "places", "RunResult": "launch", "run": "launch"}


def __getattr__(name: str) -> Any:
    """What `__all__` names, when it is first asked for: the command's help needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".app.{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
