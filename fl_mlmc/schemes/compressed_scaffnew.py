"""CompressedScaffnew: Scaffnew in which every client sends only its part of the coordinates.

See `controlled` with the cohort c = n and 2 ≤ s ≤ n. Condat, Agarský, Richtárik, 2022, arXiv 2210.13277.
Every client in every round; the template decides what travels, so the compressor is Identity(). 0 < γ < 2/L;
contraction per local step max{(1−γμ)², (γL−1)², 1 − p² η (s−1)/(n−1)}, the last with the constant found in numerical
checks.
"""

from dataclasses import dataclass

from .base import Round
from .controlled import ControlledSteps


@dataclass(frozen=True, repr=False)
class CompressedScaffnew(ControlledSteps):
    """Each coordinate is averaged over `overlap` clients, s."""

    name = "compressed_scaffnew"
    allows_partial = False

    step: float
    probability: float
    overlap: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.overlap, int) or self.overlap < 2:
            raise ValueError(f"{self.name}'s overlap is a whole number of at least 2, got {self.overlap!r}")

    def check_cohort(self, cohort_size: int, num_clients: int) -> None:
        """ValueError unless all clients take part, at least `overlap` of them."""
        super().check_cohort(cohort_size, num_clients)
        if self.overlap > cohort_size:
            raise ValueError(f"{self.name}'s overlap is {self.overlap}, more than the {cohort_size} clients of a round")

    def owners(self, round: Round) -> int:
        """s, the `overlap`."""
        return self.overlap
