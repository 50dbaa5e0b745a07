"""The bilevel quadratic, whose hypergradient has a closed form: the oracle of the theory tests.

g_i = ½ yᵀA_i y − yᵀ(B_i x + b_i) + (c/4) Σ y⁴ and f_i = ½‖y − t_i‖² + (ρ/2)‖x − s_i‖². For c = 0 and a global lower
problem y* = Ā⁻¹(B̄x + b̄) and ∇F = ρ(x − s̄) + B̄ᵀĀ⁻¹(y* − t̄); a personal one averages the same over clients.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..run.rng import stream
from ..submodels import Axis, WidthSpec
from .problem import BilevelProblem, Tensors

RHO = 0.5
"""ρ, the curvature of f in x."""


class Batch(NamedTuple):
    """A client's coefficients, and the noise of this minibatch's gradients: (m,) and (n,), or 0.0."""

    client: "QuadraticClient"
    noise_x: Tensor | float
    noise_y: Tensor | float


@dataclass(frozen=True, eq=False)
class QuadraticClient:
    """A (n, n), B (n, m), b (n,), t (n,), s (m,), float64; gradients carry normal noise of deviation `noise`."""

    A: Tensor
    B: Tensor
    b: Tensor
    t: Tensor
    s: Tensor
    noise: float = 0.0
    quartic: float = 0.0
    num_examples: int = 1

    def like(self, tensor: Tensor) -> "QuadraticClient":
        """The same client in the precision and on the device of `tensor`."""
        return replace(self, **{name: getattr(self, name).to(tensor) for name in ("A", "B", "b", "t", "s")})

    def inner(self, rng: np.random.Generator) -> Batch:
        """Noise for the gradients of g."""
        return self._batch(rng)

    def outer(self, rng: np.random.Generator) -> Batch:
        """Noise for the gradients of f."""
        return self._batch(rng)

    def _batch(self, rng: np.random.Generator) -> Batch:
        if not self.noise:
            return Batch(self, 0.0, 0.0)
        noise = torch.from_numpy(rng.normal(0.0, self.noise, len(self.s) + len(self.b))).to(self.A)
        return Batch(self, noise[: len(self.s)], noise[len(self.s) :])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The problem with its clients and its exact answers."""

    problem: BilevelProblem
    clients: tuple[QuadraticClient, ...]

    def hypergradient(self, x: Tensor) -> Tensor:
        """∇F at x (m,), exactly, (m,) float64; for quartic = 0. Implicit function theorem: the module's formula."""
        return torch.stack([_hypergradient(group, x) for group in self._groups]).mean(0)

    def objective(self, x: Tensor) -> Tensor:
        """F at x (m,), a scalar, likewise."""
        values = [
            outer_loss({"x": x}, {"y": y}, Batch(client, 0.0, 0.0))
            for group in self._groups
            for y in [_inner_solution(group, x)]
            for client in group
        ]
        return torch.stack(values).mean()

    @property
    def _groups(self) -> list[tuple[QuadraticClient, ...]]:
        """Clients that share a y."""
        return [self.clients] if self.problem.lower == "global" else [(client,) for client in self.clients]


def quadratic(
    num_clients: int = 8,
    size: int = 12,
    heterogeneity: float = 1.0,
    separable: bool = False,
    lower: Literal["global", "personal"] = "global",
    noise: float = 0.0,
    quartic: float = 0.0,
    seed: int = 0,
) -> Quadratic:
    """A problem of `size` outer and as many inner coordinates; one hidden dimension, "units", cuts both.

    `heterogeneity` 0: all clients are alike. `separable`: A_i and B_i are diagonal, so coordinates do not mix. `noise`:
    deviation of each gradient's coordinates. `quartic`: c ≥ 0. Coefficients are drawn from `seed`.
    """
    common = _coefficients(size, separable, stream(seed, "quadratic", "common"))
    clients = []
    for number in range(num_clients):
        own = _coefficients(size, separable, stream(seed, "quadratic", number))
        A, B, b, t, s = (
            shared + 0.5 * heterogeneity * (part - shared) for shared, part in zip(common, own, strict=True)
        )
        clients.append(QuadraticClient(A, B, b, t, s, noise, quartic))
    problem = BilevelProblem(
        outer_loss,
        inner_loss,
        WidthSpec({"units": size}, {"x": (size,)}, {"x": (Axis("units"),)}),
        WidthSpec({"units": size}, {"y": (size,)}, {"y": (Axis("units"),)}),
        lower=lower,
        sliced=False,
        num_clients=num_clients,
        data=lambda shard: clients[shard.client].like(shard.features),
        evaluate=lambda x, y, features, labels: {
            "loss": float(task.objective(x.double())),
            "hypergradient_norm": float(task.hypergradient(x.double()).norm()),
        },
    )
    task = Quadratic(problem, tuple(clients))
    return task


def outer_loss(x: Tensors, y: Tensors, batch: Any) -> Tensor:
    """f_i with linear noise, a scalar."""
    at, to, client = x["x"], y["y"], batch.client
    loss = 0.5 * (to - client.t).square().sum() + RHO / 2 * (at - client.s).square().sum()
    return loss + (batch.noise_x * at).sum() + (batch.noise_y * to).sum()


def inner_loss(x: Tensors, y: Tensors, batch: Any) -> Tensor:
    """g_i with linear noise, a scalar."""
    at, to, client = x["x"], y["y"], batch.client
    loss = 0.5 * to @ (client.A @ to) - to @ (client.B @ at + client.b) + (batch.noise_y * to).sum()
    return loss + client.quartic / 4 * to.pow(4).sum() if client.quartic else loss


def _hypergradient(clients: tuple[QuadraticClient, ...], x: Tensor) -> Tensor:
    A, B, t, s = (_mean(clients, name) for name in "ABts")
    y = _inner_solution(clients, x)
    return RHO * (x - s) + B.T @ torch.linalg.solve(A, y - t)


def _inner_solution(clients: tuple[QuadraticClient, ...], x: Tensor) -> Tensor:
    A, B, b = (_mean(clients, name) for name in "ABb")
    return torch.linalg.solve(A, B @ x + b)


def _mean(clients: tuple[QuadraticClient, ...], name: str) -> Tensor:
    return torch.stack([getattr(client, name) for client in clients]).mean(0)


def _coefficients(size: int, separable: bool, rng: np.random.Generator) -> tuple[Tensor, ...]:
    spectrum = rng.uniform(0.7, 1.5, size)
    basis = np.eye(size) if separable else np.linalg.qr(rng.normal(size=(size, size)))[0]
    coupling = np.diag(rng.uniform(0.4, 1.0, size)) if separable else 0.8 * rng.normal(size=(size, size)) / size**0.5
    parts = (basis * spectrum @ basis.T, coupling, *rng.normal(size=(3, size)))
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
