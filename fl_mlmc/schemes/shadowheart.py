"""Shadowheart SGD: every client computes and sends what fits a common time, and counts by how much it did.

With the `equilibrium_time` t* client i averages b_i = ⌊t*/h_i⌋ gradients at one point and sends m_i = ⌊t*/τ_i⌋
independent compressions of that mean, where h_i are its seconds for a gradient and τ_i those for a message. It cannot
compress the mean before it has the last gradient, so a round lasts max_i (b_i h_i + m_i τ_i), which is 2 t* at most.
The server takes the mean with weights w_i b_i m_i, w_i = 1 / (b_i ω + ω σ²/ε + m_i σ²/ε); who has b_i = 0 or m_i = 0 is
idle.
Tyurin, Pozzi, Ilin, Richtárik, NeurIPS 2024, arXiv 2402.04785. Unbiased compressors, one data distribution for all.
γ = 1 / (2L) and 16 LΔ/ε rounds bring E‖∇f‖² down to ε. More than ⌈ω+1⌉ messages are not sent: about as many carry
the whole vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from ..compression.blocks import Payload
from ..compression.compressors.base import Compressed, Compressor
from .base import Find, Round, Scheme, Share, State, Turn, Workload, given
from .constants import known_omega, need_unbiased
from .options import chosen, need_not_negative


@dataclass(frozen=True, repr=False)
class Shadowheart(Scheme):
    """`noise` is σ²/ε, the variance of a gradient over the accuracy wanted; `omega` follows from the compressor."""

    name = "shadowheart"
    allows_partial = False
    has_memory = False
    takes_minibatches = True
    sets_workloads = True

    noise: float
    omega: float | None = None

    def __post_init__(self) -> None:
        need_not_negative(self.name, noise=self.noise, **chosen(omega=self.omega))

    def resolve(self, compressor: Compressor, size: int, num_clients: int) -> Self:
        """With ω of the compressor; ValueError unless it is unbiased, with a known ω or a given `omega`."""
        need_unbiased(self.name, compressor)
        known = known_omega(self.name, "omega", compressor, size) if self.omega is None else self.omega
        return replace(self, omega=known)

    def workloads(self, compute: Sequence[float], message: Sequence[float]) -> list[Workload]:
        """What each client does in a round, from its seconds for a gradient, h_i, and for a message, τ_i."""
        time = equilibrium_time(compute, message, given(self.omega), self.noise)
        return [self._workload(time, *both) for both in zip(compute, message, strict=True)]

    def encode(
        self, find: Find, points: Sequence[Tensor], memory: State, turn: Turn
    ) -> tuple[tuple[Compressed, ...], State]:
        """The mean of `workload.messages` independent compressions of the mean of `workload.gradients` gradients."""
        load = turn.workload or Workload()
        found = sum_of(find, points[0], load.gradients) / load.gradients
        sent = [turn.send(found) for _ in range(load.messages)]
        blocks = tuple(block.scaled(1 / len(sent)) for message in sent for block in message.payload.blocks)
        bits = sum(message.expected_bits for message in sent)
        levels = tuple(level for message in sent for level in message.levels)
        chances = tuple(chance for message in sent for chance in message.probabilities)
        return (Compressed(Payload(found.numel(), blocks), bits, levels, chances),), memory

    def estimate(
        self, means: Sequence[Tensor], model: Tensor, state: State, round: Round, share: Share = 1.0
    ) -> tuple[Tensor, State]:
        """The direction is the mean, weighted by each client's `workload.weight`."""
        return means[0], state

    def _workload(self, time: float, compute: float, message: float) -> Workload:
        omega, slack = given(self.omega), 1 + 1e-9  # t* is some client's h or τ, up to the last digit
        gradients = math.floor(time * slack / compute)
        most = math.ceil(omega + 1)
        messages = most if message * most <= time * slack else math.floor(time * slack / message)
        if not gradients or not messages:
            return Workload(0, 0, 0.0)
        spread = gradients * omega + omega * self.noise + messages * self.noise
        return Workload(gradients, messages, gradients * messages / (spread or 1.0))


def sum_of(find: Find, point: Tensor, count: int) -> Tensor:
    """The sum of what is found at `point` on samples 0 to `count` − 1."""
    total = find(point, 0)
    for sample in range(1, count):
        total = total + find(point, sample)
    return total


def equilibrium_time(compute: Sequence[float], message: Sequence[float], omega: float, noise: float) -> float:
    """t* of clients with so many seconds for a gradient and for a message; `noise` is σ²/ε.

    With clients sorted by max(h, τ), t* is the least over j of max{max(h_j, τ_j), s_j}, where s_j solves
    s = 1 / Σ_{i ≤ j} 1 / (2 τ_i ω + 4 τ_i h_i ω (σ²/ε) / s + 2 h_i σ²/ε). ValueError unless
    gradients take time, and no message takes less than none.
    """
    if not all(h > 0 for h in compute) or not all(t >= 0 for t in message):
        raise ValueError("a gradient takes more than no time, a message at least none")
    order = sorted(range(len(compute)), key=lambda i: max(compute[i], message[i]))
    best = math.inf
    for count, last in enumerate(order, start=1):
        pairs = [(compute[i], message[i]) for i in order[:count]]
        best = min(best, max(compute[last], message[last], _share_time(pairs, omega, noise)))
    return best


def _share_time(pairs: Sequence[tuple[float, float]], omega: float, noise: float) -> float:
    """The s at which all of `pairs` (h, τ) together have done enough, by bisection: s minus the right side grows."""

    def right(s: float) -> float:
        spent = [2 * t * omega + 4 * t * h * omega * noise / s + 2 * h * noise for h, t in pairs]
        return 0.0 if min(spent) == 0 else 1 / sum(1 / each for each in spent)

    low, high = 0.0, 1e-9
    while right(high) > high:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if middle == 0 or right(middle) <= middle else (middle, high)
    return high
