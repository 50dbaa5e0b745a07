"""Tells a lower problem that is not strongly convex from steps that are too long, before a run is lost."""

import math

from .problem import BilevelProblem, Point
from .rabo import Gain


class DivergenceError(RuntimeError):
    """x, y or v is no longer finite."""


class NotStronglyConvexError(DivergenceError):
    """g curves the wrong way along v, so v grows without bound: says which strong_convexity would do."""


class ConvexityWatch:
    """Watches the curvature vᵀHv / ‖v‖², which every finite difference measures at no cost.

    A μ-strongly convex g never shows less than μ. Noise may, once: the error comes after `patience` rounds in a row.
    """

    def __init__(self, problem: BilevelProblem, patience: int = 3) -> None:
        self._ridge = problem.strong_convexity
        self._patience = patience
        self._low: list[float] = []
        self._last = math.nan

    def add(self, server_round: int, curvature: float, point: Point, gain: Gain | None = None) -> None:
        """Take in a round; NotStronglyConvexError or DivergenceError if this cannot go on."""
        if curvature <= self._ridge / 2:
            self._low.append(curvature)
        elif not math.isnan(curvature):
            self._low.clear()
        if len(self._low) >= self._patience:
            raise self._not_convex(server_round)
        odd = [name for name, part in point._asdict().items() if not bool(part.isfinite().all())]
        if odd:
            if self._low:
                raise self._not_convex(server_round)
            raise DivergenceError(
                f"{' and '.join(odd)} is not finite after round {server_round}; the curvature along v was "
                f"{self._last:.3g} before. Take shorter steps: those of y and v lie below 2 / curvature, that of x "
                "well below them"
            )
        self._last = curvature if math.isfinite(curvature) else self._last

    def _not_convex(self, server_round: int) -> NotStronglyConvexError:
        worst = min(self._low)
        # Without the ridge g curves by `worst` − ridge: twice what lifts it to zero leaves as much above.
        needed = 2 * max(self._ridge - worst, self._ridge, 1e-3)
        return NotStronglyConvexError(
            f"the inner loss is not strongly convex along v: its curvature was down to {worst:.3g} in the rounds up "
            f"to {server_round}, with strong_convexity = {self._ridge:g}. v would diverge. "
            f"Try strong_convexity = {needed:.2g}"
        )
