"""The run config: flat dashed keys outside, sections inside. Parsed once at the edge, handed on in pieces."""

from .run_config import RunConfig
from .section import ConfigError, Scalar, Section

__all__ = ["ConfigError", "RunConfig", "Scalar", "Section"]
