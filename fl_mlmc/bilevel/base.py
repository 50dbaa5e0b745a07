"""What a bilevel method is: what a client does in a round, what it sends, and what the server multiplies that by.

The server's half is in `server_step`, one for all methods.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from .hypergradient import Directions, Estimator
from .problem import ClientData, Held, Point


class Reply(NamedTuple):
    """What a client has to say after its part of a round.

    `update` is the mean change of a local step, so clients of many steps pull no harder than others (FedNova, arXiv
    2007.07481); the server multiplies by the mean number of steps, and by `Method.gain`.
    """

    update: Point
    """Of the sizes of the client's own x, y and v."""
    loss: Tensor
    """f on the last minibatch, a scalar."""
    curvature: Tensor
    """vᵀHv / ‖v‖² where it was last seen, a scalar; NaN where it never was."""
    num_steps: int = 1


class Gain(NamedTuple):
    """What a mean update of x, of y and of v is multiplied by."""

    x: float
    y: float
    v: float


class Method(Protocol):
    """How clients and server share out the work of a round: `Rabo`, `Rafbo`, `Fednest`."""

    @property
    def estimator(self) -> Estimator:
        """How the directions are found, and what v is bounded by."""
        ...

    @property
    def gain(self) -> Gain:
        """The server's factors of the mean update."""
        ...

    def client(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Reply:
        """A client's part of a round, from its own, cut `point`; minibatches of `data` are drawn by `rng`."""
        ...


@dataclass(frozen=True)
class Steps:
    """Step sizes η of x, β of y, λ of v. β and λ lie below 1/ℓ, ℓ the Lipschitz constant of ∇_y g; η well below.

    ValueError if one is negative; 0 leaves its variable where it is.
    """

    x: float = 0.05
    y: float = 0.2
    v: float = 0.2

    def __post_init__(self) -> None:
        if min(self.x, self.y, self.v) < 0:
            raise ValueError(f"step sizes are not negative, got {self}")

    def down(self, directions: Directions) -> Point:
        """One step against all three."""
        return Point(-self.x * directions.outer, -self.y * directions.inner, -self.v * directions.system)
