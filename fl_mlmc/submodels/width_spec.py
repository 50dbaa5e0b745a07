"""Which hidden dimension every axis of every tensor follows, so that one cut applies everywhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from .flat import vector_tensors

CLASSES = "classes"
"""The hidden dimension of a classifier's rows: no width rule cuts it, label-aware averaging does."""
DEPTH = "depth"
"""The hidden dimension that counts stages: only the rule "depth" cuts it."""


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
    flat parameter vector. `axes`: for each tensor, what each of its dimensions follows; None is never cut. `needs`:
    (hidden dimension, least units) without which a submodel does not have the tensor at all, e.g. ("depth", 3).
    """

    units: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, tuple[Axis | None, ...]]
    needs: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    counts: Callable[[float], Mapping[str, int]] | None = None
    """Units of each hidden dimension at a width, where the model says them itself; None: ⌈width · units⌉."""

    @classmethod
    def of(
        cls,
        module: nn.Module,
        units: Mapping[str, int],
        axes: Mapping[str, Sequence[Axis | str | None]],
        needs: Mapping[str, tuple[str, int]] | None = None,
    ) -> "WidthSpec":
        """The spec of a full-width module, whose `state_dict` gives names, shapes and order.

        An axis may be written as the name it follows. ValueError names the tensor and axis that do not fit.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in vector_tensors(module).items()}
        named = {
            name: tuple(Axis(axis) if isinstance(axis, str) else axis for axis in row) for name, row in axes.items()
        }
        return cls(dict(units), shapes, named, dict(needs or {}))

    def __post_init__(self) -> None:
        for name, count in self.units.items():
            if type(count) is not int or count < 1:
                raise ValueError(
                    f"hidden dimension {name!r} has {count!r} units, expected a whole number of at least 1"
                )
        if set(self.axes) != set(self.shapes):
            odd = sorted(set(self.axes) ^ set(self.shapes))
            raise ValueError(f"width spec and model must name the same tensors; only one has {', '.join(odd)}")
        for name, row in self.axes.items():
            shape = self.shapes[name]
            if len(row) != len(shape):
                raise ValueError(f"tensor {name!r} has {len(shape)} axes, the width spec names {len(row)}")
            for position, (axis, length) in enumerate(zip(row, shape, strict=True)):
                self._check_axis(f"axis {position} of tensor {name!r}", axis, length)
        for name, (dimension, least) in self.needs.items():
            if name not in self.shapes or not 0 < least <= self.units.get(dimension, 0):
                raise ValueError(
                    f"tensor {name!r} needs {least} units of {dimension!r}; tensors: {', '.join(self.shapes)}; "
                    f"units: {', '.join(f'{key} {count}' for key, count in self.units.items())}"
                )

    def _check_axis(self, where: str, axis: Axis | None, length: int) -> None:
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
        """Units of each hidden dimension at a width: ⌈width · units⌉, at least one (arXiv 2010.01264).

        Classes and stages are kept whole.
        """
        _check_width(width)
        if self.counts is not None:
            return dict(self.counts(width))
        return {name: units if name in (CLASSES, DEPTH) else _share(width, units) for name, units in self.units.items()}

    def kept_depth(self, width: float) -> dict[str, int]:
        """Units where `width` is a share of the stages: ⌈width · stages⌉ of them, each whole.

        ValueError if the model has no stages that end in classifiers.
        """
        _check_width(width)
        if DEPTH not in self.units:
            raise ValueError(
                'the width rule "depth" cuts models whose stages end in classifiers of their own; this one has none. '
                'Build it with exits, e.g. model = "resnet18(exits=True)", or choose another rule'
            )
        return {**self.units, DEPTH: _share(width, self.units[DEPTH])}

    def has(self, name: str, units: Mapping[str, int]) -> bool:
        """Whether a submodel of so many units has the tensor."""
        dimension, least = self.needs.get(name, (None, 0))
        return dimension is None or units[dimension] >= least

    def cut(self, units: Mapping[str, int]) -> "WidthSpec":
        """The spec of the submodel that has so many units of each hidden dimension."""
        shapes = {
            name: tuple(
                length if axis is None else axis.outer * units[axis.units] * axis.inner
                for axis, length in zip(self.axes[name], shape, strict=True)
            )
            for name, shape in self.shapes.items()
            if self.has(name, units)
        }
        return WidthSpec(
            dict(units),
            shapes,
            {name: self.axes[name] for name in shapes},
            {name: need for name, need in self.needs.items() if name in shapes},
        )


def _check_width(width: float) -> None:
    if not 0 < width <= 1:
        raise ValueError(f"a width lies in (0, 1], got {width}")


def _share(width: float, units: int) -> int:
    # 0.07 * 100 is 7.000000000000001: do not let rounding add a unit.
    return max(1, math.ceil(width * units - 1e-9))
