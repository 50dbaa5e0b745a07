"""EF21-SGDM: EF21 of a momentum, which makes it sound with stochastic gradients.

v_i ← (1−η) v_i + η ∇f_i(x; ξ), c_i = C(v_i − g_i), g_i ← g_i + c_i; server g ← g + mean c_i. Fatkhullin, Tyurin,
Richtárik, NeurIPS 2023, arXiv 2305.15155. Contractive compressors, any cohort. v_i starts as the first
gradient, g_i at 0. γ ≤ min{α / (20 L̃), η / (7L)}; η = 1 is EF21.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded
from .constants import need_contractive
from .options import need_share


@dataclass(frozen=True, repr=False)
class EF21SGDM(Scheme):
    """Memory: the momentum and the client's own estimate. `momentum` is η, the weight of a new gradient."""

    name = "ef21_sgdm"

    momentum: float = 0.1

    def __post_init__(self) -> None:
        need_share(self.name, momentum=self.momentum)

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """The scheme itself; ValueError unless the compressor is known to be a contraction on `size` coordinates."""
        need_contractive(self.name, compressor, size)
        return self

    def init_client(self, like: Tensor) -> State:
        """The estimate g_i, (d,), at zero; the momentum starts with the first gradient."""
        return {"estimate": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """v_i ← (1−η) v_i + η · what was found; send c_i = C(v_i − g_i); g_i ← g_i + c_i, decoded."""
        found = find(points[0])
        momentum = torch.lerp(memory.get("momentum", found), found, self.momentum)
        message = turn.send(momentum - memory["estimate"])
        return (message,), {"momentum": momentum, "estimate": memory["estimate"] + decoded(message, found)}

    def init_server(self, model: Tensor) -> State:
        """g = mean g_i, (d,), at zero."""
        return {"estimate": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g ← g + share · mean c_i; the direction is g."""
        estimate = state["estimate"] + share * means[0]
        return estimate, {"estimate": estimate}
