"""The simulated clock of a run: how evenly clients work, and when they are there at all."""

from functools import cached_property

from pydantic import Field, field_validator

from ..availability import Always, Availability, parse_availability
from ..clock import Clock
from ..rhythm import Rhythm, parse_pace
from ..slowdown import parse_slowdown
from .section import Section


class TimeConfig(Section):
    """What decides a run's simulated seconds beside its tiers."""

    jitter: str = Field("none", description="how much longer a client takes, anew each round: lognormal(sigma=0.5), …")
    stragglers: str = Field(
        "none", description="likewise, once for the run: slow(share=0.1, times=10), pareto(shape=2)"
    )

    @field_validator("jitter", "stragglers")
    @classmethod
    def _are_slowdowns(cls, text: str) -> str:
        parse_slowdown(text)
        return text

    availability: str = Field(
        "always", description='when clients are on: "trace:FILE.csv", "diurnal(on=0.4)", "markov(on=600, off=1800)"'
    )

    @field_validator("availability")
    @classmethod
    def _is_availability(cls, text: str) -> str:
        parse_availability(text)
        return text

    pace: str = Field("rounds", description="when the server steps: rounds, or buffered(goal=10, concurrency=40)")

    @field_validator("pace")
    @classmethod
    def _is_pace(cls, text: str) -> str:
        parse_pace(text)
        return text

    def clock(self, seed: int) -> Clock:
        """The clock of a run of this `seed`."""
        return Clock(seed, parse_slowdown(self.jitter), parse_slowdown(self.stragglers))

    @cached_property
    def parsed_availability(self) -> Availability:
        """The rule of who is on when, parsed."""
        return parse_availability(self.availability)

    @cached_property
    def parsed_pace(self) -> Rhythm:
        """When the server steps, parsed."""
        return parse_pace(self.pace)

    @property
    def is_always(self) -> bool:
        """Whether nobody ever leaves."""
        return isinstance(self.parsed_availability, Always)
