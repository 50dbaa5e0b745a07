"""Who takes part: the population, its tiers, the cohort of a round and what a round needs of it."""

import math
from functools import cached_property
from typing import Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ...submodels.rules import rule_named
from ...submodels.tier import Tier, assign_tiers, parse_tiers
from ..sampling import Sampling, parse_sampling
from .section import Section


class CohortConfig(Section):
    """Clients, their tiers and widths, and the cohort of a round."""

    num_clients: int = Field(60, ge=1, description="clients of the run")
    clients_per_round: int = Field(20, ge=1, description="clients drawn for a round: its cohort")
    tiers: str = Field("full:1.0:1.0", description="named kinds of clients, as name:width:share, each with options")

    @field_validator("tiers")
    @classmethod
    def _are_tiers(cls, text: str) -> str:
        return ",".join(map(str, parse_tiers(text)))

    tier_assignment: str = Field(
        "shares",
        description="who has which tier: shares, redrawn in every round, or a list such as 0-29:sensor,30:phone",
    )

    @field_validator("tier_assignment")
    @classmethod
    def _is_assignment(cls, text: str, info: ValidationInfo) -> str:
        if {"tiers", "num_clients"} <= info.data.keys():  # otherwise those are the mistake
            assign_tiers(parse_tiers(info.data["tiers"]), info.data["num_clients"], 0, text)  # any seed will do
        return text

    width_rule: str = Field(
        "nested", description="which units a narrow client trains: nested, ordered-dropout, rolling, random or depth"
    )

    @field_validator("width_rule")
    @classmethod
    def _is_rule(cls, name: str) -> str:
        rule_named(name)
        return name

    least_coverage: int = Field(
        0, ge=0, description="draw cohorts in which at least so many clients hold each coordinate; 0: any cohort"
    )
    coverage_warning: int = Field(
        10, ge=0, description="warn of coordinates that nobody held for so many rounds; 0: never"
    )
    over_sampling: float = Field(
        0.0,
        ge=0,
        description="ask so many more clients, as a share; the round ends when clients-per-round have replied",
    )
    sampling: str = Field(
        "uniform", description='whom a cohort is drawn from: uniform, size, "loss(d=30)" or "deadline(seconds=60)"'
    )

    @field_validator("sampling")
    @classmethod
    def _is_sampling(cls, text: str) -> str:
        parse_sampling(text)
        return text

    quorum: int | float = Field(
        0.5,
        description="good replies that a round needs, as a number or a share of the cohort; with fewer the run ends",
    )

    @field_validator("quorum")
    @classmethod
    def _is_quorum(cls, value: int | float) -> int | float:
        if isinstance(value, bool) or value < 0 or (isinstance(value, float) and not 0 < value <= 1):
            raise ValueError(f"a whole number of replies, or a share in (0, 1], not {value!r}")
        return value

    round_timeout: float = Field(3600.0, gt=0, description="seconds that a round waits for replies")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients-per-round is {self.clients_per_round}, more than num-clients, {self.num_clients}"
            )
        if isinstance(self.quorum, int) and self.quorum > self.clients_per_round:
            raise ValueError(f"quorum is {self.quorum}, more than clients-per-round, {self.clients_per_round}")
        return self

    @cached_property
    def tier_list(self) -> tuple[Tier, ...]:
        """The tiers, parsed."""
        return parse_tiers(self.tiers)

    @cached_property
    def parsed_sampling(self) -> Sampling:
        """The rule that draws cohorts, parsed."""
        return parse_sampling(self.sampling)

    @property
    def cuts_models(self) -> bool:
        """Whether some clients hold a part of the model only."""
        return any(tier.width < 1 for tier in self.tier_list)

    @property
    def is_steady(self) -> bool:
        """Whether a client holds the same coordinates in every round."""
        return not rule_named(self.width_rule).per_round and self.tier_assignment != "redrawn"

    @property
    def num_asked(self) -> int:
        """Clients that a round asks: clients-per-round and the over-sampling, at most all."""
        return min(math.ceil(self.clients_per_round * (1 + self.over_sampling) - 1e-9), self.num_clients)

    def least_replies(self, num_sampled: int) -> int:
        """Good replies that a round of so many sampled clients needs."""
        return self.quorum if isinstance(self.quorum, int) else max(1, -int(-self.quorum * num_sampled // 1))
