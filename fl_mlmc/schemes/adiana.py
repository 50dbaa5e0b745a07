"""ADIANA: DIANA with Nesterov's acceleration, for strongly convex problems.

x = θ1 z + θ2 w + (1−θ1−θ2) y; g = h + mean C(∇f_i(x) − h_i); h_i ← h_i + a C(∇f_i(w) − h_i), h the same of the mean;
y⁺ = x − ηg; z ← βz + (1−β)x + (γ/η)(y⁺ − x); w ← y with probability p. Li, Kovalev, Qian, Richtárik, ICML 2020,
arXiv 2002.11364. Two compressed vectors a round. Unbiased compressors; every client in every round,
because the coupling of the sequences rests on the mean over all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, decoded, given
from .constants import known_omega, need_unbiased
from .options import chosen, need_not_negative, need_positive, need_share


@dataclass(frozen=True, repr=False)
class ADIANA(Scheme):
    """Memory: the shift h_i. `smoothness` is max L_i and `convexity` μ; the other options follow from them.

    The model is y.
    """

    name = "adiana"
    allows_partial = False
    moves_itself = True
    num_messages = 2

    smoothness: float
    convexity: float
    omega: float | None = None
    probability: float | None = None
    step: float | None = None

    def __post_init__(self) -> None:
        need_positive(self.name, smoothness=self.smoothness, convexity=self.convexity, **chosen(step=self.step))
        need_not_negative(self.name, **chosen(omega=self.omega))
        need_share(self.name, **chosen(probability=self.probability))
        if self.convexity > self.smoothness:
            raise ValueError(
                f"adiana needs 0 < convexity ≤ smoothness, got convexity={self.convexity}, smoothness={self.smoothness}"
            )

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With the compressor's ω, and p and η by the theorem; ValueError unless it is unbiased with a known ω.

        p = min{1, max{1, √(n/(32ω)) − 1} / (2(1+ω))}, η = min{1/(2L), n / (64ω (2p(ω+1)+1)² L)}, n = `num_clients`.
        """
        need_unbiased(self.name, compressor)
        worst = known_omega(self.name, "omega", compressor, size) if self.omega is None else self.omega
        omega = max(worst, 1e-12)
        probability = min(1.0, max(1.0, math.sqrt(num_clients / (32 * omega)) - 1) / (2 * (1 + omega)))
        spread = 64 * omega * (2 * probability * (omega + 1) + 1) ** 2
        step = min(1 / (2 * self.smoothness), num_clients / (spread * self.smoothness))
        return replace(self, omega=omega, probability=self.probability or probability, step=self.step or step)

    def init_client(self, like: Tensor) -> State:
        """The shift h_i, (d,), at zero."""
        return {"shift": torch.zeros_like(like)}

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """Send C(∇f_i(x) − h_i) and C(∇f_i(w) − h_i) at the `points` x and w; h_i ← h_i + a · the second, decoded."""
        here, anchor = (turn.send(find(point) - memory["shift"]) for point in points)
        return (here, anchor), {"shift": memory["shift"] + self._memory_step * decoded(anchor, points[0])}

    def init_server(self, model: Tensor) -> State:
        """h at zero; z and the anchor w at the model; all (d,)."""
        return {"shift": torch.zeros_like(model), "z": model.clone(), "anchor": model.clone()}

    def points(self, model: Tensor, state: State) -> tuple[Tensor, ...]:
        """x = θ1 z + w/2 + (1/2 − θ1) y, and the anchor w; both (d,)."""
        theta = self._theta
        return theta * state["z"] + state["anchor"] / 2 + (0.5 - theta) * model, state["anchor"]

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """g = h + the first mean, from which y, z and w move on by the module's formulas; the direction is y − y⁺."""
        here, _ = self.points(model, state)
        movement = given(self.step) * (state["shift"] + means[0])
        rate = given(self.step) / (2 * (self._theta + given(self.step) * self.convexity))
        keep = 1 - rate * self.convexity
        is_drawn = round.shared("anchor").random() < given(self.probability)
        return model - (here - movement), {
            "shift": state["shift"] + self._memory_step * (share * means[1]),
            "z": keep * state["z"] + (1 - keep) * here - rate / given(self.step) * movement,
            "anchor": model.clone() if is_drawn else state["anchor"],
        }

    @property
    def _memory_step(self) -> float:
        return 1 / (1 + given(self.omega))

    @property
    def _theta(self) -> float:
        return min(0.25, math.sqrt(given(self.step) * self.convexity / given(self.probability)))
