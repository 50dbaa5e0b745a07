"""Where clients compute, and what they take of a machine."""

from typing import Literal

from pydantic import Field

from .section import Section


class EngineConfig(Section):
    """The engine and its resources."""

    name: Literal["ray", "flower", "local"] = Field(
        "ray", alias="engine", description="where clients compute: Ray workers, Flower's nodes, or this process"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="what clients train on; auto takes a GPU where one is"
    )
    client_cpus: float = Field(
        1.0, gt=0, description="processors that a client takes; it computes with as many threads"
    )
    client_gpus: float = Field(0.0, ge=0, description="GPUs that a client takes; 0.5 lets two clients share one")
    client_timeout: float = Field(
        0.0, ge=0, description="seconds after which engine ray gives up a client that hangs; 0: never"
    )
    vectorize: bool = Field(
        False, description="train clients of one width in one batch; results differ by rounding alone"
    )
