"""Which hidden dimension every axis of every tensor follows, so that one cut applies everywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn


@dataclass(frozen=True)
class Axis:
    """A tensor dimension of length outer · units · inner whose middle factor follows a hidden dimension.

    `inner` > 1: each unit stands for a run of neighbours (a channel flattened to its pixels). `outer` > 1: the
    hidden dimension is repeated (the same rows of every attention head).
    """

    units: str
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True, eq=False)
class WidthSpec:
    """How a model is cut. Compared by identity: make one a model and keep it.

    `units`: full number of units of each hidden dimension. `shapes`: full shape of each tensor, in the order of the
    flat parameter vector. `axes`: for each tensor, what each of its dimensions follows; None is never cut.
    """

    units: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[Axis | None, ...]]

    @classmethod
    def of(
        cls, module: nn.Module, units: Mapping[str, int], axes: Mapping[str, Sequence[Axis | str | None]]
    ) -> "WidthSpec":
        """The spec of a full-width module, whose `state_dict` gives names, shapes and order.

        An axis may be written as the name it follows. ValueError names the tensor and axis that do not fit.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        named = {
            name: tuple(Axis(axis) if isinstance(axis, str) else axis for axis in row) for name, row in axes.items()
        }
        return cls(dict(units), shapes, named)

    def __post_init__(self) -> None:
        if set(self.axes) != set(self.shapes):
            odd = sorted(set(self.axes) ^ set(self.shapes))
            raise ValueError(f"width spec and model must name the same tensors; only one has {', '.join(odd)}")
        for name, row in self.axes.items():
            shape = self.shapes[name]
            if len(row) != len(shape):
                raise ValueError(f"tensor {name!r} has {len(shape)} axes, the width spec names {len(row)}")
            for position, (axis, length) in enumerate(zip(row, shape, strict=True)):
                self._check(f"axis {position} of tensor {name!r}", axis, length)

    def _check(self, where: str, axis: Axis | None, length: int) -> None:
        if axis is None:
            return
        if axis.units not in self.units:
            known = ", ".join(sorted(self.units))
            raise ValueError(f"{where} follows unknown hidden dimension {axis.units!r}; known: {known}")
        expected = axis.outer * self.units[axis.units] * axis.inner
        if length != expected:
            raise ValueError(
                f"{where} has length {length}, but {axis.outer} × {self.units[axis.units]} units of "
                f"{axis.units!r} × {axis.inner} are {expected}"
            )

    @cached_property
    def size(self) -> int:
        """Number of parameters of the full model."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def kept(self, width: float) -> dict[str, int]:
        """Units of each hidden dimension at a width: ⌈width · units⌉, at least one (arXiv 2010.01264)."""
        if not 0 < width <= 1:
            raise ValueError(f"a width lies in (0, 1], got {width}")
        # 0.1 * 30 is 3.0000000000000004: do not let rounding add a unit.
        return {name: max(1, math.ceil(width * units - 1e-9)) for name, units in self.units.items()}
