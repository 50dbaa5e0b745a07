"""Error feedback: what compression left out is added to the next vector.

p_i = v_i + e_i, send c_i = C(p_i), e_i ← p_i − c_i, g = mean c_i. Seide et al., Interspeech 2014; Stich et al.,
NeurIPS 2018, arXiv 1809.07599. Written with the step outside, which is the same for a constant step.
Contractive compressors, any cohort. With unequal clients it stops at a floor however exact the gradients are; γ ≤ α
/ (8L).
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
class EF14(Scheme):
    """Memory: the error left so far."""

    name = "ef14"

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """The scheme itself; ValueError unless the compressor is known to be a contraction on `size` coordinates."""
        need_contractive(self.name, compressor, size)
        return self

    def init_client(self, like: Tensor) -> State:
        """The error e_i, (d,), at zero."""
        return {"error": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """p_i = v_i + e_i; send c_i = C(p_i); e_i ← p_i − c_i, decoded."""
        wanted = find(points[0]) + memory["error"]
        message = turn.send(wanted)
        return (message,), {"error": wanted - decoded(message, wanted)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is mean c_i."""
        return means[0], state
