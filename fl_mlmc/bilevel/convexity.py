"""Tells a lower problem that is not strongly convex from steps that are too long, before a run is lost."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .problem import BilevelProblem, Point


class DivergenceError(RuntimeError):
    """x, y or v grows without bound."""


class NotStronglyConvexError(DivergenceError):
    """g curves the wrong way along v, so v grows without bound: says which strong_convexity would do."""


class ConvexityWatch:
    """Watches the curvature vᵀHv / ‖v‖², which every finite difference measures at no cost.

    A μ-strongly convex g never shows less than μ. Noise may, once, and a client may say anything. So a round is bad if
    most of its clients that measured, and their mean, saw less than half of μ, or if none could see it; the error comes
    after `patience` bad rounds in a row, of which two clients or more told. In a mean of three or more the lowest
    counts no lower than the next. `num_clients` of the whole run: one that is alone in it is believed.
    """

    def __init__(self, problem: BilevelProblem, num_clients: int, patience: int = 3) -> None:
        self._ridge = problem.strong_convexity
        self._patience, self._least = patience, min(2, num_clients)
        self._low = _Streak()
        self._lost = _Streak()
        self._last = math.nan

    def add(self, server_round: int, curvatures: Mapping[int, float], point: Point) -> None:
        """Take in a round: the curvature that each client saw, not finite where it saw none, and the `point` after it.

        `point` is full. NotStronglyConvexError or DivergenceError if this cannot go on.
        """
        mean, middle = _mean(curvatures.values()), _middle(curvatures.values())
        if max(mean, middle) <= self._ridge / 2:
            self._low.add(mean, {client for client, seen in curvatures.items() if seen <= self._ridge / 2})
        elif not math.isnan(mean):
            self._low, self._last = _Streak(), mean
        if math.isnan(mean) and bool(point.v.any()):
            self._lost.add(mean, curvatures)
        else:
            self._lost = _Streak()
        is_finite = all(bool(part.isfinite().all()) for part in point)
        if self._is_over(self._low) or (self._low.curvatures and not is_finite):
            raise self._not_convex(server_round)
        if self._is_over(self._lost) or not is_finite:
            sizes = ", ".join(f"‖{name}‖ = {float(part.norm()):.3g}" for name, part in point._asdict().items())
            raise self._too_long(server_round, sizes)

    def diverged(self, server_round: int, curvatures: Iterable[float]) -> DivergenceError:
        """What to say of clients whose own steps led nowhere, and of the curvatures they saw last (NaN: none)."""
        seen = list(curvatures)
        mean = _mean(seen)
        if max(mean, _middle(seen)) <= self._ridge / 2:
            self._low.add(mean, ())
        if self._low.curvatures:
            return self._not_convex(server_round)
        self._last = mean
        return self._too_long(server_round, "on the clients")

    def _is_over(self, streak: "_Streak") -> bool:
        return len(streak.curvatures) >= self._patience and len(streak.clients) >= self._least

    def _too_long(self, server_round: int, where: str) -> DivergenceError:
        seen = f"the curvature along v was {self._last:.3g} while it could be seen. "
        return DivergenceError(
            f"the steps diverge, {where} after round {server_round}; {'' if math.isnan(self._last) else seen}"
            "Take shorter steps: those of y and v lie below 2 / curvature, that of x well below them"
        )

    def _not_convex(self, server_round: int) -> NotStronglyConvexError:
        worst = min(self._low.curvatures)
        # Without the ridge g curves by `worst` − ridge: twice what lifts it to zero leaves as much above.
        needed = 2 * max(self._ridge - worst, self._ridge, 1e-3)
        return NotStronglyConvexError(
            f"the inner loss is not strongly convex along v: its curvature was down to {worst:.3g} in the rounds up "
            f"to {server_round}, with strong_convexity = {self._ridge:g}. v would diverge. "
            f"Try strong_convexity = {needed:.2g}"
        )


@dataclass
class _Streak:
    """Bad rounds in a row: the mean of what was seen in each, and all clients that told of it."""

    curvatures: list[float] = field(default_factory=list)
    clients: set[int] = field(default_factory=set)

    def add(self, curvature: float, clients: Iterable[int]) -> None:
        self.curvatures.append(curvature)
        self.clients.update(clients)


def _measured(curvatures: Iterable[float]) -> list[float]:
    return sorted(curvature for curvature in curvatures if math.isfinite(curvature))


def _middle(curvatures: Iterable[float]) -> float:
    """The greater of the two in the middle, or the one: half of the clients alone cannot lower it. NaN if none."""
    seen = _measured(curvatures)
    return seen[len(seen) // 2] if seen else math.nan


def _mean(curvatures: Iterable[float]) -> float:
    """The mean, in which the lowest of three or more counts as the second lowest; NaN if none was measured."""
    seen = _measured(curvatures)
    if len(seen) > 2:
        seen[0] = seen[1]
    return sum(seen) / len(seen) if seen else math.nan
