"""A model's tensors as x, y or both, run at whatever width they have."""

from collections.abc import Callable, Collection
from functools import lru_cache

import torch
from torch import Tensor, nn

from ...models import Model
from ...submodels import WidthSpec
from ..problem import Tensors, named


class Network:
    """Logits of a model from its tensors by name; the width follows from their shapes.

    ValueError if the model keeps statistics, which no loss could differentiate.
    """

    def __init__(self, model: Model) -> None:
        self.spec = model.spec
        self._model = model
        parameters = dict(model.build(model.spec.units).named_parameters())
        if odd := sorted(set(model.spec.shapes) - set(parameters)):
            raise ValueError(
                f"a bilevel task needs a model of parameters alone; this one keeps statistics in {', '.join(odd)}. "
                "Build it with norm='none', 'static' or 'group'"
            )
        self._module = lru_cache(maxsize=16)(lambda units: model.build(dict(units)))

    def __call__(self, tensors: Tensors, features: Tensor) -> Tensor:
        """Logits (batch, num_classes) of `features` (batch, *input shape)."""
        module: nn.Module = self._module(self._units(tensors))
        return torch.func.functional_call(module, dict(tensors), features)

    def _units(self, tensors: Tensors) -> tuple[tuple[str, int], ...]:
        units = dict(self.spec.units)
        for name, tensor in tensors.items():
            for axis, length in zip(self.spec.axes[name], tensor.shape, strict=True):
                if axis is not None:
                    units[axis.units] = length // (axis.outer * axis.inner)
        return tuple(units.items())

    def part(self, keep: Callable[[str], bool]) -> WidthSpec:
        """The spec of some of the tensors, in their order."""
        return sub_spec(self.spec, [name for name in self.spec.shapes if keep(name)])

    def initial(self, seed: int, names: Collection[str]) -> Tensor:
        """Some of the tensors before training, one after the other, flat, float32."""
        tensors = named(self.spec, self._model.initial(seed))
        return torch.cat([tensors[name].reshape(-1) for name in names])


def sub_spec(spec: WidthSpec, names: Collection[str]) -> WidthSpec:
    """The spec of some tensors, with the hidden dimensions that they follow."""
    axes = {name: spec.axes[name] for name in names}
    needs = {name: need for name, need in spec.needs.items() if name in axes}
    followed = {axis.units for row in axes.values() for axis in row if axis} | {need[0] for need in needs.values()}
    units = {name: count for name, count in spec.units.items() if name in followed}
    return WidthSpec(units, {name: spec.shapes[name] for name in names}, axes, needs)
