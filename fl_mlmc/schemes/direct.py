"""The neutral scheme: send what was found, average what was decoded. With an unbiased compressor, DCGD.

m_i = C(v_i), g = mean m_i. Alistarh et al., NeurIPS 2017, arXiv 1610.02132; with MLMC it is Algorithms 2
and 3 of arXiv 2507.05508. Linear on strongly convex problems up to a floor of order γω/(μn) · mean ‖∇f_i(x*)‖², with
γ = 1 / (L + 2 ω max L_i / n). Any compressor, any cohort; a biased one runs without a promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..compression.compressors.base import Compressed
from .base import Find, Round, Scheme, Share, State, Turn


@dataclass(frozen=True, repr=False)
class Direct(Scheme):
    """Encode, average; no memory on either side."""

    name = "direct"
    has_memory = False
    takes_any_compressor = True

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send C(v_i)."""
        return (turn.send(find(points[0])),), memory

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is the mean of C(v_i)."""
        return means[0], state
