"""The server side: Flower strategies that decode compressed updates of submodels.

`Decoding` is for a Flower strategy of your own (docs/flower-app.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decoding import Decoding

__all__ = ["Decoding"]

_HOMES = {"Decoding": "decoding"}


def __getattr__(name: str) -> Any:
    """What `__all__` names, when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
