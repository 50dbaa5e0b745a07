"""The server optimizers of "Adaptive Federated Optimization": FedAdagrad, FedAdam, FedYogi, and FedAvgM beside them.

With Δ the round's mean update, which is minus what torch calls the gradient:

    m ← β₁ m + (1 − β₁) Δ
    v ← v + Δ²                                  FedAdagrad
    v ← v − (1 − β₂) Δ² sign(v − Δ²)            FedYogi
    v ← β₂ v + (1 − β₂) Δ²                      FedAdam
    x ← x + η m / (√v + τ)

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, ICLR 2021, arXiv 2003.00295, Algorithm 2. v starts at
τ² and nothing corrects for the start, so these are not torch's Adam and Adagrad. With β₁ = 0, and τ far above all
updates, they are plain averaging at rate η / 2τ (FedAdam where β₂ is near 1, else v falls from τ² to less). FedAvgM:
Hsu, Qi, Brown, 2019, arXiv 1909.06335: m ← βm + Δ, x ← x + η m.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Adaptive(torch.optim.Optimizer):
    """What the three share: m, v, and the step along m / (√v + τ). `momentum` is β₁, `tau` is τ.

    ValueError on an option out of its range.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float, tau: float, **options: float) -> None:
        for name, beta in {"momentum": momentum, **options}.items():
            if not 0 <= beta < 1:
                raise ValueError(f"{type(self).__name__}'s {name} lies in [0, 1), got {beta!r}")
        if not tau > 0:
            raise ValueError(f"{type(self).__name__}'s tau is above 0, got {tau!r}")
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "tau": tau, **options})

    @staticmethod
    @abstractmethod
    def _second(second: Tensor, square: Tensor, **options: float) -> Tensor:
        """The new v from the old one and Δ²."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step along the gradients; `closure` is not asked for."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        lr, beta, tau = (group[name] for name in ("lr", "momentum", "tau"))
        options = {name: group[name] for name in ("second_momentum",) if name in group}
        state, update = self.state[parameter], -parameter.grad  # type: ignore[operator]
        if not state:
            state["first"], state["second"] = torch.zeros_like(update), torch.full_like(update, tau**2)
        state["first"] = beta * state["first"] + (1 - beta) * update
        state["second"] = self._second(state["second"], update.square(), **options)
        parameter.addcdiv_(state["first"], state["second"].sqrt().add_(tau), value=lr)


class FedAdagrad(Adaptive):
    """v is the sum of all Δ². β₁ is 0 in the paper."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0, tau: float = 1e-3) -> None:
        super().__init__(parameters, lr, momentum, tau)

    @staticmethod
    def _second(second: Tensor, square: Tensor, **options: float) -> Tensor:
        return second + square


class FedAdam(Adaptive):
    """v forgets: it is a moving mean of Δ². `second_momentum` is β₂."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.9,
        second_momentum: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        super().__init__(parameters, lr, momentum, tau, second_momentum=second_momentum)

    @staticmethod
    def _second(second: Tensor, square: Tensor, **options: float) -> Tensor:
        beta = options["second_momentum"]
        return beta * second + (1 - beta) * square


class FedYogi(FedAdam):
    """v moves towards Δ² by a step that does not depend on how far away it is."""

    @staticmethod
    def _second(second: Tensor, square: Tensor, **options: float) -> Tensor:
        return second - (1 - options["second_momentum"]) * square * (second - square).sign()


def fedavgm(parameters: Iterable[Tensor], lr: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    """FedAvgM: torch's SGD with momentum, under the name that the paper gave it."""
    return torch.optim.SGD(parameters, lr, momentum)
