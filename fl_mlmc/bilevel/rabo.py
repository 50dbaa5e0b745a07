"""RABO: one step of x, y and v a communication, by the clients' masked directions averaged where they are held.

A reconstruction of Li et al. 2025 (arXiv 2512.24667) from its abstract: see docs/bilevel.md.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from .hypergradient import Directions, Estimator, FiniteDifference
from .problem import BilevelProblem, ClientData, Held, Point


class Reply(NamedTuple):
    """What a client has to say after its part of a round.

    `update` is the mean change of a local step, so clients of many steps pull no harder than others (FedNova, arXiv
    2007.07481); the server multiplies by the mean number of steps, and by `Method.gain`.
    """

    update: Point
    loss: Tensor
    curvature: Tensor
    num_steps: int = 1


class Gain(NamedTuple):
    """What a mean update of x, of y and of v is multiplied by."""

    x: float
    y: float
    v: float


class Method(Protocol):
    """How clients and server share out the work of a round."""

    @property
    def estimator(self) -> Estimator: ...

    @property
    def gain(self) -> Gain: ...

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply: ...


@dataclass(frozen=True)
class Steps:
    """Step sizes η of x, β of y, λ of v. β and λ lie below 1/ℓ, ℓ the Lipschitz constant of ∇_y g; η well below."""

    x: float = 0.05
    y: float = 0.2
    v: float = 0.2

    def __post_init__(self) -> None:
        if min(self.x, self.y, self.v) < 0:
            raise ValueError(f"step sizes are not negative, got {self}")

    def down(self, directions: Directions) -> Point:
        """One step against all three."""
        return Point(-self.x * directions.outer, -self.y * directions.inner, -self.v * directions.system)


@dataclass(frozen=True)
class Rabo:
    """Clients send directions, the server owns the step sizes."""

    steps: Steps = field(default_factory=Steps)
    estimator: Estimator = field(default_factory=FiniteDifference)

    @property
    def gain(self) -> Gain:
        """The step sizes."""
        return Gain(self.steps.x, self.steps.y, self.steps.v)

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply:
        """The directions at the client's own point, downhill."""
        seen = self.estimator.directions(held, point, data, rng)
        return Reply(Point(-seen.outer, -seen.inner, -seen.system), seen.loss, seen.curvature)


def advance(method: Method, problem: BilevelProblem, point: Point, update: Point, num_steps: float = 1) -> Point:
    """The point after a round, from the (mean) update and number of steps: the server's, or a client's own."""
    moved = (part + num_steps * gain * change for part, gain, change in zip(point, method.gain, update, strict=True))
    x, y, v = moved
    return Point(x, y, method.estimator.project(v, problem.multiplier_bound))
