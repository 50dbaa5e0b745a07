"""Where clients compute, and what they take of a machine."""

from typing import Literal

from pydantic import Field

from .section import Section


class EngineConfig(Section):
    """The engine and its resources."""

    name: Literal["ray", "flower", "local"] = Field("ray", alias="engine", description="where clients compute")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    client_cpus: float = Field(1.0, gt=0, description="processors that a client takes, and threads it computes with")
    client_gpus: float = Field(0.0, ge=0, description="GPUs that it takes; a fraction shares one")
    client_timeout: float = Field(0.0, ge=0, description="seconds until the ray engine gives up a client; 0: never")
    vectorize: bool = Field(False, description="train clients of one width at the same time, equal but for rounding")
