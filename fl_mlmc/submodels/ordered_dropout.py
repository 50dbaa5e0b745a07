"""Ordered dropout: one set of parameters, run at any width up to its own (FjORD, arXiv 2102.13451).

Horváth et al. 2021: a client draws a width for every minibatch (Algorithm 1) and runs the first units only. Batch
norms with `widths` keep statistics for each of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..models.base import Model, skeleton
from .width_spec import WidthSpec

WIDTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""The paper's widths."""


class OrderedDropout:
    """`module`, the submodel of `model` at width `cap`, run at narrower widths on the same parameters.

    Gradients and running statistics land in `module`. `widths` that exceed `cap` are left out; `cap` itself is one.
    """

    def __init__(self, model: Model, module: nn.Module, cap: float, widths: Sequence[float] = WIDTHS) -> None:
        self._model, self._module = model, module
        self._spec = model.spec.cut(model.spec.kept(cap))
        self.cap = cap
        self.widths = tuple(sorted({width for width in widths if width < cap} | {cap}))
        self._skeletons: dict[float, nn.Module] = {}

    def draw(self, rng: np.random.Generator) -> float:
        """A width, uniformly."""
        return self.widths[rng.integers(len(self.widths))]

    def __call__(self, width: float, inputs: Tensor) -> Tensor:
        """The logits of the first units at `width`; `module`'s own at its cap."""
        if width not in self.widths:
            raise ValueError(f"ordered dropout runs at {', '.join(map(str, self.widths))}, got {width}")
        if width == self.cap:
            return self._module(inputs)
        counts = self._model.spec.kept(width)
        if width not in self._skeletons:
            self._skeletons[width] = skeleton(self._model.build, counts)  # its tensors are handed to it at each call
        module = self._skeletons[width].train(self._module.training)
        tensors = dict(self._module.named_parameters()) | dict(self._module.named_buffers())
        held = {
            name: narrowed(tensors[name], self._spec, name, counts)
            for name in self._spec.shapes
            if self._spec.has(name, counts)
        }
        return torch.func.functional_call(module, held, (inputs,))


def narrowed(tensor: Tensor, spec: WidthSpec, name: str, counts: Mapping[str, int]) -> Tensor:
    """The part of a tensor that belongs to the first `counts` units of each hidden dimension, as autograd sees it.

    `tensor` has the shape of `name` in `spec`, the part that of the submodel of so many units. A view where that is
    possible, so what is written to it lands in `tensor`.
    """
    for position, axis in enumerate(spec.axes[name]):
        if axis is not None and counts[axis.units] < spec.units[axis.units]:
            split = tensor.unflatten(position, (axis.outer, spec.units[axis.units], axis.inner))
            tensor = split.narrow(position + 1, 0, counts[axis.units]).flatten(position, position + 2)
    return tensor
