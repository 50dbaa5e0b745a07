"""DIANA: compress the difference to a learnt shift, so the compressor's noise vanishes at the optimum.

m_i = C(v_i − h_i), h_i ← h_i + a m_i; server g = h + mean m_i, h ← h + a mean m_i, with a = 1 / (1+ω). Mishchenko,
Gorbunov, Takáč, Richtárik, 2019, arXiv 1901.09269; Horváth et al., 2019, arXiv 1904.05115. Unbiased
compressors; any cohort, where h moves by the cohort's share. γ = 1 / (max L_i (1 + 6ω/n)), rate max{1 − γμ, 1 −
a/2}.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded, given
from .constants import known_omega, need_unbiased
from .options import chosen, need_share


@dataclass(frozen=True, repr=False)
class DIANA(Scheme):
    """Memory: the shift h_i; the server keeps their mean. `memory_step` is a."""

    name = "diana"

    memory_step: float | None = None

    def __post_init__(self) -> None:
        need_share(self.name, **chosen(memory_step=self.memory_step))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With a = 1 / (1+ω); ValueError unless the compressor is unbiased, its ω known or `memory_step` given."""
        need_unbiased(self.name, compressor)
        if self.memory_step is not None:
            return self
        return replace(self, memory_step=1 / (1 + known_omega(self.name, "memory_step", compressor, size)))

    def init_client(self, like: Tensor) -> State:
        """The shift h_i, (d,), at zero."""
        return {"shift": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send m_i = C(v_i − h_i); h_i ← h_i + a m_i, decoded."""
        message = turn.send(find(points[0]) - memory["shift"])
        return (message,), {"shift": memory["shift"] + given(self.memory_step) * decoded(message, points[0])}

    def init_server(self, model: Tensor) -> State:
        """h = mean h_i, (d,), at zero."""
        return {"shift": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is h + mean m_i; h ← h + a · share · mean m_i."""
        shift = state["shift"] + given(self.memory_step) * (share * means[0])
        return state["shift"] + means[0], {"shift": shift}
