"""Tells a lower problem that is not strongly convex from steps that are too long, before a run is lost."""

import math

from .problem import BilevelProblem, Point


class DivergenceError(RuntimeError):
    """x, y or v grows without bound."""


class NotStronglyConvexError(DivergenceError):
    """g curves the wrong way along v, so v grows without bound: says which strong_convexity would do."""


class ConvexityWatch:
    """Watches the curvature vᵀHv / ‖v‖², which every finite difference measures at no cost.

    A μ-strongly convex g never shows less than μ. Noise may, once: the error comes after `patience` rounds in a row of
    less than half of μ, or of nothing to be seen.
    """

    def __init__(self, problem: BilevelProblem, patience: int = 3) -> None:
        self._ridge = problem.strong_convexity
        self._patience = patience
        self._low: list[float] = []
        self._last = math.nan
        self._lost = 0

    def add(self, server_round: int, curvature: float, point: Point) -> None:
        """Take in a round: the mean `curvature` that its clients saw (NaN: none did), and the full `point` after it.

        NotStronglyConvexError or DivergenceError if this cannot go on.
        """
        if curvature <= self._ridge / 2:
            self._low.append(curvature)
        elif not math.isnan(curvature):
            self._low.clear()
            self._last = curvature
        is_lost = math.isnan(curvature) and bool(point.v.any())
        self._lost = self._lost + 1 if is_lost else 0
        is_finite = all(bool(part.isfinite().all()) for part in point)
        if len(self._low) >= self._patience or (self._low and not is_finite):
            raise self._not_convex(server_round)
        if self._lost >= self._patience or not is_finite:
            sizes = ", ".join(f"‖{name}‖ = {float(part.norm()):.3g}" for name, part in point._asdict().items())
            raise self._too_long(server_round, sizes)

    def diverged(self, server_round: int, curvature: float) -> DivergenceError:
        """What to say of clients whose own steps led nowhere, and who saw `curvature` last (NaN: none)."""
        if curvature <= self._ridge / 2:
            self._low.append(curvature)
        if self._low:
            return self._not_convex(server_round)
        self._last = curvature
        return self._too_long(server_round, "on the clients")

    def _too_long(self, server_round: int, where: str) -> DivergenceError:
        seen = f"the curvature along v was {self._last:.3g} while it could be seen. "
        return DivergenceError(
            f"the steps diverge, {where} after round {server_round}; {'' if math.isnan(self._last) else seen}"
            "Take shorter steps: those of y and v lie below 2 / curvature, that of x well below them"
        )

    def _not_convex(self, server_round: int) -> NotStronglyConvexError:
        worst = min(self._low)
        # Without the ridge g curves by `worst` − ridge: twice what lifts it to zero leaves as much above.
        needed = 2 * max(self._ridge - worst, self._ridge, 1e-3)
        return NotStronglyConvexError(
            f"the inner loss is not strongly convex along v: its curvature was down to {worst:.3g} in the rounds up "
            f"to {server_round}, with strong_convexity = {self._ridge:g}. v would diverge. "
            f"Try strong_convexity = {needed:.2g}"
        )
