"""FedNova: clients that take more local steps do not pull the model further towards their own solution.

Client i sends Δ_i, counted here as Δ_i / ‖a_i‖₁: the mean direction of its steps. The server steps by
τ_eff Σ p_i Δ_i / ‖a_i‖₁ with τ_eff = Σ p_i ‖a_i‖₁ and p_i by examples. Wang, Liu, Liang, Joshi, Poor, NeurIPS 2020,
arXiv 2007.07481, equation 9. ‖a_i‖₁ is the number of steps for plain SGD; with momentum or a proximal term it is what
section 4.1 there gives. Where all clients take as many steps, this is FedAvg.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..run.config.training import TrainingConfig
from ..training.optimizers import make_optimizer
from .base import Setting


@dataclass(frozen=True)
class StepNorm:
    """‖a‖₁ of a client, from what it must have done: its examples, and the local training of the run.

    A client's own count of its steps is not asked for. ValueError where its optimizer is not linear in the gradients.
    """

    training: TrainingConfig

    def __post_init__(self) -> None:
        _linear(self.training.client_optimizer)

    def of(self, num_examples: int, server_round: int) -> float:
        """‖a‖₁ of a client with so many examples in a round, from 1; at least that of one step."""
        training = self.training
        rate = training.learning_rate_in(server_round)
        return step_norm(training.num_steps(num_examples), training.client_optimizer, rate * training.proximal)

    def effective(self, counts: Iterable[int], server_round: int) -> float:
        """τ_eff of a round whose clients have so many examples each, which are their weights too; 0 without any."""
        counts = list(counts)
        total = sum(count * self.of(count, server_round) for count in counts)
        return total / sum(counts) if counts else 0.0


@lru_cache(maxsize=1024)
def step_norm(num_steps: int, optimizer: str, pull: float = 0.0) -> float:
    """‖a‖₁ of `num_steps` steps of an SGD: how far it goes along a gradient of 1, in learning rates.

    `pull` is the learning rate times the strength μ of a proximal term.

    >>> step_norm(5, "sgd")
    5.0
    """
    momentum, dampening, nesterov = _linear(optimizer)

    def step(damped: float) -> np.ndarray:
        """(how far, velocity, 1) → the same after one step."""
        gradient = np.array([-pull, 0.0, 1.0])
        velocity = momentum * np.array([0.0, 1.0, 0.0]) + (1 - damped) * gradient
        moved = gradient + momentum * velocity if nesterov else velocity
        return np.stack([np.array([1.0, 0.0, 0.0]) + moved, velocity, np.array([0.0, 0.0, 1.0])])

    first = step(0.0) @ np.array([0.0, 0.0, 1.0])  # torch damps from the second step on, and only with momentum
    return float((np.linalg.matrix_power(step(dampening if momentum else 0.0), num_steps - 1) @ first)[0])


def check_fednova(setting: Setting, training: TrainingConfig) -> None:
    """ValueError, with the keys and the reason, if weighting 'fednova' does not go with the rest of a run."""
    what = "weighting 'fednova'"
    if setting.is_bilevel:
        raise ValueError(f"{what} is for task 'classification'; scheme 'rafbo' divides by steps itself")
    if setting.scheme != "direct":
        raise ValueError(
            f"{what} goes with scheme 'direct', not {setting.scheme!r}: clients with memory weigh alike, and a client "
            "that takes gradients for its scheme takes as many as the others"
        )
    if setting.aggregation != "mean":
        raise ValueError(
            f"{what} steps by the mean of what clients say of their examples, which one liar could move: aggregation "
            f"{setting.aggregation!r} would no longer be robust"
        )
    StepNorm(training)


def _linear(optimizer: str) -> tuple[float, float, bool]:
    """Momentum, dampening and whether it is Nesterov's, of an SGD; ValueError for any other optimizer."""
    made = make_optimizer(optimizer, [torch.zeros(1)], 1.0)
    if type(made) is not torch.optim.SGD:
        raise ValueError(
            f"weighting 'fednova' divides by what a client's steps add up to, which is known of client-optimizer "
            f"'sgd', with momentum or without; {optimizer!r} scales its steps by the gradients"
        )
    [group] = made.param_groups
    return group["momentum"], group["dampening"], group["nesterov"]
