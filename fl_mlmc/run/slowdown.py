"""How many times as long as usual something takes: distributions of a factor, drawn by a generator.

As text `"none"`, `"lognormal(sigma=0.5)"`, `"exponential(mean=1.0)"`, `"pareto(shape=2.0)"`, `"slow(share=0.1,
times=10)"`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .. import registry


class Slowdown(ABC):
    """A distribution of factors above 0; 1 is as usual."""

    @abstractmethod
    def factor(self, rng: np.random.Generator) -> float:
        """One draw."""


@dataclass(frozen=True)
class Even(Slowdown):
    """Always 1."""

    def factor(self, rng: np.random.Generator) -> float:
        """1, and nothing is drawn."""
        return 1.0


@dataclass(frozen=True)
class Lognormal(Slowdown):
    """exp(σZ − σ²/2) with Z normal: some draws faster, some slower, 1 on average. `sigma` is σ, above 0."""

    sigma: float

    def __post_init__(self) -> None:
        _need(self.sigma > 0, "lognormal's sigma is above 0", self.sigma)

    def factor(self, rng: np.random.Generator) -> float:
        """One draw, above 0."""
        return float(np.exp(self.sigma * rng.standard_normal() - self.sigma**2 / 2))


@dataclass(frozen=True)
class Exponential(Slowdown):
    """1 + an exponential of this `mean`, above 0: the shifted exponential of Lee et al. 2018, arXiv 1512.02673."""

    mean: float

    def __post_init__(self) -> None:
        _need(self.mean > 0, "exponential's mean is above 0", self.mean)

    def factor(self, rng: np.random.Generator) -> float:
        """One draw, at least 1."""
        return float(1 + self.mean * rng.standard_exponential())


@dataclass(frozen=True)
class Pareto(Slowdown):
    """At least x with chance x^(−shape): a heavy tail. `shape` is above 1: there is a mean, shape/(shape−1)."""

    shape: float

    def __post_init__(self) -> None:
        _need(self.shape > 1, "pareto's shape is above 1", self.shape)

    def factor(self, rng: np.random.Generator) -> float:
        """One draw, at least 1."""
        return float(1 + rng.pareto(self.shape))


@dataclass(frozen=True)
class Slow(Slowdown):
    """`times`, above 0, with chance `share`, in [0, 1]; else 1."""

    share: float
    times: float

    def __post_init__(self) -> None:
        _need(0 <= self.share <= 1, "slow's share lies in [0, 1]", self.share)
        _need(self.times > 0, "slow's times is above 0", self.times)

    def factor(self, rng: np.random.Generator) -> float:
        """One draw."""
        return self.times if rng.random() < self.share else 1.0


SLOWDOWNS: Mapping[str, type[Slowdown]] = {
    "none": Even,
    "lognormal": Lognormal,
    "exponential": Exponential,
    "pareto": Pareto,
    "slow": Slow,
}


def parse_slowdown(text: str) -> Slowdown:
    """The distribution that `text` names; ValueError that lists the known ones.

    >>> parse_slowdown("slow(share=0.1, times=10)")
    Slow(share=0.1, times=10)
    """
    made: Slowdown = registry.build(text, SLOWDOWNS, "slowdown", Slowdown)
    return made


def _need(holds: object, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, got {value!r}")
