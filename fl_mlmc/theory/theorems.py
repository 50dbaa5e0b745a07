"""Step sizes and rates that theorems promise, a function a method. Each scheme's module names its source.

Every function takes what is `known` of the problem, and the compressor with the `size` d of its vectors, of which it
asks for the worst ω or α; ValueError where that is not known.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

from ..compression.compressors.base import Compressor
from ..compression.ladders.identity import Identity
from ..schemes import (
    ADIANA,
    DASHA,
    DIANA,
    EF14,
    EF21,
    EF21SGDM,
    EFBV,
    MARINA,
    TAMUNA,
    CompressedScaffnew,
    Direct,
    ProxSkip,
    Scheme,
)
from ..schemes.base import given
from .problems import Constants

T = TypeVar("T")


@dataclass(frozen=True)
class Setup:
    """A scheme made ready for one problem: with a compressor and its theorem's step."""

    scheme: Scheme
    compressor: Compressor
    step: float
    """γ of x ← x − γ · direction; 1 where the scheme moves itself, with its step inside."""
    bound: float | None
    """Per local iteration f − f*, or the method's own potential, shrinks at least by the factor 1 − bound.

    None: the theorem has no such factor, or only up to a floor."""
    is_exact: bool
    """Whether the theorem says that it reaches the solution, not a neighbourhood."""
    cohort: int | None = None
    """Clients a round; None: all."""

    @property
    def label(self) -> str:
        """The scheme and its compressor, as short text."""
        return self.scheme.name if self.compressor.is_exact else f"{self.scheme.name} {self.compressor!r}"


