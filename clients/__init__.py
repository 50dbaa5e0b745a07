"""The client side: imports on a device that has only flwr, torch and numpy.

`compressed` and `submodel` are for a Flower ClientApp of your own (docs/flower-app.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compress_mod import compressed
    from .submodel_mod import submodel

__all__ = ["compressed", "submodel"]

_HOMES = {"compressed": "compress_mod", "submodel": "submodel_mod"}


def __getattr__(name: str) -> Any:
    """What `__all__` names, when it is first asked for: the rooms of a device load what they need and no more."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
