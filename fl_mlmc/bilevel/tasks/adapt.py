"""How good a shared x is where every client has a y of its own: fit a new y to new examples, and judge it on others."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...run.rng import stream
from ..problem import Held
from .rows import Rows


def adapted(
    held: Held, x: Tensor, y: Tensor, rows: Rows, num_steps: int = 50, step: float = 0.5
) -> tuple[Tensor, Mapping[str, float]]:
    """y (|m^y|,) after `num_steps` gradient steps of length `step` on the inner examples; metrics on the outer ones.

    The metrics are "loss" and "accuracy", in [0, 1]. Minibatches are the same in every call. ValueError if the problem
    predicts nothing.
    """
    rng: np.random.Generator = stream(0, "adapt")
    for _ in range(num_steps):
        leaf = y.detach().requires_grad_()
        y = y - step * torch.autograd.grad(held.inner_loss(x, leaf, rows.inner(rng)), leaf)[0]
    with torch.no_grad():
        loss = float(held.outer_loss(x, y, rows.outer_rows))
    return y, {"loss": loss, "accuracy": held.accuracy(x, y, *rows.outer_rows)}


def mean_of(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The plain mean, metric by metric; all of `found`, at least one, have the same."""
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}
