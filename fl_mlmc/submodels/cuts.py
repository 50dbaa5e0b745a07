"""Submodels of a model of the user's own: how wide each tier is, and where a submodel's arrays lie in the model's.

>>> from torch import nn
>>> net = lambda width: nn.Sequential(nn.Linear(4, round(8 * width)), nn.Linear(round(8 * width), 2))
>>> half = cut_of(net, 0.5)
>>> half.own_spec.shapes["1.weight"], half.spec.shapes["1.weight"]
((2, 4), (2, 8))
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..run.npy import FLOATS, read_npy, to_floats, to_npy
from .plan import IndexPlan, plan
from .width_spec import Axis, WidthSpec

REPEATED = {nn.LSTM: 4, nn.GRU: 3, nn.MultiheadAttention: 3}
"""How many times torch's own layers stack a hidden dimension along a tensor's first axis: a gate, or q, k and v."""

Cuttable = WidthSpec | Callable[[float], nn.Module]
"""A model that tiers cut: its spec, or a function that builds it at a width in (0, 1]."""


class Stored(Protocol):
    """An array as Flower carries it: the bytes of a .npy file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


@lru_cache(maxsize=64)
def cut_of(model: Cuttable, width: float) -> IndexPlan:
    """The submodel that a client holds at `width`.

    Of a spec it is the rule "nested". Of a builder, each array is the first units of each axis of the whole model's, by
    the shapes of what it builds; the gates of torch's recurrent layers, and attention's q, k and v, are cut one by one.
    Layers of the user's own that stack parts in one axis are cut wrong: give a spec. ValueError on builders whose
    submodels have other arrays, or larger ones.
    """
    if isinstance(model, WidthSpec):
        return plan(model, "nested", width)
    spec, own = _whole(model), _shapes(_built(model, width))
    kept: dict[str, np.ndarray] = {}
    for name in [*spec.shapes, *own]:
        full, cut = spec.shapes.get(name), own.get(name)
        if full is None or cut is None or len(full) != len(cut) or any(map(int.__gt__, cut, full)) or 0 in cut:
            raise ValueError(
                f"array {name!r} has shape {full} at width 1 and {cut} at width {width:g}: a submodel has all "
                "arrays of the whole model, and none is larger or empty"
            )
        for axis, length in zip(spec.axes[name], cut, strict=True):
            if axis is not None:
                kept[axis.units] = np.arange(length // axis.outer)
    return IndexPlan(spec, kept, lasts=True)


def repeated(module: nn.Module) -> dict[str, int]:
    """Of tensors of torch's own layers, how many times their first axis repeats the hidden dimension."""
    found = {}
    for prefix, layer in module.named_modules():
        times = next((times for kind, times in REPEATED.items() if isinstance(layer, kind)), 1)
        for name, _ in layer.named_parameters(prefix, recurse=False) if times > 1 else ():
            own = name.removeprefix(prefix).lstrip(".")
            if not isinstance(layer, nn.MultiheadAttention) or own.startswith("in_proj"):
                found[name] = times
    return found


@lru_cache(maxsize=16)
def _whole(net: Callable[[float], nn.Module]) -> WidthSpec:
    """A spec in which every axis of every array follows a hidden dimension of its own."""
    module = _built(net, 1.0)
    shapes, stacked = _shapes(module), repeated(module)
    axes = {
        name: tuple(Axis(f"{name}:{place}", stacked.get(name, 1) if place == 0 else 1) for place in range(len(shape)))
        for name, shape in shapes.items()
    }
    units = {
        axis.units: length // axis.outer
        for name, shape in shapes.items()
        for axis, length in zip(axes[name], shape, strict=True)
    }
    return WidthSpec(units, shapes, axes)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all its arrays of floating point, frozen ones and second names too: an app loads them all."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _built(net: Callable[[float], nn.Module], width: float) -> nn.Module:
    with torch.device("meta"):
        return net(width)


def holds(arrays: Mapping[str, Stored], spec: WidthSpec) -> bool:
    """Whether all arrays of a model, of floating point and in its shapes, are among `arrays`."""
    return all(
        name in arrays and arrays[name].shape == shape and arrays[name].dtype in FLOATS
        for name, shape in spec.shapes.items()
    )


def vector_of(arrays: Mapping[str, Stored], spec: WidthSpec) -> Tensor:
    """The model among `arrays` as one flat vector, in the spec's order: float64 if one of them is, else float32."""
    found = (arrays[name] for name in spec.shapes)
    return torch.cat([to_floats(read_npy(each.data, each.dtype, each.shape), each.dtype) for each in found])


def stored(
    vector: Tensor, spec: WidthSpec, like: Mapping[str, Stored]
) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """A flat vector as arrays of the spec's shapes, each in the dtype of that in `like`: dtype, shape and bytes."""
    parts = vector.split([math.prod(shape) for shape in spec.shapes.values()])
    return {
        name: (like[name].dtype, shape, to_npy(part, like[name].dtype, shape))
        for (name, shape), part in zip(spec.shapes.items(), parts, strict=True)
    }


def parse_widths(text: str) -> dict[str, float]:
    """Widths of tiers by name, from "phone:0.5,gateway:1.0"; ValueError that quotes the part that is none."""
    widths: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, width = part.strip().partition(":")
        try:
            widths[name] = float(width)
        except ValueError:
            widths[name] = 0.0
        if not (name and 0 < widths[name] <= 1):
            raise ValueError(f"tier {part.strip()!r} is not of the form name:width, width in (0, 1], e.g. phone:0.5")
    return widths
