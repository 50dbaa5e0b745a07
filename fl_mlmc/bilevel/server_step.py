"""The server's step of every bilevel method, RABO and RAFBO alike: the mean update times its gain; v in its ball."""

from collections.abc import Callable

from .base import Method
from .problem import BilevelProblem, Point

Add = Callable[[Point, Point], Point]
"""A point and what is to be added to it, to the point after: a plain sum, or a server optimizer's step."""


def plain_sum(point: Point, change: Point) -> Point:
    """The sum, part by part."""
    return Point(*(part + gained for part, gained in zip(point, change, strict=True)))


def advance(
    method: Method,
    problem: BilevelProblem,
    point: Point,
    update: Point,
    num_steps: float = 1,
    add: Add = plain_sum,
) -> Point:
    """The point after a round, from the (mean) update of a local step and the (mean) number of these.

    x ← x + n·gain_x·Δx, y likewise, v ← Π(v + n·gain_v·Δv) with Π onto the ball of radius B/λ. RABO: n = 1 and the gain
    is the step size; RAFBO: n = τ and the gain 1. The step is the server's, or a client's own of a personal part.
    `point` and `update` have the same shapes; parts that do not travel are empty in both.
    """
    change = Point(*(num_steps * gain * part for gain, part in zip(method.gain, update, strict=True)))
    stepped = add(point, change)
    return stepped._replace(v=method.estimator.project(stepped.v, problem.multiplier_bound))
