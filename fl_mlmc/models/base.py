"""What a model is to us: a builder at a width, and the spec that says how its tensors are cut."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..submodels.width_spec import CLASSES, DEPTH, WidthSpec, vector_tensors

Build = Callable[[Mapping[str, int]], nn.Module]
"""Makes a module with so many units in each hidden dimension."""


def skeleton(build: Build, units: Mapping[str, int]) -> nn.Module:
    """The module with shapes and no values: nothing is allocated and no random number drawn."""
    with torch.device("meta"):
        return build(units)


@dataclass(frozen=True, eq=False)
class Model:
    """A family of modules that differ in width only.

    `build(units)` makes the module with that many units in each hidden dimension; `spec` describes the full one.
    Inputs are float32 of shape (batch, *input_shape), outputs logits of shape (batch, num_classes). Token numbers
    may come as float32 or as integers. `pretrained`, where given, reads tensors that replace freshly drawn ones.
    """

    build: Build
    spec: WidthSpec
    pretrained: Callable[[], Mapping[str, Tensor]] | None = None

    def initial(self, seed: int) -> Tensor:
        """The full model before training as a flat float32 vector, a function of the seed and of `pretrained`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.build(self.spec.units)
        if self.pretrained is not None:
            module.load_state_dict(self.pretrained(), strict=False)
        return to_vector(module)

    def check(self) -> None:
        """ValueError that names the tensor and axis where a built submodel is not what the spec says.

        Every hidden dimension is cut by another number of units, so that mistaken ones show.
        """
        units = {
            name: count if name in (CLASSES, DEPTH) else max(1, count - number)
            for number, (name, count) in enumerate(self.spec.units.items(), start=1)
        }
        module = skeleton(self.build, units)
        seen = {name: tuple(tensor.shape) for name, tensor in vector_tensors(module).items()}
        expected = self.spec.cut(units).shapes
        if list(seen) != list(expected):
            odd = sorted(set(seen) ^ set(expected)) or ["the same tensors in another order"]
            raise ValueError(f"a submodel and the width spec must have the same tensors; only one has {', '.join(odd)}")
        for name, shape in expected.items():
            for axis, (length, wanted) in enumerate(zip(seen[name], shape, strict=True)):
                if length != wanted:
                    raise ValueError(
                        f"axis {axis} of tensor {name!r} is {length} long in a submodel of {units}, by the width spec "
                        f"({self.spec.axes[name][axis] or 'never cut'}) it should be {wanted}; mend the spec or build"
                    )


def to_vector(module: nn.Module) -> Tensor:
    """The floating-point state of a module as one flat float32 vector, in `state_dict` order."""
    return torch.cat([tensor.detach().reshape(-1).float() for tensor in vector_tensors(module).values()])


def load_vector(module: nn.Module, vector: Tensor) -> None:
    """Set the floating-point state of a module from its flat vector; ValueError if it has another length."""
    tensors = vector_tensors(module)
    expected = sum(tensor.numel() for tensor in tensors.values())
    if vector.numel() != expected:
        raise ValueError(f"the module has {expected} parameters, the vector {vector.numel()}")
    parts = vector.split([tensor.numel() for tensor in tensors.values()])
    with torch.no_grad():
        for (name, tensor), part in zip(tensors.items(), parts, strict=True):
            tensor.copy_(part.view_as(tensor))
            if name.endswith("running_var"):
                # A mean of compressed updates may take a variance below zero; the root of it would be NaN.
                tensor.clamp_(min=0.0)


def gradient_vector(module: nn.Module) -> Tensor:
    """The gradients of a module's parameters as one flat float32 vector, in the order of `to_vector`.

    ValueError if the module's state holds more than parameters.
    """
    need_parameters_only(module)
    grads = (torch.zeros_like(part) if part.grad is None else part.grad for part in module.parameters())
    by_name = dict(zip((name for name, _ in module.named_parameters()), grads, strict=True))
    return torch.cat([by_name[name].reshape(-1).float() for name in vector_tensors(module)])


def need_parameters_only(module: nn.Module) -> None:
    """ValueError if the module's state holds more than parameters: gradients do not carry statistics."""
    if statistics := vector_tensors(module).keys() - dict(module.named_parameters()).keys():
        raise ValueError(
            f"the model keeps statistics that gradients do not carry ({min(statistics)}): take norm='static' or 'group'"
        )
