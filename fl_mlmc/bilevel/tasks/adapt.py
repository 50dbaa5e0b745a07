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
    """y after gradient steps on the inner examples, from `y`; loss and accuracy on the outer ones."""
    rng: np.random.Generator = stream(0, "adapt")
    for _ in range(num_steps):
        leaf = y.detach().requires_grad_()
        y = y - step * torch.autograd.grad(held.inner_loss(x, leaf, rows.inner(rng)), leaf)[0]
    with torch.no_grad():
        loss = float(held.outer_loss(x, y, rows.outer_rows))
    return y, {"loss": loss, "accuracy": held.accuracy(x, y, *rows.outer_rows)}


def mean_of(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Metric by metric."""
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}
