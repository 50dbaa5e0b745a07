"""RAFBO: τ local steps of x, y and v on every sampled client, then the changes averaged where they are held.

A reconstruction of Li et al. 2025 (arXiv 2512.24667), see docs/bilevel.md. With full masks it is SimFBO (Yang et al.
2023, arXiv 2305.19442): all three variables advance together, so a round has one upload.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from .base import Gain, Reply, Steps
from .hypergradient import Estimator, FiniteDifference
from .problem import ClientData, Held, Point


@dataclass(frozen=True)
class Rafbo:
    """Clients step `num_steps` times, which may differ; the server adds `gain` times the mean change.

    `steps` are the clients' η of x, β of y and λ of v. ValueError if `num_steps` is below 1.
    """

    num_steps: int = 5
    steps: Steps = field(default_factory=Steps)
    estimator: Estimator = field(default_factory=FiniteDifference)
    gain: Gain = field(default_factory=lambda: Gain(1.0, 1.0, 1.0))

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps is at least 1, got {self.num_steps}")

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply:
        """Local steps from the client's own point, fresh minibatches at each; the update is (after − before) / τ.

        The curvature is the last one that was finite, the loss the last step's. v stays in its ball at every step.
        """
        here, bound, curvature = point, held.problem.multiplier_bound, point.y.new_tensor(torch.nan)
        for _ in range(self.num_steps):
            seen = self.estimator.directions(held, here, data, rng)
            x, y, v = (before + change for before, change in zip(here, self.steps.down(seen), strict=True))
            here = Point(x, y, self.estimator.project(v, bound))
            # Steps that diverge end where nothing can be measured: what was seen last says why.
            curvature = torch.where(seen.curvature.isfinite(), seen.curvature, curvature)
        update = Point(*((after - before) / self.num_steps for after, before in zip(here, point, strict=True)))
        return Reply(update, seen.loss, curvature, self.num_steps)