def direct(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = 1 / (L + 2ω max L_i / n); linear up to a floor unless nothing is lost."""
    n, omega = len(known.client_smoothness), known_omega(compressor, size)
    step = 1 / (known.smoothness + 2 * known.largest * omega / n)
    return Setup(Direct(), compressor, step, None if omega else step * known.convexity, omega == 0)


def ef14(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = α / (8L), up to a floor."""
    return Setup(EF14(), compressor, _alpha(compressor, size) / (8 * known.smoothness), None, False)


def ef21(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = min{1 / (L + L̃ √(2β/θ)), θ / (2μ)}, rate γμ."""
    left = 1 - _alpha(compressor, size)
    theta = 1 - math.sqrt(left)
    slow = 1 / (known.smoothness + known.mean_square * math.sqrt(2 * left / theta**2))
    step = min(slow, theta / (2 * known.convexity))
    return Setup(EF21(), compressor, step, step * known.convexity, True)


def ef21_sgdm(known: Constants, compressor: Compressor, size: int, momentum: float = 0.1) -> Setup:
    """γ = min{α / (20 L̃), η / (7L)}; the theorem is for nonconvex f."""
    step = min(_alpha(compressor, size) / (20 * known.mean_square), momentum / (7 * known.smoothness))
    return Setup(EF21SGDM(momentum), compressor, step, None, True)


def ef_bv(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = 1 / (L + L̃ √(r_av/r) / s*), rate min{γμ, (1−r)/2}."""
    n = len(known.client_smoothness)
    scheme = EFBV().resolve(compressor, size, n)
    bias, omega = _known(compressor.bias_and_variance(size), compressor, "bias and variance")
    own, mean = given(scheme.memory_step), given(scheme.estimate_step)
    r = (1 - own + own * bias) ** 2 + own**2 * omega
    r_mean = (1 - mean + mean * bias) ** 2 + mean**2 * omega / n
    s = math.sqrt((1 + r) / (2 * r)) - 1
    step = 1 / (known.smoothness + known.mean_square * math.sqrt(r_mean / r) / s)
    return Setup(scheme, compressor, step, min(step * known.convexity, (1 - r) / 2), True)


def diana(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = 1 / (max L_i (1 + 6ω/n)), rate min{γμ, a/2}."""
    n, omega = len(known.client_smoothness), known_omega(compressor, size)
    step = 1 / (known.largest * (1 + 6 * omega / n))
    return Setup(DIANA(), compressor, step, min(step * known.convexity, 1 / (2 * (1 + omega))), True)


def adiana(known: Constants, compressor: Compressor, size: int) -> Setup:
    """Rate min{√(ημp) / 2 or p / 8, a / 2 scaled}: the least contraction factor of its Lyapunov function."""
    n = len(known.client_smoothness)
    scheme = ADIANA(known.largest, known.convexity).resolve(compressor, size, n)
    step, chance = given(scheme.step), given(scheme.probability)
    theta = min(0.25, math.sqrt(step * known.convexity / chance))
    rate = step / (2 * (theta + step * known.convexity))
    bound = min(rate * known.convexity, theta * chance, 1 / (2 * (1 + given(scheme.omega))))
    return Setup(scheme, compressor, 1.0, bound, True)


def marina(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = min{1 / (L̃ (1 + √(2(1−p)ω / (pn)))), p / (2μ)} with p = 1 / (1+ω), rate γμ."""
    n, omega = len(known.client_smoothness), known_omega(compressor, size)
    chance = 1 / (1 + omega)
    slow = 1 / (known.mean_square * (1 + math.sqrt(2 * (1 - chance) * omega / (chance * n))))
    step = min(slow, chance / (2 * known.convexity))
    return Setup(MARINA(), compressor, step, step * known.convexity, True)


def marina_permuted(known: Constants, compressor: Compressor, size: int) -> Setup:
    """Perm-K: γ = min{1 / (L + L± √(2(1−p)/p)), p / (2μ)} with p = 1/n, rate γμ."""
    chance = 1 / min(len(known.client_smoothness), size)
    slow = 1 / (known.smoothness + known.hessian_variance * math.sqrt(2 * (1 - chance) / chance))
    step = min(slow, chance / (2 * known.convexity))
    return Setup(MARINA(permuted=True), Identity(), step, step * known.convexity, True)


def dasha(known: Constants, compressor: Compressor, size: int) -> Setup:
    """γ = 1 / (L + L̃ √(16ω(2ω+1)/n)), rate min{γμ, a/2}."""
    n, omega = len(known.client_smoothness), known_omega(compressor, size)
    step = 1 / (known.smoothness + known.mean_square * math.sqrt(16 * omega * (2 * omega + 1) / n))
    return Setup(DASHA(), compressor, step, min(step * known.convexity, 1 / (2 * (2 * omega + 1))), True)


def proxskip(known: Constants) -> Setup:
    """γ = 1 / max L_i and p = √(γμ): rate min{γμ, p²} per local step."""
    step = 1 / known.largest
    chance = min(1.0, math.sqrt(step * known.client_convexity))
    return Setup(ProxSkip(step, chance), Identity(), 1.0, min(step * known.client_convexity, chance**2), True)


def compressed_scaffnew(known: Constants, overlap: int) -> Setup:
    """γ = 2 / (max L_i + μ) and the p that balances 1 − (1−γμ)² with p² η (s−1)/(n−1), which is the rate."""
    n = len(known.client_smoothness)
    step = 2 / (known.largest + known.client_convexity)
    eta = n * (overlap - 1) / (overlap * (n - 1))
    primal = 1 - (1 - step * known.client_convexity) ** 2
    dual = eta * (overlap - 1) / (n - 1)
    chance = min(1.0, math.sqrt(primal / dual))
    return Setup(CompressedScaffnew(step, chance, overlap), Identity(), 1.0, min(primal, chance**2 * dual), True)


def tamuna(known: Constants, cohort: int, overlap: int, probability: float) -> Setup:
    """γ = 2 / (max L_i + μ); a bound is not checked here."""
    step = 2 / (known.largest + known.client_convexity)
    return Setup(TAMUNA(step, probability, overlap), Identity(), 1.0, None, True, cohort)


def convex_step(smoothness: float, omega: float, distance: float, sigma: float, num_clients: int, rounds: int) -> float:
    """η of Theorem 4.1 of arXiv 2507.05508 for convex f and equal clients; `distance` is ‖x₁ − x*‖, `sigma` σ."""
    steps = [1 / (2 * smoothness)]
    if omega > 0:
        steps.append(num_clients / (16 * omega * smoothness))
    if sigma > 0:
        steps.append(distance * math.sqrt(num_clients) / (2 * sigma * math.sqrt((2 * omega + 1) * rounds)))
    return min(steps)


def convex_bound(
    smoothness: float, omega: float, distance: float, sigma: float, num_clients: int, rounds: int
) -> float:
    """E[f(x̄_T) − f*] of Theorem 4.1, its last constant 4 instead of the printed 2: the two halves balance there."""
    return (
        2 * distance**2 * smoothness / rounds
        + 16 * omega * distance**2 * smoothness / (num_clients * rounds)
        + 4 * sigma * math.sqrt(2 * omega + 1) * distance / math.sqrt(num_clients * rounds)
    )


def known_omega(compressor: Compressor, size: int) -> float:
    """The compressor's worst ω; ValueError where no bound is known."""
    return _known(compressor.worst_omega(size), compressor, "ω")


def _alpha(compressor: Compressor, size: int) -> float:
    return _known(compressor.contraction(size), compressor, "α")


def _known(bound: T | None, compressor: Compressor, what: str) -> T:
    if bound is None:
        raise ValueError(f"no bound on {what} of {compressor!r} is known")
    return bound
