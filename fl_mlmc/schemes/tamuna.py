"""TAMUNA: local steps, partial participation and compression together.

See `controlled` with a cohort of c clients and 2 ≤ s ≤ c. Condat, Agarský, Malinovsky, Richtárik, 2023, arXiv
2302.09832; its η is our pη, at the upper end p c(s−1) / (s(c−1)). Clients that are not sampled keep
their control variate. Any cohort of at least s; the template decides what travels, so the compressor is Identity().
"""

from dataclasses import dataclass

from .base import Round
from .controlled import ControlledSteps


@dataclass(frozen=True, repr=False)
class TAMUNA(ControlledSteps):
    """Each coordinate is averaged over `overlap` members of the cohort, s."""

    name = "tamuna"

    step: float
    probability: float
    overlap: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.overlap, int) or self.overlap < 2:
            raise ValueError(f"{self.name}'s overlap is a whole number of at least 2, got {self.overlap!r}")

    def check_cohort(self, cohort_size: int, num_clients: int) -> None:
        """ValueError unless the cohort has at least `overlap` clients."""
        if self.overlap > cohort_size:
            raise ValueError(f"{self.name}'s overlap is {self.overlap}, more than the {cohort_size} clients of a round")

    def owners(self, round: Round) -> int:
        """s, the `overlap`."""
        return self.overlap
