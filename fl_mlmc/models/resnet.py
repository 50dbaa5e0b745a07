"""Pre-activation residual networks with four stages, as HeteroFL and FedRolex cut them (arXiv 2010.01264, 2212.01548).

Convolutions without bias; norm and ReLU come before each convolution (He et al. 2016, arXiv 1603.05027). A stage's
residual stream is one hidden dimension, the middle of each block another: additions always meet the same units.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..submodels.width_spec import CLASSES, DEPTH, Axis, WidthSpec
from .base import Model, skeleton
from .exits import Exits
from .norms import Norm


def resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    hidden: tuple[int, ...] = (64, 128, 256, 512),
    depths: tuple[int, ...] = (2, 2, 2, 2),
    norm: str = "static",
    scaler: bool = True,
    groups: int = 4,
    widths: tuple[float, ...] = (),
    exits: bool = False,
) -> Model:
    """`hidden` channels and `depths` blocks in each stage. HeteroFL's published runs have depths (1, 1, 1, 2).

    `norm`, `scaler`, `groups` and `widths` as in `norms`. `exits`: every stage ends in a classifier of its own, as in
    DepthFL (Kim et al. 2023, ICLR), the logits are the mean over them, and the rule "depth" can cut the model.
    ValueError for data or options that do not go together.
    """
    if len(input_shape) != 3:
        raise ValueError(f"model resnet18 takes images of shape (channels, height, width), the data has {input_shape}")
    if len(hidden) != len(depths) or min(depths, default=0) < 1:
        raise ValueError(f"hidden and depths name the same stages, one block or more each, got {hidden} and {depths}")
    if exits and widths:
        raise ValueError("exits go with the rule 'depth' and widths with 'ordered-dropout'; use one of them")
    kind = Norm(norm, groups, widths, scaler)
    full = {f"stage{stage}": kind.units(f"stage{stage}", count) for stage, count in enumerate(hidden, start=1)}
    for stage, depth in enumerate(depths, start=1):
        full |= {f"stage{stage}.block{block}": full[f"stage{stage}"] for block in range(1, depth + 1)}
    full[CLASSES] = num_classes
    if exits:
        full[DEPTH] = len(hidden)

    def build(units: Mapping[str, int]) -> nn.Module:
        return ResNet(input_shape[0], units, full, depths, kind, exits)

    module = skeleton(build, full)
    axes, needs = _axes(full, depths, kind, exits)
    return Model(build, WidthSpec.of(module, full, axes, needs))


class ResNet(Exits):
    """A residual network of so many `units` in each hidden dimension, out of `full`."""

    def __init__(
        self,
        in_channels: int,
        units: Mapping[str, int],
        full: Mapping[str, int],
        depths: tuple[int, ...],
        kind: Norm,
        exits: bool,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, units["stage1"] * kind.outer, 3, padding=1, bias=False)
        self.stages, self.exits = nn.ModuleList(), nn.ModuleDict()
        num_stages = units.get(DEPTH, len(depths))
        before = "stage1"

        def layer(name: str) -> nn.Module:
            return kind.layer(units[name], full[name])

        for stage, depth in enumerate(depths[:num_stages], start=1):
            after = f"stage{stage}"
            blocks = nn.Sequential()
            for block in range(1, depth + 1):
                inner = f"{after}.block{block}"
                counts = [units[name] * kind.outer for name in (before, inner, after)]
                stride = 2 if stage > 1 and block == 1 else 1
                blocks.append(Block(counts, stride, before != after, layer(before), layer(inner)))
                before = after
            self.stages.append(blocks)
            if exits or stage == len(depths):
                later = [f"stage{number}" for number in range(stage, len(depths) + 1)]
                separable = [
                    Separable(units[first] * kind.outer, units[last] * kind.outer, layer(first), layer(last))
                    for first, last in [(after, after), *pairwise(later)]
                ]
                gate = None if len(later) == 1 else nn.Sequential(separable[0], layer(after), nn.ReLU())
                linear = nn.Linear(units[later[-1]] * kind.outer, full[CLASSES])
                self.exits[after] = Exit(layer(after), gate, nn.Sequential(*separable[1:]), linear)

    def exit_logits(self, inputs: Tensor) -> list[Tensor]:
        """Logits (batch, classes) of every exit, the shallowest first, from images (batch, channels, height, width)."""
        stream = self.stem(inputs)
        logits = []
        for number, stage in enumerate(self.stages, start=1):
            stream = stage(stream)
            if f"stage{number}" in self.exits:
                logits.append(self.exits[f"stage{number}"](stream))
        return logits


class Block(nn.Module):
    """Two convolutions beside an identity, or beside a 1 × 1 convolution where the stream changes."""

    def __init__(self, counts: list[int], stride: int, changes: bool, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        before, inner, after = counts
        self.norm1, self.norm2 = norm1, norm2
        self.conv1 = nn.Conv2d(before, inner, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner, after, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, after, height, width) from (batch, before, height, width); a stride of 2 halves height and width."""
        active = torch.relu(self.norm1(stream))
        beside = stream if self.shortcut is None else self.shortcut(active)
        return self.conv2(torch.relu(self.norm2(self.conv1(active)))) + beside


