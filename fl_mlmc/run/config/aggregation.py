"""What the server makes of a round's updates: which it takes, how they count, and its step."""

from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from ...aggregation import Aggregation, parse_aggregation
from ...training.optimizers import parse_optimizer
from .section import Section


class AggregationConfig(Section):
    """The mean of a round's updates and the server's step along it."""

    rule: str = Field(
        "mean", alias="aggregation", description='"mean", "median" or "trimmed-mean:SHARE", coordinate by coordinate'
    )

    @field_validator("rule")
    @classmethod
    def _is_aggregation(cls, text: str) -> str:
        parse_aggregation(text)
        return text

    weighting: Literal["examples", "clients"] = Field(
        "examples", description="clients count in the mean by their examples, or all alike"
    )
    average_by_label: bool = Field(False, description="classifier rows count for the classes that a client has only")
    max_update_norm: float = Field(0.0, ge=0, description="of a decoded update; a longer one is dropped; 0: any")
    max_examples: int = Field(2**31, ge=1, le=2**31, description="that a client may declare, and so its weight")
    server_optimizer: str = "sgd"

    @field_validator("server_optimizer")
    @classmethod
    def _is_optimizer(cls, text: str) -> str:
        parse_optimizer(text)
        return text

    server_learning_rate: float = Field(1.0, gt=0)

    @cached_property
    def parsed_rule(self) -> Aggregation:
        """The aggregation, parsed."""
        return parse_aggregation(self.rule)
