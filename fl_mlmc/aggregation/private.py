"""Differential privacy on the server: clipped updates, Gaussian noise on their sum, and what that amounts to.

DP-FedAvg with a fixed denominator: McMahan, Ramage, Talwar, Zhang (ICLR 2018), arXiv 1710.06963, Algorithm 1. The unit
of privacy is a client: all that its examples ever did. The server sees the updates as they are and is trusted.
"""

import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import Payload
from ..submodels.plan import IndexPlan
from .base import Setting
from .fold import LARGEST, Fold, Mean
from .ledger import Mechanism, epsilon


@dataclass(frozen=True)
class Private:
    """Differential privacy of a run: the clip of updates, the noise on their sum, and what cohorts are drawn from."""

    clip: float
    """The norm that a client's update is shortened to."""
    noise: float
    """The deviation of the noise on each coordinate of the sum, in units of `clip`."""
    delta: float
    """The δ for which ε is said."""
    cohort_size: int
    num_clients: int

    def check(self, setting: Setting) -> None:
        """ValueError, with the keys and the reason, if the rest of a run would void the promise."""
        what = "differential privacy (dp-noise)"
        if setting.compressor.rescales:
            raise ValueError(
                f"{what} clips every decoded update, and those of {type(setting.compressor).__name__} are rescaled by "
                "one over a chance, or may be: the clip would cut most of them and bias the mean. Use Identity(), "
                "TopK(…) or a quantiser"
            )
        if setting.aggregation != "mean":
            raise ValueError(f"{what} adds noise to a sum of updates, and aggregation {setting.aggregation!r} is none")
        if setting.weighting == "fednova":
            raise ValueError(
                f"{what} counts all clients alike, and weighting 'fednova' scales each by its number of steps: take "
                "'clients'"
            )
        if not setting.draws_uniformly:
            raise ValueError(
                f"{what} counts on a cohort drawn uniformly: over-sampling takes the fastest, least-coverage and "
                "sampling pick; leave them at 0, 0 and 'uniform'"
            )
        if not setting.keeps_holders:
            raise ValueError(
                f"{what} divides by how many clients hold a coordinate on average, which it knows for width-rule "
                "'nested' and tiers that stay"
            )
        setting.need_direct(what, "what a client remembers would count again in later rounds")

    def expected_holders(self, size: int, plans: Iterable[IndexPlan]) -> Tensor:
        """(size,) float64: how many clients of a cohort hold each coordinate on average.

        `plans` are those of the clients that are known. Of the others nothing is: each may hold anything.
        """
        holders, num_met = torch.zeros(size, dtype=torch.float64), 0
        for own in plans:
            own.scatter_add(holders, holders.new_ones(1).expand(own.size))
            num_met += 1
        holders += self.num_clients - num_met
        return holders * (self.cohort_size / self.num_clients)

    def epsilon(self, num_rounds: int) -> float:
        """The ε at `delta` of so many noisy models; ValueError where nothing can count it."""
        return epsilon({self.mechanism: num_rounds}, self.delta)

    @property
    def mechanism(self) -> Mechanism:
        """What decides the cost of one of its models."""
        return Mechanism(self.noise, self.cohort_size, self.num_clients)


class PrivateMean(Fold):
    """(Σ clipped updates + noise) / expected holders, of one round.

    `noise` is the deviation in units of `clip`, so each coordinate gets N(0, (noise · clip)²). `expected_holders` (d,)
    is how many clients of the cohort hold a coordinate on average: who was drawn, or answered, does not change it.
    Weights are not looked at: one would tell of its client. Every `result` makes a noisy model of its own, which costs
    privacy: call it once. `before_noise` is called first, to write that down.
    """

    def __init__(
        self,
        clip: float,
        noise: float,
        expected_holders: Tensor,
        largest: float = LARGEST,
        before_noise: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(expected_holders.numel(), largest)
        self._before_noise = before_noise
        self._clip, self._noise, self._expected = clip, noise, expected_holders
        self._sums = torch.zeros(expected_holders.numel(), dtype=torch.float64)
        self._coverage = torch.zeros(expected_holders.numel(), dtype=torch.int32)

    def take(
        self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None, only: Tensor | None
    ) -> None:
        """Add it, shortened to the clip."""
        update = payload.dense().cpu().double()
        update *= min(1.0, self._clip / max(float(update.norm()), 1e-300))
        plan.scatter_add(self._sums, update)
        plan.scatter_add(self._coverage, self._coverage.new_ones(1).expand(plan.size))

    def _mean(self) -> Mean:
        if self._before_noise:
            self._before_noise()
        noise = secret_generator().normal(0.0, self._noise * self._clip, self._sums.numel())
        held = self._expected > 0
        update = torch.where(held, (self._sums + torch.from_numpy(noise)) / self._expected.clamp(min=1e-9), 0.0)
        return Mean(update.float(), self._coverage.clone())


def secret_generator() -> np.random.Generator:
    """Randomness that nobody can replay: clients know the run's seed, and could take noise drawn from it away again."""
    return np.random.default_rng(secrets.randbits(256))
