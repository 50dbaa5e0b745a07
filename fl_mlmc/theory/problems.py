"""Convex problems of which everything is known: gradients, solution and the constants that theorems ask for."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..run.rng import stream


@dataclass(frozen=True)
class Constants:
    """What theorems ask of f = (1/n) Σ f_i and of its clients' f_i; all are numbers above or at zero."""

    smoothness: float
    """L: ‖∇f(x) − ∇f(y)‖ ≤ L‖x − y‖."""
    client_smoothness: tuple[float, ...]
    """(n,) the L_i: the same of each f_i."""
    convexity: float
    """μ: f is μ-strongly convex."""
    client_convexity: float
    """The least μ_i."""
    hessian_variance: float
    """L±: mean ‖∇f_i(x) − ∇f_i(y)‖² − ‖∇f(x) − ∇f(y)‖² ≤ L±²‖x − y‖² (Szlendak et al. 2022, arXiv 2110.03300)."""
    heterogeneity: float
    """ξ² at the solution: mean ‖∇f_i(x*)‖²."""

    @property
    def largest(self) -> float:
        """max L_i."""
        return max(self.client_smoothness)

    @property
    def mean_square(self) -> float:
        """L̃ = √(mean L_i²)."""
        return math.sqrt(sum(value**2 for value in self.client_smoothness) / len(self.client_smoothness))


class Problem(ABC):
    """min f(x) = (1/n) Σ f_i(x) over `size` coordinates, everything in float64."""

    name: str
    num_clients: int
    size: int
    solution: Tensor
    start: Tensor
    constants: Constants

    @abstractmethod
    def gradient(self, client: int, point: Tensor) -> Tensor:
        """∇f_i at `point`."""

    @abstractmethod
    def gradients(self, point: Tensor) -> Tensor:
        """(n, d) the ∇f_i at one `point`, all at once."""

    @abstractmethod
    def loss(self, point: Tensor) -> float:
        """f at `point`."""


class Quadratic(Problem):
    """f_i(x) = ½ xᵀA_i x − b_iᵀx with symmetric `matrices` (n, d, d) and `offsets` (n, d); starts at `start`."""

    def __init__(self, name: str, matrices: Tensor, offsets: Tensor, start: Tensor) -> None:
        self.name = name
        self.num_clients, self.size = offsets.shape
        self.start = start
        self._matrices, self._offsets = matrices, offsets
        self._mean, self._offset = matrices.mean(dim=0), offsets.mean(dim=0)
        self.solution = torch.linalg.solve(self._mean, self._offset)
        spectrum = torch.linalg.eigvalsh(self._mean)
        spread = (matrices @ matrices).mean(dim=0) - self._mean @ self._mean
        residuals = matrices @ self.solution - offsets
        self.constants = Constants(
            smoothness=float(spectrum[-1]),
            client_smoothness=tuple(torch.linalg.eigvalsh(matrices)[:, -1].tolist()),
            convexity=float(spectrum[0]),
            client_convexity=float(torch.linalg.eigvalsh(matrices)[:, 0].min()),
            hessian_variance=math.sqrt(max(float(torch.linalg.eigvalsh(spread)[-1]), 0.0)),
            heterogeneity=float(residuals.square().sum(dim=1).mean()),
        )

    def gradient(self, client: int, point: Tensor) -> Tensor:
        """A_i x − b_i, (d,)."""
        return torch.mv(self._matrices[client], point) - self._offsets[client]

    def gradients(self, point: Tensor) -> Tensor:
        """(n, d) all A_i x − b_i."""
        return self._matrices @ point - self._offsets

    def loss(self, point: Tensor) -> float:
        """½ xᵀĀx − b̄ᵀx, with the clients' means Ā and b̄."""
        return float(point @ (self._mean @ point) / 2 - self._offset @ point)


def homogeneous(num_clients: int, size: int = 40, convexity: float = 0.01, distance: float = 5.0) -> Quadratic:
    """All clients share H = diag(log-spaced μ … 1); x* = 0 and ‖x₁‖ = `distance`."""
    matrix = torch.diag(torch.logspace(math.log10(convexity), 0, size, dtype=torch.float64))
    start = torch.full((size,), distance / math.sqrt(size), dtype=torch.float64)
    matrices = matrix.repeat(num_clients, 1, 1)
    return Quadratic("homogeneous quadratic", matrices, torch.zeros(num_clients, size, dtype=torch.float64), start)


