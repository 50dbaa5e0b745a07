"""RABO: one step of x, y and v a communication, by the clients' masked directions averaged where they are held.

A reconstruction of Li et al. 2025 (arXiv 2512.24667) from its abstract: see docs/bilevel.md.
"""

from dataclasses import dataclass, field

import numpy as np

from .base import Gain, Reply, Steps
from .hypergradient import Estimator, FiniteDifference
from .problem import ClientData, Held, Point


@dataclass(frozen=True)
class Rabo:
    """Clients send directions, the server owns the step sizes.

    `steps` are η of x, β of y and λ of v; `estimator` is how a client finds its directions.
    """

    steps: Steps = field(default_factory=Steps)
    estimator: Estimator = field(default_factory=FiniteDifference)

    @property
    def gain(self) -> Gain:
        """The step sizes."""
        return Gain(self.steps.x, self.steps.y, self.steps.v)

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply:
        """The directions at the client's own point, downhill: −h, −∇_y g and −(Hv − ∇_y f), as one step's update."""
        seen = self.estimator.directions(held, point, data, rng)
        return Reply(Point(-seen.outer, -seen.inner, -seen.system), seen.loss, seen.curvature)
