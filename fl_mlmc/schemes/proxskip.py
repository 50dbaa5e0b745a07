"""ProxSkip for averaging, called Scaffnew: skip most communications, and lose nothing of the rate.

See `controlled` with s = n: everyone sends everything. Mishchenko, Malinovsky, Stich, Richtárik, ICML 2022, arXiv
2202.09357. Every client in every round; full vectors, so the compressor is Identity(). γ = 1 / max L_i
and p = √(γμ): rate per local step max{1 − γμ, 1 − p²}.
"""

from dataclasses import dataclass

from .base import Round
from .controlled import ControlledSteps


@dataclass(frozen=True, repr=False)
class ProxSkip(ControlledSteps):
    """Local steps of size `step`, each followed by a communication with `probability`."""

    name = "proxskip"
    allows_partial = False

    step: float
    probability: float

    def owners(self, round: Round) -> int:
        """Everybody: s is the size of the cohort."""
        return round.cohort_size
