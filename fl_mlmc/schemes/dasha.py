"""DASHA: MARINA's variance reduction without its full rounds; every message is compressed.

h_i⁺ = v_i, m_i = C(h_i⁺ − h_i − a (g_i − h_i)), g_i ← g_i + m_i; server g ← g + mean m_i, step along g. a = 1 /
(2ω+1). Tyurin, Richtárik, ICLR 2023, arXiv 2202.01268 (DASHA). Unbiased compressors. Every client in
every round: each step corrects the mean of all g_i. h_i and g_i start at 0. γ = 1 / (L + L̃ √(16ω(2ω+1)/n)).
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
class DASHA(Scheme):
    """Memory: what the client found last, h_i, and its estimate g_i. `memory_step` is a."""

    name = "dasha"
    allows_partial = False

    memory_step: float | None = None

    def __post_init__(self) -> None:
        need_share(self.name, **chosen(memory_step=self.memory_step))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With a = 1 / (2ω+1); ValueError unless the compressor is unbiased, its ω known or `memory_step` given."""
        need_unbiased(self.name, compressor)
        if self.memory_step is not None:
            return self
        return replace(self, memory_step=1 / (1 + 2 * known_omega(self.name, "memory_step", compressor, size)))

    def init_client(self, like: Tensor) -> State:
        """h_i and g_i, (d,), at zero."""
        return {"found": torch.zeros_like(like), "estimate": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send m_i = C(v_i − h_i − a (g_i − h_i)); h_i ← v_i, g_i ← g_i + m_i, decoded."""
        found = find(points[0])
        lag = given(self.memory_step) * (memory["estimate"] - memory["found"])
        message = turn.send(found - memory["found"] - lag)
        return (message,), {"found": found, "estimate": memory["estimate"] + decoded(message, found)}

    def init_server(self, model: Tensor) -> State:
        """g, (d,), at zero."""
        return {"estimate": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g ← g + mean m_i; the direction is g."""
        estimate = state["estimate"] + share * means[0]
        return estimate, {"estimate": estimate}
