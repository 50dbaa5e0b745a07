"""Models: each a torch module that can be built at any width, with its WidthSpec. One family a file."""

from .registry import MODELS, Model, build_model, parse_model

__all__ = ["MODELS", "Model", "build_model", "parse_model"]
