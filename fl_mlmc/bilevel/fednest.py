"""FedNest's schedule, a baseline: y, then v, then x takes τ local steps, each with a communication of its own.

Tarzanagh et al. 2022 (arXiv 2205.02215), as the light variant without its variance-reduced local steps, and with
differences in the place of Hessian products. One turn of all three takes three rounds.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from .base import Gain, Reply, Steps
from .hypergradient import FiniteDifference, gradients
from .problem import ClientData, Held, Point

PHASES = ("y", "v", "x")


@dataclass(frozen=True)
class Fednest:
    """One phase: `num_steps` local steps of one variable, the others as they came.

    `gain` is what the server multiplies the mean change by. Products are finite differences alone.
    """

    phase: Literal["y", "v", "x"]
    num_steps: int = 5
    steps: Steps = field(default_factory=Steps)
    estimator: FiniteDifference = field(default_factory=FiniteDifference)
    gain: Gain = field(default_factory=lambda: Gain(1.0, 1.0, 1.0))

    @classmethod
    def of_round(cls, server_round: int, num_steps: int, steps: Steps) -> "Fednest":
        """The phase of a round, from 1: y in rounds 1, 4, …, v in 2, 5, …, x in 3, 6, …"""
        return cls(PHASES[(server_round - 1) % 3], num_steps, steps)  # type: ignore[arg-type]

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply:
        """Local steps of the phase's variable from the client's own point; the update of the other two is zero."""
        here, bound = point, held.problem.multiplier_bound
        loss = curvature = point.x.new_tensor(torch.nan)
        for _ in range(self.num_steps):
            x, y, v = here
            if self.phase == "y":
                inner_batch = data.inner(rng)
                loss, (inner,) = gradients(lambda y, x=x, batch=inner_batch: held.inner_loss(x, y, batch), y)
                here = here._replace(y=y - self.steps.y * inner)
                continue
            hv, jv = self.estimator.products(held, x, y, v, data.inner(rng))
            outer_batch = data.outer(rng)
            loss, (outer, slope) = gradients(lambda x, y, batch=outer_batch: held.outer_loss(x, y, batch), x, y)
            curvature = self.estimator.curvature(y, v, hv)
            if self.phase == "v":
                here = here._replace(v=self.estimator.project(v - self.steps.v * (hv - slope), bound))
            else:
                here = here._replace(x=x - self.steps.x * (outer - jv))
        update = Point(*((after - before) / self.num_steps for after, before in zip(here, point, strict=True)))
        return Reply(update, loss, curvature, self.num_steps)
