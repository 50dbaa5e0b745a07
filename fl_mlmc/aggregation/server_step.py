"""The server's step: an optimizer of torch.optim that takes the negative mean update for its gradient.

Reddi et al. 2021, arXiv 2003.00295, Algorithm 1. "sgd" at rate 1 is plain averaging.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..training.optimizers import make_optimizer
from .mean import Mean


class ServerOptimizer:
    """Steps a flat model of `size` coordinates; coordinates that nobody held keep their values."""

    def __init__(self, text: str, learning_rate: float, size: int) -> None:
        self._vector = torch.zeros(size)
        self._optimizer = make_optimizer(text, [self._vector], learning_rate)

    def step(self, vector: Tensor, mean: Mean) -> Tensor:
        """The model after one step from `vector`, a new float32 tensor of shape (size,)."""
        self._vector.copy_(vector)
        self._vector.grad = -mean.update
        self._optimizer.step()
        return torch.where(mean.coverage > 0, self._vector, vector)

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step."""
        return {name: value for name, value in self._optimizer.state[self._vector].items() if value is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._optimizer.state[self._vector] = dict(state)
