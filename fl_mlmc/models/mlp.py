"""A multilayer perceptron on flattened inputs."""

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from ..submodels.width_spec import CLASSES, Axis, WidthSpec
from .base import Model, skeleton


def mlp(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...] = (200,)) -> Model:
    """Linear layers of `hidden` units with ReLU between."""
    units = {f"hidden{number}": count for number, count in enumerate(hidden, start=1)} | {CLASSES: num_classes}

    def build(units: Mapping[str, int]) -> nn.Module:
        sizes = [math.prod(input_shape), *units.values()]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers[:-1])  # the last layer gives logits

    module = skeleton(build, units)
    names: list[str | None] = [None, *units]
    axes: dict[str, tuple[Axis | str | None, ...]] = {}
    linear = (name for name, layer in module.named_children() if isinstance(layer, nn.Linear))
    for name, before, after in zip(linear, names[:-1], names[1:], strict=True):
        axes[f"{name}.weight"] = (after, before)
        axes[f"{name}.bias"] = (after,)
    return Model(build, WidthSpec.of(module, units, axes))
