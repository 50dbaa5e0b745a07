"""Normalisation that can be cut to a width, and the scaler that goes before it.

The kinds, as a model's option `norm`:

* "none": no normalisation.
* "batch": batch norm with running statistics. They are part of the flat vector and averaged like parameters. With
  `widths` it keeps statistics for each of these widths and one scale and shift for all (FjORD, arXiv 2102.13451).
* "static": batch norm whose running statistics never travel. Training uses those of the batch; before it is
  evaluated, the global model sees training data once (`fill_statistics`; HeteroFL, arXiv 2010.01264, section 3).
* "group": group norm with a fixed number of groups. Every group is thinned alike, none is dropped.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..submodels.width_spec import Axis

KINDS = ("none", "batch", "static", "group")


@dataclass(frozen=True)
class Norm:
    """How a convolutional model normalises: builds a layer at a width, and names its axes."""

    kind: str
    groups: int = 1
    widths: tuple[float, ...] = ()
    scaler: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"norm is one of {', '.join(map(repr, KINDS))}, got {self.kind!r}")
        if self.widths and (self.kind != "batch" or not all(0 < width <= 1 for width in self.widths)):
            raise ValueError(
                f"widths are numbers in (0, 1] and go with norm='batch', got {self.widths} with norm={self.kind!r}"
            )

    @property
    def outer(self) -> int:
        """How many times a hidden dimension is repeated along the channels: once a group."""
        return self.groups if self.kind == "group" else 1

    def units(self, name: str, channels: int) -> int:
        """Units of the hidden dimension behind so many channels; ValueError unless groups share them evenly."""
        if channels % self.outer:
            raise ValueError(f"{name} has {channels} channels, not a multiple of groups={self.groups}")
        return channels // self.outer

    def axis(self, units: str) -> Axis:
        """The axis of a dimension of channels."""
        return Axis(units, outer=self.outer)

    def layer(self, units: int, full: int) -> nn.Module:
        """The layer for `units` of `full` units: scaler, then norm."""
        channels = units * self.outer
        parts: list[nn.Module] = [Scaler(units / full)] if self.scaler else []
        if self.kind == "batch" and self.widths:
            parts.append(WidthwiseBatchNorm2d(channels, self._counts(full)))
        elif self.kind == "batch":
            parts.append(nn.BatchNorm2d(channels))
        elif self.kind == "static":
            parts.append(StaticBatchNorm2d(channels))
        elif self.kind == "group":
            parts.append(nn.GroupNorm(self.groups, channels))
        return nn.Sequential(*parts)

    def axes(self, name: str, units: str, full: int) -> dict[str, tuple[Axis | None, ...]]:
        """The axes of the tensors of the layer called `name`."""
        if self.kind == "none":
            return {}
        tensors = ["weight", "bias"]
        if self.kind == "batch" and not self.widths:
            tensors += ["running_mean", "running_var"]
        axes: dict[str, tuple[Axis | None, ...]] = {
            f"{name}.{int(self.scaler)}.{tensor}": (self.axis(units),) for tensor in tensors
        }
        return axes | dict.fromkeys(self.needs(name, units, full), (None,))

    def needs(self, name: str, units: str, full: int) -> dict[str, tuple[str, int]]:
        """What the statistics of each width need: that many units."""
        return {
            f"{name}.{int(self.scaler)}.statistics.{count}.{tensor}": (units, count)
            for count in self._counts(full)
            for tensor in ("running_mean", "running_var")
        }

    def _counts(self, full: int) -> tuple[int, ...]:
        return tuple(sorted({max(1, math.ceil(width * full - 1e-9)) for width in self.widths}))


class Scaler(nn.Module):
    """Divides by the share of units kept, in training only (HeteroFL's scaler).

    A narrow submodel sums fewer terms; so scaled, its activations have the size that the full model's have.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` / rate in training, `inputs` itself in evaluation; any shape."""
        return inputs / self.rate if self.training and self.rate != 1 else inputs

    def extra_repr(self) -> str:
        """The rate, for torch's `repr`."""
        return f"rate={self.rate:g}"


class StaticBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that trains on the batch's statistics and is evaluated with those of `fill_statistics`.

    Until these are there, evaluation uses the batch's too.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)
        self.statistics: tuple[Tensor, Tensor] | None = None
        self.batches_seen: int | None = None
        """While statistics are being filled: how many batches they hold."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, height, width), normed by channel; while statistics are filled, these take note of it."""
        if self.statistics is None or (self.training and self.batches_seen is None):
            return super().forward(inputs)
        mean, variance = self.statistics
        filling, momentum = self.batches_seen is not None, 0.0
        if self.batches_seen is not None:
            self.batches_seen += 1
            momentum = 1 / self.batches_seen  # a cumulative average
        return nn.functional.batch_norm(inputs, mean, variance, self.weight, self.bias, filling, momentum, self.eps)


class WidthwiseBatchNorm2d(nn.Module):
    """Batch norm with running statistics for each of several numbers of channels, and one scale and shift.

    Which statistics are meant follows from the channels of the input.
    """

    def __init__(self, channels: int, counts: Iterable[int]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.statistics = nn.ModuleDict(
            {str(count): nn.BatchNorm2d(count, affine=False) for count in counts if count <= channels}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, height, width), normed by channel; ValueError if that many channels have no statistics."""
        channels = str(inputs.shape[1])
        if channels not in self.statistics:
            raise ValueError(
                f"this batch norm keeps statistics for {', '.join(self.statistics) or 'no'} channels, the input has "
                f"{channels}. Give the model widths that contain every tier's"
            )
        normed = self.statistics[channels](inputs)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


def takes_batch_statistics(module: nn.Module) -> bool:
    """Whether `module`, in training, normalises by the batch: one example alone has no statistics then."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in module.modules())


def has_static_statistics(module: nn.Module) -> bool:
    """Whether `fill_statistics` is due before `module` is evaluated."""
    return any(isinstance(layer, StaticBatchNorm2d) for layer in module.modules())


def pieces(inputs: Tensor, size: int) -> tuple[Tensor, ...]:
    """`inputs` (n, …) in batches of `size`, none of them of one input, which alone has no statistics.

    A last batch of one joins the one before; the one input of a set of one is given twice.
    """
    parts = inputs.split(size)
    if len(inputs) == 1:
        return (torch.cat([inputs, inputs]),)
    return parts if len(parts[-1]) > 1 else (*parts[:-2], torch.cat(parts[-2:]))


@torch.no_grad()
def fill_statistics(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the statistics of all static batch norms to their average over `batches` of training inputs.

    Each batch is (batch, *input_shape), of two inputs or more. Means and (unbiased) variances of the batches count
    equally, as in batch norm with momentum None. Leaves the module in evaluation mode.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, StaticBatchNorm2d)]
    for layer in layers:
        layer.statistics = (torch.zeros_like(layer.weight), torch.ones_like(layer.weight))
        layer.batches_seen = 0
    module.eval()
    try:
        for batch in batches:
            module(batch)
    finally:
        for layer in layers:
            layer.statistics = layer.statistics if layer.batches_seen else None
            layer.batches_seen = None
