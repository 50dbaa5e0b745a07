"""A multilayer perceptron on flattened inputs."""

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from ..submodels.width_spec import CLASSES, DEPTH, Axis, WidthSpec
from .base import Model, skeleton
from .exits import Staged, depth_needs


def mlp(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...] = (200,), exits: bool = False) -> Model:
    """Linear layers of `hidden` units with ReLU between. `exits`: a linear classifier after each of them."""
    if exits:
        return _with_exits(input_shape, num_classes, hidden)
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


def _with_exits(input_shape: tuple[int, ...], num_classes: int, hidden: tuple[int, ...]) -> Model:
    names = [f"hidden{number}" for number in range(1, len(hidden) + 1)]
    full = {**dict(zip(names, hidden, strict=True)), CLASSES: num_classes, DEPTH: len(hidden)}

    def build(units: Mapping[str, int]) -> nn.Module:
        kept = [units[name] for name in names[: units[DEPTH]]]
        pairs = pairwise([math.prod(input_shape), *kept])
        stages = [nn.Sequential(nn.Linear(before, after), nn.ReLU()) for before, after in pairs]
        return Staged(nn.Flatten(), stages, [nn.Linear(count, num_classes) for count in kept])

    axes: dict[str, tuple[Axis | str | None, ...]] = {}
    for number, (before, after) in enumerate(pairwise([None, *names])):
        axes |= {f"stages.{number}.0.weight": (after, before), f"stages.{number}.0.bias": (after,)}
        axes |= {f"exits.{number}.weight": (CLASSES, after), f"exits.{number}.bias": (CLASSES,)}
    return Model(build, WidthSpec.of(skeleton(build, full), full, axes, depth_needs(axes)))
