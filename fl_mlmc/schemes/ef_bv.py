"""EF-BV: EF21 and DIANA as two ends of one rule, for compressors with bias and with variance.

d_i = C(v_i − h_i), h_i ← h_i + λ d_i; server g = h + ν mean d_i, h ← h + λ mean d_i. Condat, Yi, Richtárik, NeurIPS
2022, arXiv 2205.04180. With the compressor's relative bias η and variance ω (`Compressor.bias_and_variance`) and ω_av =
ω / n: λ = min{(1−η) / ((1−η)² + ω), 1}, ν the same with ω_av. λ = ν = 1 is EF21, ν = 1 with η = 0 is DIANA. Any
compressor whose constants are known, any cohort.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded, given
from .options import chosen, need_share


@dataclass(frozen=True, repr=False)
class EFBV(Scheme):
    """Memory: h_i; the server keeps their mean. `memory_step` is λ, `estimate_step` ν; open ones follow the theorem."""

    name = "ef_bv"

    memory_step: float | None = None
    estimate_step: float | None = None

    def __post_init__(self) -> None:
        need_share(self.name, **chosen(memory_step=self.memory_step, estimate_step=self.estimate_step))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With the theorem's λ and ν; ValueError where they are not given and the compressor's constants not known."""
        if self.memory_step is not None and self.estimate_step is not None:
            return self
        constants = compressor.bias_and_variance(size)
        if constants is None:
            raise ValueError(f"no bounds of {compressor!r} are known: give ef_bv its memory_step and estimate_step")
        bias, omega = constants
        own, mean = best_step(bias, omega), best_step(bias, omega / num_clients)
        return replace(
            self,
            memory_step=own if self.memory_step is None else self.memory_step,
            estimate_step=mean if self.estimate_step is None else self.estimate_step,
        )

    def init_client(self, like: Tensor) -> State:
        """The shift h_i, (d,), at zero."""
        return {"shift": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send d_i = C(v_i − h_i); h_i ← h_i + λ d_i, decoded."""
        message = turn.send(find(points[0]) - memory["shift"])
        return (message,), {"shift": memory["shift"] + given(self.memory_step) * decoded(message, points[0])}

    def init_server(self, model: Tensor) -> State:
        """h = mean h_i, (d,), at zero."""
        return {"shift": torch.zeros_like(model)}

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is h + ν mean d_i; h ← h + λ · share · mean d_i."""
        shift = state["shift"] + given(self.memory_step) * (share * means[0])
        return state["shift"] + given(self.estimate_step) * means[0], {"shift": shift}


def best_step(bias: float, omega: float) -> float:
    """min{(1−η) / ((1−η)² + ω), 1}."""
    return min((1 - bias) / ((1 - bias) ** 2 + omega), 1.0)
