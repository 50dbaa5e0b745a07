"""Differential privacy on the server: clipped updates, Gaussian noise on their sum, and what that amounts to.

DP-FedAvg with a fixed denominator: McMahan, Ramage, Talwar, Zhang (ICLR 2018), arXiv 1710.06963, Algorithm 1. The unit
of privacy is a client: all that its examples ever did. The server sees the updates as they are and is trusted.
"""

import secrets
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

from ..compression.blocks import Payload
from ..submodels.plan import IndexPlan
from .fold import LARGEST, Fold, Mean


class PrivateMean(Fold):
    """(Σ clipped updates + noise) / expected holders, of one round.

    `noise` is the deviation in units of `clip`, so each coordinate gets N(0, (noise · clip)²). `expected_holders` (d,)
    is how many clients of the cohort hold a coordinate on average: who was drawn, or answered, does not change it.
    Weights are not looked at: one would tell of its client. Every `result` draws noise anew: call it once.
    """

    def __init__(self, clip: float, noise: float, expected_holders: Tensor, largest: float = LARGEST) -> None:
        super().__init__(expected_holders.numel(), largest)
        self._clip, self._noise, self._expected = clip, noise, expected_holders
        self._sums = torch.zeros(expected_holders.numel(), dtype=torch.float64)
        self._coverage = torch.zeros(expected_holders.numel(), dtype=torch.int32)

    def _take(
        self, plan: IndexPlan, payload: Payload, weight: float, labels: Collection[int] | None, only: Tensor | None
    ) -> None:
        update = payload.dense().cpu().double()
        update *= min(1.0, self._clip / max(float(update.norm()), 1e-300))
        plan.scatter_add(self._sums, update)
        plan.scatter_add(self._coverage, self._coverage.new_ones(1).expand(plan.size))

    def _mean(self) -> Mean:
        noise = secret_generator().normal(0.0, self._noise * self._clip, self._sums.numel())
        held = self._expected > 0
        update = torch.where(held, (self._sums + torch.from_numpy(noise)) / self._expected.clamp(min=1e-9), 0.0)
        return Mean(update.float(), self._coverage.clone())


def secret_generator() -> np.random.Generator:
    """Randomness that nobody can replay: clients know the run's seed, and could take noise drawn from it away again."""
    return np.random.default_rng(secrets.randbits(256))


def epsilon(noise: float, delta: float, cohort: int, num_clients: int, num_rounds: int) -> float:
    """ε of (ε, δ)-differential privacy after so many rounds, each with a secret cohort drawn without replacement.

    Neighbouring populations differ in one client's examples (replace-one), so a sum moves by up to twice the clip.
    Needs dp-accounting, `pip install 'fl-mlmc[privacy]'`.
    """
    try:
        from dp_accounting import GaussianDpEvent, NeighboringRelation, SampledWithoutReplacementDpEvent
        from dp_accounting.rdp import RdpAccountant
    except ImportError:
        raise ValueError(
            "dp-noise needs dp-accounting to say what it amounts to: `pip install 'fl-mlmc[privacy]'`"
        ) from None
    event = SampledWithoutReplacementDpEvent(num_clients, cohort, GaussianDpEvent(noise / 2))
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    return float(accountant.compose(event, num_rounds).get_epsilon(delta))