def heterogeneous(
    num_clients: int = 8, size: int = 40, convexity: float = 0.01, spread: float = 1.0, seed: int = 0
) -> Quadratic:
    """Clients with spectra from `convexity` to 1 in random bases, and b_i = `spread` · N(0, I); starts at 0."""
    rng = stream(seed, "heterogeneous quadratic", num_clients, size)
    spectrum = np.geomspace(convexity, 1.0, size)
    bases = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(num_clients)]
    matrices = torch.from_numpy(np.stack([base * spectrum @ base.T for base in bases]))
    offsets = torch.from_numpy(spread * rng.standard_normal((num_clients, size)))
    start = torch.zeros(size, dtype=torch.float64)
    return Quadratic("heterogeneous quadratic", matrices, offsets, start)


class Logistic(Problem):
    """f_i(w) = mean log(1 + exp(−b aᵀw)) + (λ/2)‖w‖² over client i's rows, λ = `ridge` · L of the data; starts at 0.

    `features` (N, d) float64 and `labels` ±1 (N,) are dealt to the clients in equal parts, in the order given, so
    sorted rows make unequal clients; rows that do not fill a part are left out.
    """

    def __init__(self, name: str, features: Tensor, labels: Tensor, num_clients: int, ridge: float = 1e-3) -> None:
        self.name, self.num_clients, self.size = name, num_clients, features.shape[1]
        rows = len(labels) // num_clients
        signed = features[: rows * num_clients] * labels[: rows * num_clients, None]
        self._parts = signed.view(num_clients, rows, self.size)
        pooled = _largest(signed) / (4 * len(signed))
        self._ridge = ridge * pooled
        self.start = torch.zeros(self.size, dtype=torch.float64)
        self.solution = self._newton()
        own = tuple(_largest(part) / (4 * rows) for part in self._parts)
        gradients = torch.stack([self.gradient(client, self.solution) for client in range(num_clients)])
        self.constants = Constants(
            smoothness=pooled + self._ridge,
            client_smoothness=tuple(value + self._ridge for value in own),
            convexity=self._ridge,
            client_convexity=self._ridge,
            # All clients have the same ridge, so it adds nothing to what they differ by: L_i − λ, not L_i.
            hessian_variance=math.sqrt(sum(value**2 for value in own) / num_clients),
            heterogeneity=float(gradients.square().sum(dim=1).mean()),
        )

    def gradient(self, client: int, point: Tensor) -> Tensor:
        """λw − mean b a σ(−b aᵀw) over client i's rows, (d,)."""
        return self._slope(self._parts[client], point)

    def gradients(self, point: Tensor) -> Tensor:
        """(n, d) the same of all clients."""
        pull = torch.sigmoid(-(self._parts @ point))[:, None, :] @ self._parts
        return self._ridge * point - pull[:, 0] / self._parts.shape[1]

    def loss(self, point: Tensor) -> float:
        """The mean log(1 + exp(−b aᵀw)) over all rows, plus (λ/2)‖w‖²."""
        margins = self._parts @ point
        return float(torch.nn.functional.softplus(-margins).mean() + self._ridge / 2 * point.square().sum())

    def _slope(self, rows: Tensor, point: Tensor) -> Tensor:
        return self._ridge * point - torch.mv(rows.T, torch.sigmoid(-(rows @ point))) / len(rows)

    def _newton(self) -> Tensor:
        rows, point = self._parts.reshape(-1, self.size), self.start
        identity = self._ridge * torch.eye(self.size, dtype=torch.float64)
        for _ in range(100):
            slope, loss = self._slope(rows, point), self.loss(point)
            chances = torch.sigmoid(rows @ point)
            hessian = rows.T @ (rows * (chances * (1 - chances))[:, None]) / len(rows) + identity
            step, length = torch.linalg.solve(hessian, slope), 1.0
            while self.loss(point - length * step) > loss and length > 1e-6:
                length /= 2
            point = point - length * step
            if float(slope.norm()) < 1e-14:
                break
        return point


def _largest(rows: Tensor) -> float:
    """λ_max(AᵀA)."""
    return float(torch.linalg.matrix_norm(rows, ord=2)) ** 2
