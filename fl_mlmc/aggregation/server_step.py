"""The server's step: an optimizer of torch.optim that takes the negative mean update for its gradient.

Reddi et al. 2021, arXiv 2003.00295, Algorithm 1. "sgd" at rate 1 is plain averaging.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..training.optimizers import make_optimizer
from .fold import Mean, NotFiniteError, is_finite

LARGEST_UPDATE = 2.0**56
"""The largest coordinate of an update that every optimizer can take, for thousands of rounds.

Adam and its like keep sums of squares in float32, which ends at 2^128: from there on the coordinate would stand still.
"""


class ServerOptimizer:
    """Steps a flat model of `size` coordinates; coordinates that nobody held keep their values.

    `text` is the optimizer as the run config writes it, "sgd" or "adam(betas=(0.9, 0.99))"; ValueError on unknown names
    and options. The model and all that is remembered stay finite.
    """

    def __init__(self, text: str, learning_rate: float, size: int) -> None:
        self._text = text
        self.learning_rate = learning_rate
        """Of the next step; whoever has a schedule changes it from round to round."""
        self._vector = torch.zeros(size)
        self._optimizer = make_optimizer(text, [self._vector], learning_rate)

    def step(self, vector: Tensor, mean: Mean) -> Tensor:
        """The model after one step from `vector`, a new float32 tensor of shape (size,).

        NotFiniteError if it, or what the optimizer would remember of it, is not finite; then nothing has changed.
        """
        before = self.state()
        self.restore({name: value.clone() for name, value in before.items()})  # torch writes over what it has
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._vector.copy_(vector)
        self._vector.grad = -mean.update
        self._optimizer.step()
        stepped = torch.where(mean.coverage > 0, self._vector, vector)
        named = {"the model": stepped, **self.state()}
        if broken := [name for name, value in named.items() if not is_finite(value)]:
            self.restore(before)
            raise NotFiniteError(
                f"server-optimizer {self._text!r} at rate {self.learning_rate:g} would make {' and '.join(broken)} "
                f"not finite, by a mean whose largest coordinate is {float(mean.update.abs().max()):.3g}: set "
                "max-update-norm, or a smaller server-learning-rate"
            )
        return stepped

    def state(self) -> dict[str, Tensor]:
        """What it remembers from step to step, by torch's names; a later step does not write over it."""
        return {name: value for name, value in self._optimizer.state[self._vector].items() if value is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`."""
        self._optimizer.state[self._vector] = dict(state)
