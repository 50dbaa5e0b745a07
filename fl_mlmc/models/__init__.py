"""Models: each a torch module that can be built at any width, with its WidthSpec. One family a file."""

from .exported import About, load_exported, save_exported
from .registry import MODELS, Model, build_model, parse_model, placed_model, rooted_model

__all__ = [
    "MODELS",
    "About",
    "Model",
    "build_model",
    "load_exported",
    "parse_model",
    "placed_model",
    "rooted_model",
    "save_exported",
]
