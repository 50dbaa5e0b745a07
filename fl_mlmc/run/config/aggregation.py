"""What the server makes of a round's updates: which it takes, how they count, and its step."""

from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from ...aggregation import Aggregation, parse_aggregation
from ...training.optimizers import parse_optimizer
from ...training.schedules import factor_in
from .section import Section


class AggregationConfig(Section):
    """The mean of a round's updates and the server's step along it."""

    rule: str = Field(
        "mean",
        alias="aggregation",
        description="how updates become one: mean, median or trimmed-mean:0.2, coordinate by coordinate",
    )

    @field_validator("rule")
    @classmethod
    def _is_aggregation(cls, text: str) -> str:
        parse_aggregation(text)
        return text

    weighting: Literal["examples", "clients", "fednova"] = Field(
        "examples",
        description="what a client counts in the mean: its examples, the same for all, or FedNova: by local step",
    )
    average_by_label: bool = Field(
        False, description="average a classifier row over those clients alone that have its class"
    )
    max_update_norm: float = Field(
        0.0, ge=0, description="longest update that the server takes; a longer one is dropped; 0: any length"
    )
    max_examples: int = Field(
        2**31, ge=1, le=2**31, description="most examples that a client may declare; a larger number is dropped"
    )
    server_optimizer: str = Field(
        "sgd", description="how the server steps: sgd, adam, adamw; fedavgm, fedadam, fedyogi …"
    )

    @field_validator("server_optimizer")
    @classmethod
    def _is_optimizer(cls, text: str) -> str:
        parse_optimizer(text)
        return text

    server_learning_rate: float = Field(1.0, gt=0, description="step of the server; 1 with sgd is FedAvg")

    server_learning_rate_schedule: str = Field(
        "constant", description="the factor of the server's learning rate in a round: constant, warmup, cosine or steps"
    )

    @field_validator("server_learning_rate_schedule")
    @classmethod
    def _is_schedule(cls, text: str) -> str:
        factor_in(text, 1)
        return text

    def server_learning_rate_in(self, server_round: int) -> float:
        """The server's learning rate in a round."""
        return self.server_learning_rate * factor_in(self.server_learning_rate_schedule, server_round)

    @cached_property
    def parsed_rule(self) -> Aggregation:
        """The aggregation, parsed."""
        return parse_aggregation(self.rule)
