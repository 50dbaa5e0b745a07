"""Differential privacy of a run's models."""

from typing import Self

from pydantic import Field, model_validator

from ...aggregation import Private
from .cohort import CohortConfig
from .section import Section


class PrivacyConfig(Section):
    """How updates are clipped, and how much noise their sum gets."""

    clip: float = Field(
        0.0,
        ge=0,
        alias="dp-clip",
        description="longest update under differential privacy; longer ones are shortened to it",
    )
    noise: float = Field(
        0.0,
        ge=0,
        alias="dp-noise",
        description="standard deviation of the noise on the sum of updates, in units of dp-clip; 0: no privacy",
    )
    delta: float = Field(1e-5, gt=0, lt=1, alias="dp-delta", description="the δ for which ε is logged")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.noise > 0) != (self.clip > 0):
            raise ValueError(
                f"dp-noise is in units of dp-clip: give both or none, got {self.noise:g} and {self.clip:g}"
            )
        return self

    @property
    def is_on(self) -> bool:
        """Whether models are noisy."""
        return self.noise > 0

    def of(self, cohort: CohortConfig) -> Private | None:
        """The privacy of a run with such a cohort; None if its models are not noisy."""
        if not self.is_on:
            return None
        return Private(self.clip, self.noise, self.delta, cohort.clients_per_round, cohort.num_clients)
