"""Small convolutional networks: 3 × 3 convolutions with pooling, then a hidden linear layer or a global average."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from ..submodels.width_spec import CLASSES, DEPTH, Axis, WidthSpec
from .base import Model, skeleton
from .exits import Staged, depth_needs
from .norms import Norm


def cnn(
    input_shape: tuple[int, ...],
    num_classes: int,
    conv: tuple[int, ...] = (32, 64),
    dense: int = 128,
    norm: str = "none",
    scaler: bool = False,
    groups: int = 4,
    widths: tuple[float, ...] = (),
    exits: bool = False,
) -> Model:
    """`conv` channels in each convolution, each with 2 × 2 pooling and ReLU, and `dense` hidden units.

    `dense=0`: no last pooling, a global average of each channel and no hidden linear layer, as HeteroFL's CNN,
    `cnn(conv=(64, 128, 256, 512), dense=0, norm="static", scaler=True)`. `norm`, `scaler`, `groups` and `widths` as
    in `norms`. For images that pooling leaves at least a pixel of. `exits`, with dense=0: a classifier on the average
    of each convolution's channels, not of the last one's only. ValueError for data or options that do not go together.
    """
    num_pools = len(conv) - (dense == 0)
    least = 2**num_pools
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise ValueError(
            f"model cnn takes images of shape (channels, height, width), at least {least} × {least}, "
            f"the data has {input_shape}"
        )
    kind = Norm(norm, groups, widths, scaler)
    channels, height, width = input_shape
    pixels = (height // least) * (width // least) if dense else 1
    names = [f"conv{number}" for number in range(1, len(conv) + 1)]
    full = {name: kind.units(name, count) for name, count in zip(names, conv, strict=True)}
    full |= {"dense": dense} if dense else {}
    full[CLASSES] = num_classes
    if exits:
        if dense or widths:
            raise ValueError(
                f"exits of a cnn go with dense=0 and without widths, got dense={dense} and widths={widths}"
            )
        return _with_exits(channels, names, full, kind)

    def build(units: Mapping[str, int]) -> nn.Module:
        layers: dict[str, nn.Module] = {}
        before = channels
        for number, name in enumerate(names, start=1):
            after = units[name] * kind.outer
            layers[name] = nn.Conv2d(before, after, 3, padding=1)
            layers[f"norm{number}"] = kind.layer(units[name], full[name])
            if number <= num_pools:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"relu{number}"] = nn.ReLU()  # after pooling: the same values at a quarter of the work
            before = after
        if not dense:
            layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        if dense:
            layers["dense"], layers["relu"] = nn.Linear(before * pixels, units["dense"]), nn.ReLU()
            before = units["dense"]
        layers["head"] = nn.Linear(before, num_classes)
        # PyTorch pools and convolves on the CPU about twice as fast in this layout.
        return nn.Sequential(OrderedDict(layers)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    axes: dict[str, tuple[Axis | str | None, ...]] = {}
    needs: dict[str, tuple[str, int]] = {}
    before: Axis | None = None
    for number, name in enumerate(names, start=1):
        axes |= {f"{name}.weight": (kind.axis(name), before, None, None), f"{name}.bias": (kind.axis(name),)}
        axes |= kind.axes(f"norm{number}", name, full[name])
        needs |= kind.needs(f"norm{number}", name, full[name])
        before = kind.axis(name)
    if dense:
        axes |= {"dense.weight": ("dense", Axis(names[-1], kind.outer, pixels)), "dense.bias": ("dense",)}
        before = Axis("dense")
    axes |= {"head.weight": (CLASSES, before), "head.bias": (CLASSES,)}
    return Model(build, WidthSpec.of(skeleton(build, full), full, axes, needs))


def _with_exits(channels: int, names: Sequence[str], units: Mapping[str, int], kind: Norm) -> Model:
    full = {**units, DEPTH: len(names)}

    def build(units: Mapping[str, int]) -> nn.Module:
        stages: list[nn.Module] = []
        exits: list[nn.Module] = []
        before = channels
        for number, name in enumerate(names[: units[DEPTH]], start=1):
            after = units[name] * kind.outer
            layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(before, after, 3, padding=1))
            layers["norm"], layers["relu"] = kind.layer(units[name], full[name]), nn.ReLU()
            if number < len(names):
                layers["pool"] = nn.MaxPool2d(2)
            stages.append(nn.Sequential(layers))
            exits.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(after, full[CLASSES])))
            before = after
        return Staged(nn.Identity(), stages, exits)

    axes: dict[str, tuple[Axis | str | None, ...]] = {}
    for number, (before, after) in enumerate(pairwise([None, *map(kind.axis, names)])):
        stage, exit = f"stages.{number}", f"exits.{number}.2"
        axes |= {f"{stage}.conv.weight": (after, before, None, None), f"{stage}.conv.bias": (after,)}
        axes |= kind.axes(f"{stage}.norm", names[number], full[names[number]])
        axes |= {f"{exit}.weight": (CLASSES, after), f"{exit}.bias": (CLASSES,)}
    return Model(build, WidthSpec.of(skeleton(build, full), full, axes, depth_needs(axes)))
