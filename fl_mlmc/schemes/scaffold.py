"""SCAFFOLD: local steps, each corrected by what the client's gradient lacks of the mean gradient.

Client i keeps c_i, the server c = mean c_i. K steps y ← y − γ (∇f_i(y) − c_i + c) from y = x, then c_i⁺ = c_i − c +
(x − y)/(Kγ) and x ← x + γ_g mean (y_i − x), c ← c + |S|/N mean (c_i⁺ − c_i). Karimireddy, Kale, Mohri, Reddi, Stich,
Suresh, ICML 2020, arXiv 1910.06378, Algorithm 1, option II.

The c_i⁺ of option II is u_i, the mean of the gradients along the way, and y_i − x = −Kγ (u_i − c_i + c). So the one
vector u_i − c_i tells the server both, where the paper sends two. It travels as in DIANA: m_i = C(u_i − c_i), c_i ←
c_i + a m_i, c ← c + a |S|/N mean m_i, a = 1 / (1+ω); the model moves by −γ_g Kγ (c + mean m_i). Without loss a = 1 and
this is SCAFFOLD to the last digit; with K = 1 it is DIANA. Unbiased compressors, any cohort. With exact gradients its
fixed point is the solution, however unlike the clients are, where FedAvg's is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded, given
from .constants import known_omega, need_unbiased
from .options import chosen, need_count, need_positive, need_share


@dataclass(frozen=True, repr=False)
class Scaffold(Scheme):
    """K is `steps` of size `step`, γ; `server_step` is γ_g, and `memory_step` is a."""

    name = "scaffold"
    moves_itself = True
    points_are_models = False

    step: float
    steps: int
    server_step: float = 1.0
    memory_step: float | None = None

    def __post_init__(self) -> None:
        need_positive(self.name, step=self.step, server_step=self.server_step)
        need_count(self.name, steps=self.steps)
        need_share(self.name, **chosen(memory_step=self.memory_step))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With a = 1 / (1+ω); ValueError unless the compressor is unbiased, its ω known or `memory_step` given."""
        need_unbiased(self.name, compressor)
        if self.memory_step is not None:
            return self
        return replace(self, memory_step=1 / (1 + known_omega(self.name, "memory_step", compressor, size)))

    def num_gradients(self, round: Round) -> int:
        """K."""
        return self.steps

    def init_client(self, like: Tensor) -> State:
        """The control variate c_i, (d,), at zero."""
        return {"control": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """K local steps from x, corrected by c − c_i; send m_i = C(u_i − c_i), c_i ← c_i + a m_i, decoded."""
        after, control = points[0], memory["control"]
        total = torch.zeros_like(after)
        for number in range(self.steps):
            found = find(after, number)
            total = total + found
            after = after - self.step * (found - control + points[1])
        message = turn.send(total / self.steps - control)  # (x − y)/(Kγ) + c_i − c, without its cancellation
        return (message,), {"control": control + given(self.memory_step) * decoded(message, after)}

    def init_server(self, model: Tensor) -> State:
        """c = mean c_i, (d,), at zero."""
        return {"control": torch.zeros_like(model)}

    def points(self, model: Tensor, state: State) -> tuple[Tensor, ...]:
        """The model x, and c."""
        return model, state["control"]

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is γ_g Kγ (c + mean m_i); c ← c + a · share · mean m_i."""
        direction = self.server_step * self.steps * self.step * (state["control"] + means[0])
        return direction, {"control": state["control"] + given(self.memory_step) * (share * means[0])}
