"""Second-order-free estimates of what a bilevel step needs: ∇_y g, the residual Hv − ∇_y f, and ∇_x f − Jv.

H = ∇²_yy g and J = ∇²_xy g are never built. At y* with Hv = ∇_y f the last of the three is the hypergradient
(implicit function theorem). Every gradient is a first-order backward pass at the client's own, cut point.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .problem import ClientData, Held, Point


class Directions(NamedTuple):
    """What x, y and v would go against, each of the shape of its variable, and what was seen on the way."""

    outer: Tensor
    """h = ∇_x f − Jv."""
    inner: Tensor
    """∇_y g."""
    system: Tensor
    """Hv − ∇_y f, the gradient of ½ vᵀHv − vᵀ∇_y f."""
    curvature: Tensor
    """vᵀHv / ‖v‖², at least the strong convexity of g; NaN at v = 0 or where it cannot be seen."""
    loss: Tensor
    """f on the minibatch, a scalar."""


class Estimator(Protocol):
    """Four first-order backward passes at a point."""

    def directions(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Directions:
        """The directions at `point`, on fresh minibatches that `rng` draws from `data`."""
        ...

    def first_multiplier(self, y: Tensor) -> Tensor:
        """What v starts at, of the shape of `y`."""
        ...

    def project(self, v: Tensor, bound: float) -> Tensor:
        """`v`, or the nearest one of norm at most `bound` where the estimator's theorem asks for that."""
        ...


class _LinearSystem(ABC):
    """v solves Hv = ∇_y f; subclasses say how Hv and Jv come about."""

    @abstractmethod
    def products(self, held: Held, x: Tensor, y: Tensor, v: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """Hv (|m^y|,) and Jv (|m^x|,) of g on `batch`."""

    def directions(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Directions:
        x, y, _ = point
        v = self.project(point.v, held.problem.multiplier_bound)
        batch, other = data.inner(rng), data.inner(rng)
        _, (inner,) = gradients(lambda y: held.inner_loss(x, y, batch), y)
        hv, jv = self.products(held, x, y, v, other)
        last = data.outer(rng)
        loss, (outer, slope) = gradients(lambda x, y: held.outer_loss(x, y, last), x, y)
        return Directions(outer - jv, inner, hv - slope, self.curvature(y, v, hv), loss)

    def curvature(self, y: Tensor, v: Tensor, hv: Tensor) -> Tensor:
        """vᵀHv / ‖v‖², a scalar; NaN at v = 0."""
        return (v @ hv) / (v @ v)

    def first_multiplier(self, y: Tensor) -> Tensor:
        """v starts at zero."""
        return torch.zeros_like(y)

    def project(self, v: Tensor, bound: float) -> Tensor:
        """The nearest point of the ball of radius `bound`, in the Euclidean norm; `v` itself where that is infinite."""
        return v if math.isinf(bound) else v * (bound / v.norm().clamp(min=bound))


@dataclass(frozen=True)
class FiniteDifference(_LinearSystem):
    """Central differences of ∇g along v (y± = y ± δv with δ = epsilon / ‖v‖, as DARTS, arXiv 1806.09055, eq. 8).

    One pair of backward passes on one minibatch gives both Hv and Jv. The error is O(δ²‖v‖³) where g has bounded
    fourth derivatives, and none where it is quadratic.
    """

    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"finite_difference's epsilon is above 0, got {self.epsilon}")

    def products(self, held: Held, x: Tensor, y: Tensor, v: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """The two differences; at v = 0 both are zero."""
        norm = float(v.norm())
        delta = self.epsilon / norm if norm > 0 else self.epsilon
        (jv_plus, hv_plus), (jv_minus, hv_minus) = (
            gradients(lambda x, y: held.inner_loss(x, y, batch), x, y + sign * delta * v)[1] for sign in (1, -1)
        )
        return (hv_plus - hv_minus) / (2 * delta), (jv_plus - jv_minus) / (2 * delta)

    def curvature(self, y: Tensor, v: Tensor, hv: Tensor) -> Tensor:
        """NaN where the step along v is lost in the rounding of `y`."""
        # Where rounding swallows the step along v, nothing was measured.
        is_seen = self.epsilon > 100 * torch.finfo(y.dtype).eps * y.norm()
        return torch.where(is_seen, super().curvature(y, v, hv), torch.nan)


@dataclass(frozen=True)
class Exact(_LinearSystem):
    """Hv and Jv by differentiating twice: the oracle of the tests, and what FedBiO computes (arXiv 2302.06701).

    The one estimator that needs second derivatives, and a loss that autograd can differentiate twice.
    """

    def products(self, held: Held, x: Tensor, y: Tensor, v: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        """By two passes, the second through the first."""
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(held.inner_loss(x, y, batch), y, create_graph=True)
        jv, hv = torch.autograd.grad(slope @ v, (x, y), materialize_grads=True)
        return hv, jv


@dataclass(frozen=True)
class Penalty:
    """The penalty form, F2SA (Kwon et al. 2023, arXiv 2301.10945): no linear system, but a second inner iterate.

    In the place of v it moves y_δ ≈ argmin_y g + δf; then h = ∇_x f(x, y) + [∇_x g(x, y_δ) − ∇_x g(x, y)] / δ, with
    an error of O(δ). F2SA's multiplier is 1/δ.
    """

    delta: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 < self.delta < math.inf:
            raise ValueError(f"penalty's delta is above 0, got {self.delta}")

    def directions(self, held: Held, point: Point, data: ClientData, rng: np.random.Generator) -> Directions:
        """Four backward passes, none of them along a step: `system` is ∇_y (g + δf) at y_δ."""
        x, y, shifted = point
        batch, other = data.inner(rng), data.outer(rng)
        _, (cross, inner) = gradients(lambda x, y: held.inner_loss(x, y, batch), x, y)
        _, (cross_shifted, inner_shifted) = gradients(lambda x, y: held.inner_loss(x, y, batch), x, shifted)
        _, (slope,) = gradients(lambda y: held.outer_loss(x, y, other), shifted)
        loss, (outer,) = gradients(lambda x: held.outer_loss(x, y, other), x)
        step = shifted - y
        return Directions(
            outer + (cross_shifted - cross) / self.delta,
            inner,
            inner_shifted + self.delta * slope,
            step @ (inner_shifted - inner) / (step @ step),
            loss,
        )

    def first_multiplier(self, y: Tensor) -> Tensor:
        """y_δ starts at y."""
        return y.clone()

    def project(self, v: Tensor, bound: float) -> Tensor:
        """y_δ is not bounded."""
        return v


def gradients(loss: Callable[..., Tensor], *at: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A loss at tensors, detached, and its gradient in each of them: one backward pass.

    Gradients have the shapes of `at`; zero in a tensor that the loss does not look at.
    """
    leaves = [part.detach().requires_grad_() for part in at]
    value = loss(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, materialize_grads=True)
