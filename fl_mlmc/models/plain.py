"""A model of the user's own: a function that gives a plain torch module, and no word of how it is cut.

    def net(input_shape, num_classes, width=1.0):
        hidden = max(1, round(64 * width))
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), hidden), nn.Linear(hidden, num_classes))

It is built at several widths, without values: axes that shrink alike follow one hidden dimension, and a narrow client
holds as many units of each as the function gives at its width, the first ones (HeteroFL's cut, arXiv 2010.01264) or
those that the width rule picks. Of channels under a group norm, every group is thinned alike. Before a run starts,
`certify` sees that this cut is meant: the narrow network must compute what the wide one does with all other units at
zero.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from ..submodels.cuts import repeated
from ..submodels.flat import frozen, load_vector, to_vector, vector_tensors
from ..submodels.plan import IndexPlan
from ..submodels.width_spec import CLASSES, Axis, WidthSpec
from .base import Model, skeleton

PROBES = (0.75, 0.5, 0.25)
"""Widths at which a model is built to see how it shrinks."""
OVER_UNITS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
"""Norms whose moments run over units: a unit at zero is not silent there, so `certify` looks past them."""

Net = Callable[[float, int], nn.Module]
"""(width, number of classes) to the module."""


@dataclass(frozen=True, eq=False)
class PlainModel(Model):
    """A model by its function alone; made by `plain_model`. Layers that do not train keep what the function gives."""

    make: Callable[[float], nn.Module] = field(kw_only=True)

    def initial(self, seed: int) -> Tensor:
        """The full model before training as a flat float32 vector: what the function draws at that seed."""
        with _seeded(seed):
            return to_vector(self.make(1.0))

    def check(self) -> None:
        """Nothing: the spec is what the function built."""

    def certify(self, rule: str, own: IndexPlan, inputs: Tensor) -> None:
        """ValueError unless `own`, a submodel by `rule`, is certain to be cut as its function means it."""
        if own.is_full:
            return
        vector = _drawn(self.spec)
        mask = torch.zeros_like(vector)
        own.scatter_add(mask, 1.0)
        outputs = []
        for units, part in ((own.units, own.gather(vector)), (self.spec.units, vector * mask)):
            module = _past_norms(self.build(units)).eval()
            load_vector(module, part)
            with torch.no_grad(), _layer_by_layer():
                outputs.append(module(inputs).float())
        narrow, wide = outputs
        if not float((narrow - wide).abs().max()) <= 1e-3 * float(wide.abs().max()):
            raise ValueError(
                f"cut by width-rule {rule!r}, the narrow network does not compute what the wide one does with its "
                "other units at zero, so the cut is not certain. Layers that are concatenated, heads that change their "
                f"size, and factors that depend on the width do this: {DECLARE}"
            )


DECLARE = (
    "let the function give fl_mlmc.models.Model(build, WidthSpec.of(module, units, axes)), which says what every axis "
    "follows (docs/own.md), or take tiers of width 1"
)


def plain_model(net: Net, num_classes: int, takes_width: bool) -> PlainModel:
    """The model of a function; ValueError where its tensors do not shrink as one cut of them would."""
    return _Finding(net, num_classes, takes_width, _shapes(skeleton(lambda _: net(1.0, num_classes), {}))).model()


@dataclass(frozen=True, eq=False)
class _Axis:
    """An axis that shrinks: its tensor, its place there, and its length per unit of its hidden dimension."""

    tensor: str
    place: int
    outer: int = 1
    inner: int = 1

    def __str__(self) -> str:
        return f"axis {self.place} of tensor {self.tensor!r}"

    @property
    def factor(self) -> int:
        return self.outer * self.inner


_Lengths = tuple[int, ...]
"""Of an axis at widths 1 and `PROBES`."""


@dataclass(frozen=True, eq=False)
class _Finding:
    """What is found out of a function by building it; `known` keeps the units of widths that were built."""

    net: Net
    num_classes: int
    takes_width: bool
    full: Mapping[str, tuple[int, ...]]
    known: dict[float, dict[str, int]] = field(default_factory=dict)

    def model(self) -> PlainModel:
        skeletal = self._skeleton(1.0)
        spec = self._spec(skeletal)

        def build(units: Mapping[str, int]) -> nn.Module:
            with _seeded(0):  # what does not train is no part of the vector, and the same everywhere
                return self.net(self._width_of(units, spec), self.num_classes)

        return PlainModel(build, spec, make=lambda width: self.net(width, self.num_classes))

    def _skeleton(self, width: float, num_classes: int = 0) -> nn.Module:
        return skeleton(lambda _: self.net(width, num_classes or self.num_classes), {})

    def _spec(self, module: nn.Module) -> WidthSpec:
        modules = [module, *(self._skeleton(width) for width in PROBES if self.takes_width)]
        thinned = _thinned_groups(modules)
        groups = _joined(self._shrinking(modules))
        named: dict[str, list[_Axis]] = {}
        units: dict[str, int] = {}
        for lengths, members in groups.items():
            times = thinned.get(lengths, 1)
            named[str(members[0])] = [replace(axis, outer=axis.outer * times) for axis in members]
            units[str(members[0])] = lengths[0] // times
        axes: dict[str, list[Axis | None]] = {name: [None] * len(shape) for name, shape in self.full.items()}
        for dimension, members in named.items():
            for axis in members:
                axes[axis.tensor][axis.place] = Axis(dimension, axis.outer, axis.inner)
        for name, place in self._class_axes():
            if axes[name][place] is not None:
                raise ValueError(f"axis {place} of tensor {name!r} follows the classes and shrinks too: {DECLARE}")
            axes[name][place], units[CLASSES] = Axis(CLASSES), self.num_classes
        self.known[1.0] = units
        dropped = frozen(module)

        def counts(width: float) -> Mapping[str, int]:
            if width not in self.known:
                self.known[width] = self._counted(width, module, named, units, dropped)
            return self.known[width]

        return WidthSpec(units, self.full, {name: tuple(row) for name, row in axes.items()}, counts=counts)

    def _shrinking(self, modules: list[nn.Module]) -> dict[_Lengths, list[_Axis]]:
        """The axes that shrink, by how many units they have at each width."""
        shapes = [self._checked(module, width) for module, width in zip(modules, (1.0, *PROBES), strict=False)]
        times = repeated(modules[0])
        groups: dict[_Lengths, list[_Axis]] = {}
        for name, shape in self.full.items():
            for place in range(len(shape)):
                lengths = tuple(each[name][place] for each in shapes)
                if len(set(lengths)) == 1:
                    continue
                axis = _Axis(name, place, outer=times.get(name, 1) if place == 0 else 1)
                if any(length % axis.outer for length in lengths) or list(lengths) != sorted(lengths, reverse=True):
                    raise ValueError(
                        f"{axis} has the lengths {lengths} at widths {(1, *PROBES)}: they must fall with the width, by "
                        f"whole units of {axis.outer}"
                    )
                groups.setdefault(tuple(length // axis.outer for length in lengths), []).append(axis)
        return groups

    def _class_axes(self) -> Iterator[tuple[str, int]]:
        """The axes that have one more row where there is one more class."""
        more = _shapes(self._skeleton(1.0, self.num_classes + 1))
        for name, shape in self.full.items():
            for place, length in enumerate(shape):
                if length == self.num_classes and more.get(name, shape)[place] == length + 1:
                    yield name, place

    def _checked(self, module: nn.Module, width: float) -> Mapping[str, tuple[int, ...]]:
        """The shapes of what was built at a width; ValueError unless its tensors are those of the full model."""
        shapes = _shapes(module)
        odd = set(shapes) ^ set(self.full)
        odd |= {name for name in set(shapes) & set(self.full) if len(shapes[name]) != len(self.full[name])}
        if odd or list(shapes) != list(self.full):
            raise ValueError(
                f"at width {width:g} it has not the tensors of width 1 ({', '.join(sorted(odd)) or 'another order'}): "
                "a width makes them narrower, and nothing else"
            )
        return shapes

    def _counted(
        self,
        width: float,
        full: nn.Module,
        named: Mapping[str, list[_Axis]],
        units: Mapping[str, int],
        dropped: list[str],
    ) -> dict[str, int]:
        if not self.takes_width:
            raise ValueError(
                f"it takes no width, and a tier has width {width:g}: give the function a parameter `width=1.0`, or "
                "take tiers of width 1"
            )
        if dropped:
            raise ValueError(
                f"{dropped[0]} does not train, and a narrower network has other values there: with layers that do not "
                "train (requires_grad=False), take tiers of width 1"
            )
        module = self._skeleton(width)
        shapes, counts = self._checked(module, width), dict(units)
        _thinned_groups([full, module])
        for dimension, members in named.items():
            first = members[0]
            counts[dimension] = shapes[first.tensor][first.place] // first.factor
            for axis in members:
                if shapes[axis.tensor][axis.place] != axis.factor * counts[dimension]:
                    raise ValueError(
                        f"{first} and {axis} shrink alike at widths {(1, *PROBES)} and not at {width:g}: round both "
                        f"alike, or {DECLARE}"
                    )
        changed = {name for name, shape in shapes.items() if any(self._is_odd(name, shape, named))}
        if changed:
            raise ValueError(f"tensor {min(changed)!r} shrinks at width {width:g} and not at {PROBES}: {DECLARE}")
        return counts

    def _is_odd(self, name: str, shape: tuple[int, ...], named: Mapping[str, list[_Axis]]) -> Iterator[bool]:
        following = {(axis.tensor, axis.place) for members in named.values() for axis in members}
        for place, (length, whole) in enumerate(zip(shape, self.full[name], strict=True)):
            yield length != whole and (name, place) not in following

    def _width_of(self, units: Mapping[str, int], spec: WidthSpec) -> float:
        """The width at which the function gives so many units: one of a plan, or what their share says."""
        shares = (count / spec.units[name] for name, count in units.items() if name != CLASSES)
        for width in (*self.known, *shares):
            if 0 < width <= 1 and dict(spec.kept(width)) == dict(units):
                return width
        raise ValueError(f"no width gives so many units: {dict(units)}")


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in vector_tensors(module).items()}


def _joined(groups: Mapping[_Lengths, list[_Axis]]) -> dict[_Lengths, list[_Axis]]:
    """The same with axes that no tensor has for outputs joined to the units that they are a flattening of.

    Channels of (channels, height, width), flattened, are as many axes of a linear layer's inputs as they have pixels.
    """
    joined: dict[_Lengths, list[_Axis]] = {}
    for lengths, members in groups.items():
        first = members[0]
        earlier = [] if any(axis.place == 0 for axis in members) else list(joined)
        before = [units for units in earlier if _times(lengths, units) and joined[units][0].tensor != first.tensor]
        if before:
            times = _times(lengths, before[-1])
            joined[before[-1]] += [replace(axis, inner=times) for axis in members]
        else:
            joined[lengths] = members
    return joined


def _times(lengths: _Lengths, units: _Lengths) -> int:
    """How many times longer an axis is than another at every width; 0 if it is not, or no longer."""
    times = lengths[0] // units[0]
    return times if times > 1 and all(a == times * b for a, b in zip(lengths, units, strict=True)) else 0


def _thinned_groups(modules: list[nn.Module]) -> dict[_Lengths, int]:
    """Of channels under a group norm that keeps the number of its groups, that number, by the channels at each width.

    A norm that keeps its groups' size has fewer of them, the first ones. ValueError that names one that does neither.
    """
    found: dict[_Lengths, int] = {}
    for name, norm in modules[0].named_modules():
        if not isinstance(norm, nn.GroupNorm):
            continue
        same = [cast(nn.GroupNorm, module.get_submodule(name)) for module in modules]
        channels, groups = tuple(each.num_channels for each in same), [each.num_groups for each in same]
        if len(set(groups)) == 1:
            found[channels] = math.lcm(found.get(channels, 1), groups[0])
        elif len({of / number for of, number in zip(channels, groups, strict=True)}) > 1:
            raise ValueError(
                f"group norm {name!r} has {groups} groups of {channels} channels in narrower networks: keep the number "
                f"of groups, or their size; or {DECLARE}"
            )
    return found


def _drawn(spec: WidthSpec) -> Tensor:
    """Values for every tensor by which a mistaken cut shows: none is zero, and none so small that it is lost."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for name, shape in spec.shapes.items():
        part = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            part = 0.5 + part.abs()
        elif len(shape) > 1:
            part = part * math.sqrt(2 / math.prod(shape[1:]))
        parts.append(part.reshape(-1))
    return torch.cat(parts)


def _past_norms(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, OVER_UNITS):
            layer.forward = lambda inputs: inputs  # type: ignore[method-assign]
    return module


@contextmanager
def _layer_by_layer() -> Iterator[None]:
    """Keep torch from computing a transformer's layer in one call, which would pass by what norms were made into."""
    is_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_on)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
