"""Which of the clients that are on make up a round's cohort: alike, by size, by loss, or by how fast they are.

As text: `"uniform"`, `"size"`, `"loss(d=30)"`, `"deadline(seconds=60)"`. A rule draws from a `Crowd`, what the server
knows of each client, and says how much more than usual each one drawn counts in the mean.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import registry

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Crowd:
    """The clients to draw from; one entry each, all of shape (n,)."""

    clients: NDArray[np.int64]
    """Their numbers, ascending."""
    sizes: Floats
    """Their examples; ones where no rule asks for them."""
    losses: Floats
    """Their training loss of the last round that they were in; infinite: in none yet."""
    seconds: Floats
    """How long a round is expected to take each; zeros where no rule asks for it."""


Drawn = Mapping[int, float]
"""The clients drawn, each with the factor on its weight in the mean."""


class Sampling(ABC):
    """A rule that draws cohorts. Subclasses are frozen dataclasses, their fields the text's options."""

    is_uniform: ClassVar[bool] = False
    """Whether any cohort of a size is as likely as any other."""
    is_unbiased: ClassVar[bool] = False
    """Whether it draws unevenly and makes up for it by its factors."""
    asks_sizes: ClassVar[bool] = False
    asks_losses: ClassVar[bool] = False
    asks_seconds: ClassVar[bool] = False

    @property
    def deadline(self) -> float:
        """Simulated seconds after which a round takes no reply; infinite: it waits."""
        return math.inf

    @abstractmethod
    def draw(self, crowd: Crowd, count: int, rng: np.random.Generator) -> Drawn:
        """At most `count` clients; ValueError if the rule leaves nobody to draw."""


@dataclass(frozen=True)
class Uniform(Sampling):
    """Every subset of a size is as likely."""

    is_uniform = True

    def draw(self, crowd: Crowd, count: int, rng: np.random.Generator) -> Drawn:
        """So many clients, or all if they are fewer, each with factor 1."""
        chosen = rng.choice(len(crowd.clients), min(count, len(crowd.clients)), replace=False)
        return dict.fromkeys(sorted(crowd.clients[chosen].tolist()), 1.0)


@dataclass(frozen=True)
class BySize(Sampling):
    """A client with twice the examples is drawn twice as often, and then counts like any other.

    Client i is in the cohort with chance π_i = min(1, c n_i), Σ π_i = count, and counts by n_i / π_i: Horvitz and
    Thompson, 1952. These weights add up to Σ n_i in every cohort, so where all reply and all hold the whole model, the
    mean is unbiased for Σ n_i Δ_i / Σ n_i: Li et al., ICLR 2020, arXiv 1907.02189, scheme I, but nobody is drawn twice.
    """

    is_unbiased = True
    asks_sizes = True

    def draw(self, crowd: Crowd, count: int, rng: np.random.Generator) -> Drawn:
        """Systematic sampling in an order drawn anew each time; factors 1 / π_i."""
        order = rng.permutation(len(crowd.clients))
        chances = inclusion(crowd.sizes[order], count)
        chosen = systematic(chances, rng.random())
        picked = zip(crowd.clients[order][chosen].tolist(), (1 / chances[chosen]).tolist(), strict=True)
        return dict(sorted(picked))


@dataclass(frozen=True)
class ByLoss(Sampling):
    """Power of choice: of `d` candidates, drawn by size, those whose last known training loss is highest.

    Cho, Wang, Joshi, 2020, arXiv 2010.01243; the variant π_rpow-d, which asks nobody for a loss anew. Who was in no
    round yet counts as the highest. Biased on purpose: no weight makes up for the choice. With d as large as the cohort
    it draws by size.
    """

    d: int
    asks_sizes = True
    asks_losses = True

    def __post_init__(self) -> None:
        if type(self.d) is not int or self.d < 1:
            raise ValueError(f"loss's d is a whole number of candidates, at least 1, got {self.d!r}")

    def draw(self, crowd: Crowd, count: int, rng: np.random.Generator) -> Drawn:
        """The `count` of the candidates with the highest losses, each with factor 1; ties by the order of the draw."""
        many = min(max(self.d, count), len(crowd.clients))
        shares = crowd.sizes / crowd.sizes.sum()
        candidates = rng.choice(len(crowd.clients), many, replace=False, p=shares)
        best = candidates[np.argsort(-crowd.losses[candidates], kind="stable")[:count]]
        return dict.fromkeys(sorted(crowd.clients[best].tolist()), 1.0)


@dataclass(frozen=True)
class ByDeadline(Sampling):
    """Clients that are expected to be done within `seconds`, alike; the round ends then, whoever is missing.

    After FedCS: Nishio, Yonetani, ICC 2019, arXiv 1804.08333. Biased on purpose: slow clients are never heard.
    """

    seconds: float
    asks_seconds = True

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"deadline's seconds are above 0, got {self.seconds!r}")

    @property
    def deadline(self) -> float:
        """The `seconds`."""
        return self.seconds

    def draw(self, crowd: Crowd, count: int, rng: np.random.Generator) -> Drawn:
        """So many of the fast ones, or all if they are fewer, each with factor 1; ValueError if there are none."""
        fast = np.flatnonzero(crowd.seconds <= self.seconds)
        if not len(fast):
            raise ValueError(
                f"sampling deadline(seconds={self.seconds:g}): the fastest client takes {crowd.seconds.min():.4g} s; "
                "give more seconds, fewer steps or a smaller payload"
            )
        chosen = rng.choice(fast, min(count, len(fast)), replace=False)
        return dict.fromkeys(sorted(crowd.clients[chosen].tolist()), 1.0)


def inclusion(sizes: Floats, count: int) -> Floats:
    """The chances π_i, (n,), of being among `count` clients: as the `sizes`, none above 1, `count` in all.

    All are 1 where there are no more than `count` clients.

    >>> inclusion(np.array([1.0, 1.0, 6.0]), 2)
    array([0.5, 0.5, 1. ])
    """
    chances, is_open = np.ones(len(sizes)), np.ones(len(sizes), bool)
    if count >= len(sizes):
        return chances
    while True:
        left = count - int((~is_open).sum())
        chances[is_open] = left * sizes[is_open] / sizes[is_open].sum()
        if not (over := is_open & (chances > 1)).any():
            return chances
        chances[over], is_open = 1.0, is_open & ~over


def systematic(chances: Floats, offset: float) -> NDArray[np.intp]:
    """Places of those drawn with `chances`, (n,), whose sum is a whole number, by a comb of step 1 from `offset`.

    For an offset drawn uniformly from [0, 1) place i is drawn with chance `chances[i]`, and always as many in all as
    that sum.
    """
    edges = np.concatenate([[0.0], np.cumsum(chances)])
    edges[-1] = round(edges[-1])  # what sums of floats are off by would cost the last one
    return np.flatnonzero(np.floor(edges[1:] - offset) > np.floor(edges[:-1] - offset))


SAMPLINGS: Mapping[str, type[Sampling]] = {
    "uniform": Uniform,
    "size": BySize,
    "loss": ByLoss,
    "deadline": ByDeadline,
}


def parse_sampling(text: str) -> Sampling:
    """The rule that `text` names; ValueError that lists the known ones.

    >>> parse_sampling("loss(d=30)")
    ByLoss(d=30)
    """
    made: Sampling = registry.build(text, SAMPLINGS, "sampling", Sampling)
    return made
