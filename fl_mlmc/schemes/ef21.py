"""EF21: both sides keep an estimate of each client's gradient, and compress what it is off by.

c_i = C(v_i − g_i), g_i ← g_i + c_i; server g ← g + mean c_i, step along g. Richtárik, Sokolov, Fatkhullin, NeurIPS
2021, arXiv 2106.05203; with a cohort, g ← g + (share) · mean c_i as in EF21-PP, arXiv 2110.03294.
Contractive compressors, any cohort. g_i starts at 0. With θ = 1 − √(1−α) and β = (1−α)/θ: γ = 1 / (L + L̃ √(β/θ)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded
from .constants import need_contractive


@dataclass(frozen=True, repr=False)
class EF21(Scheme):
    """Memory: the client's own estimate g_i; the server keeps their mean."""

    name = "ef21"

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """The scheme itself; ValueError unless the compressor is known to be a contraction on `size` coordinates."""
        need_contractive(self.name, compressor, size)
        return self

    def init_client(self, like: Tensor) -> State:
        """The estimate g_i, (d,), at zero."""
        return {"estimate": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send c_i = C(v_i − g_i); g_i ← g_i + c_i, decoded."""
        message = turn.send(find(points[0]) - memory["estimate"])
        return (message,), {"estimate": memory["estimate"] + decoded(message, points[0])}

    def init_server(self, model: Tensor) -> State:
        """g = mean g_i, (d,), at zero."""
        return {"estimate": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g ← g + share · mean c_i; the direction is g."""
        estimate = state["estimate"] + share * means[0]
        return estimate, {"estimate": estimate}
