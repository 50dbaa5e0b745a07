"""DASHA-MVR: DASHA for stochastic gradients, with momentum variance reduction on the client.

h_i⁺ = ∇f_i(x⁺; ξ) + (1−b) (h_i − ∇f_i(x; ξ)) with one sample ξ at both points; then as DASHA. Tyurin, Richtárik,
ICLR 2023, arXiv 2202.01268 (DASHA-MVR); b = 1 is DASHA. Unbiased compressors; every client in every
round. h_i starts as the first gradient (the paper: that of a large batch), g_i at 0.
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
class DASHAMVR(Scheme):
    """Memory: h_i, g_i and the point before. `momentum` is b, `memory_step` a."""

    name = "dasha_mvr"
    allows_partial = False

    momentum: float = 0.1
    memory_step: float | None = None

    def __post_init__(self) -> None:
        need_share(self.name, momentum=self.momentum, **chosen(memory_step=self.memory_step))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With a = 1 / (2ω+1); ValueError unless the compressor is unbiased, its ω known or `memory_step` given."""
        need_unbiased(self.name, compressor)
        if self.memory_step is not None:
            return self
        return replace(self, memory_step=1 / (1 + 2 * known_omega(self.name, "memory_step", compressor, size)))

    def init_client(self, like: Tensor) -> State:
        """h_i and g_i, (d,), at zero; a client's first round adds the point."""
        return {"gradient": torch.zeros_like(like), "estimate": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """h_i⁺ = v_i(x⁺) + (1−b) (h_i − v_i(x)) with one sample at both points; then as DASHA."""
        point, gradient = points[0], memory["gradient"]
        fresh = find(point)
        if "point" in memory:
            fresh = fresh + (1 - self.momentum) * (gradient - find(memory["point"]))
        message = turn.send(fresh - gradient - given(self.memory_step) * (memory["estimate"] - gradient))
        estimate = memory["estimate"] + decoded(message, fresh)
        return (message,), {"gradient": fresh, "estimate": estimate, "point": point.clone()}

    def init_server(self, model: Tensor) -> State:
        """g, (d,), at zero."""
        return {"estimate": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g ← g + mean m_i; the direction is g."""
        estimate = state["estimate"] + share * means[0]
        return estimate, {"estimate": estimate}