class Separable(nn.Module):
    """Two depthwise separable convolutions, norm and ReLU after each; the first halves the resolution."""

    def __init__(self, before: int, after: int, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.depthwise1 = nn.Conv2d(before, before, 3, stride=2, padding=1, groups=before, bias=False)
        self.pointwise1 = nn.Conv2d(before, before, 1, bias=False)
        self.depthwise2 = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
        self.pointwise2 = nn.Conv2d(before, after, 1, bias=False)
        self.norm1, self.norm2 = norm1, norm2

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, after, height / 2, width / 2), rounded up, from (batch, before, height, width)."""
        middle = torch.relu(self.norm1(self.pointwise1(self.depthwise1(inputs))))
        return torch.relu(self.norm2(self.pointwise2(self.depthwise2(middle))))


class Exit(nn.Module):
    """Norm, ReLU, a gate by attention, a bottleneck to the last stage's channels and pixels, and a linear classifier.

    The last stage's has no gate and an empty bottleneck.
    """

    def __init__(self, norm: nn.Module, gate: nn.Module | None, bottleneck: nn.Module, linear: nn.Module) -> None:
        super().__init__()
        self.norm, self.gate, self.bottleneck, self.linear = norm, gate, bottleneck, linear

    def forward(self, stream: Tensor) -> Tensor:
        """Logits (batch, classes) from the stream of a stage, (batch, channels, height, width)."""
        active = torch.relu(self.norm(stream))
        if self.gate is not None:
            opened = nn.functional.interpolate(self.gate(active), active.shape[2:], mode="bilinear")
            active = active * torch.sigmoid(opened)
        return self.linear(self.bottleneck(active).mean((2, 3)))


def _axes(
    full: Mapping[str, int], depths: tuple[int, ...], kind: Norm, exits: bool
) -> tuple[dict[str, tuple[Axis | str | None, ...]], dict[str, tuple[str, int]]]:
    axes: dict[str, tuple[Axis | str | None, ...]] = {"stem.weight": (kind.axis("stage1"), None, None, None)}
    needs: dict[str, tuple[str, int]] = {}

    def conv(after: str, before: str) -> tuple[Axis | None, ...]:
        return kind.axis(after), kind.axis(before), None, None

    def norm(name: str, units: str) -> None:
        axes.update(kind.axes(name, units, full[units]))
        needs.update(kind.needs(name, units, full[units]))

    def separable(name: str, before: str, after: str) -> None:
        for number, (source, target) in enumerate([(before, before), (before, after)], start=1):
            axes[f"{name}.depthwise{number}.weight"] = (kind.axis(source), None, None, None)
            axes[f"{name}.pointwise{number}.weight"] = conv(target, source)
            norm(f"{name}.norm{number}", target)

    before = "stage1"
    for stage, depth in enumerate(depths, start=1):
        after = f"stage{stage}"
        start = len(axes)
        for block in range(1, depth + 1):
            name, inner = f"stages.{stage - 1}.{block - 1}", f"{after}.block{block}"
            norm(f"{name}.norm1", before)
            norm(f"{name}.norm2", inner)
            axes[f"{name}.conv1.weight"] = conv(inner, before)
            axes[f"{name}.conv2.weight"] = conv(after, inner)
            if before != after:
                axes[f"{name}.shortcut.weight"] = conv(after, before)
            before = after
        if exits or stage == len(depths):
            name, later = f"exits.{after}", [f"stage{number}" for number in range(stage, len(depths) + 1)]
            norm(f"{name}.norm", after)
            if len(later) > 1:
                separable(f"{name}.gate.0", after, after)
                norm(f"{name}.gate.1", after)
            for number, (first, second) in enumerate(pairwise(later)):
                separable(f"{name}.bottleneck.{number}", first, second)
            axes[f"{name}.linear.weight"] = (CLASSES, kind.axis(later[-1]))
            axes[f"{name}.linear.bias"] = (CLASSES,)
        if exits and stage > 1:
            needs |= dict.fromkeys(list(axes)[start:], (DEPTH, stage))
    return axes, needs
